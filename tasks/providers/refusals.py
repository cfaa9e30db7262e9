"""What a provider's refusals and failures mean, as tables.

The tables are data so that the one that judges an answer is also printed in
docs/reference/providers.md.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import httpx

from manifests.lifecycle import Discarded, Refused, Rejected
from tasks.providers.errors import (
    CappedError,
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    NotSentError,
    ProviderError,
    RejectedError,
    ThrottledError,
)
from tasks.providers.parsing import error_text, redact, retry_after

_UNAUTHORIZED: Final = 401
_TOO_LARGE: Final = 413
_GATEWAYS: Final = frozenset({502, 503})

Step = Literal["submit", "upload", "ask"]
"""The request that costs, one that hands over a still, or any other free one."""

RefusalKind = Literal[
    "auth",
    "credit",
    "permission",
    "invalid",
    "content",
    "throttled",
    "concurrency",
    "daily cap",
    "away",
]
"""Why a provider refuses, in no provider's words."""

EFFECTS: Final[Mapping[str, str]] = {
    "auth": "closes the lane",
    "credit": "closes the lane",
    "permission": "closes the lane",
    "invalid": "rejects the row",
    "content": "rejects the row, everywhere",
    "throttled": "waits, and submits less often",
    "concurrency": "waits, and keeps fewer at once",
    "daily cap": "rests the lane for this run",
    "away": "tries again, after growing waits",
    "server": "doubts the submit; asks a poll again",
    "in doubt": "never submits it again by itself",
    "not found": "asks again, until the deadline",
}
"""What Nightreel does about each; the last three are what every other answer means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One kind of refusal, and the provider's own answers that mean it."""

    kind: RefusalKind
    codes: frozenset[int]
    """HTTP statuses, or the provider's own codes."""
    says: re.Pattern[str] | None
    """A text that the answer must contain too, anywhere in its body."""
    submits: bool
    """Whether the codes mean this only in answer to a submit."""
    fix: str
    """What somebody has to do before anything is accepted."""

    def fits(self, code: int, text: str, step: Step) -> bool:
        if code not in self.codes or (self.submits and step != "submit"):
            return False
        return self.says is None or self.says.search(text) is not None

    def __str__(self) -> str:
        """As the documentation has it."""
        codes = ", ".join(map(str, sorted(self.codes, key=abs)))
        return f"{codes} saying “{_plain(self.says)}”" if self.says else codes


def refusal(
    kind: RefusalKind,
    *codes: int,
    says: re.Pattern[str] | None = None,
    submits: bool = False,
    fix: str = "",
) -> Refusal:
    """A row of a provider's table of refusals."""
    return Refusal(
        kind=kind, codes=frozenset(codes), says=says, submits=submits, fix=fix
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """What a provider documents as a refusal; nothing else proves that nothing was bought."""

    provider: str
    mark: str
    """The key that the provider's own refusals carry and a proxy's do not."""
    uploads: str = ""
    """How the path of an upload ends; every other POST costs, unless `asks` names it."""
    asks: tuple[str, ...] = ()
    """How the paths of POSTs end that only ask."""
    table: tuple[Refusal, ...]
    """The first row that fits an answer says what it means."""

    def step(self, request: httpx.Request) -> Step:
        path = request.url.path
        if request.method != "POST" or path.endswith(self.asks):
            return "ask"
        uploads = bool(self.uploads) and path.endswith(self.uploads)
        return "upload" if uploads else "submit"

    def is_own(self, body: Any) -> bool:
        """Whether the provider itself says this, and no proxy in between."""
        return isinstance(body, dict) and self.mark in body

    def verdict(
        self, response: httpx.Response, body: Any, *, code: int, key: str
    ) -> ProviderError:
        """What an answer that is not a success means.

        `code` is the HTTP status, or the provider's own code in its place.
        """
        step, status = self.step(response.request), response.status_code
        text = f"{self.provider}: HTTP {status}"
        # A refused key may be repeated in the answer.
        if _UNAUTHORIZED not in {status, code}:
            text = f"{text}: {redact(error_text(body), key)}"
        is_own = self.is_own(body)
        wait_s = retry_after(response)
        if is_own and (row := self._row(code, body, step)):
            return self._error(row, text, wait_s, step=step, code=code)
        match code:
            case 404 if step != "submit":
                return NotFoundError(text)
            case 429 if step != "submit":
                return ThrottledError(text, wait_s)
            case _ if not is_own and status in _GATEWAYS:
                return InDoubtError(text, "gateway")
            case _:
                return InDoubtError(text)

    def of_store(self, response: httpx.Response) -> ProviderError | None:
        """What the store behind an upload's signed URL says of the upload alone.

        Its refusals spell out signatures, so they are not quoted.
        """
        if response.is_success:
            return None
        text = f"{self.provider}: HTTP {response.status_code} from its upload store"
        return InDoubtError(text)

    def _row(self, code: int, body: Any, step: Step) -> Refusal | None:
        text = json.dumps(body, ensure_ascii=False)
        return next((row for row in self.table if row.fits(code, text, step)), None)

    def _error(
        self, row: Refusal, text: str, wait_s: float | None, *, step: Step, code: int
    ) -> ProviderError:
        match row.kind:
            case "auth" | "credit" | "permission":
                message = f"{text}: {row.fix}" if row.fix else text
                return MisconfiguredError(message, row.kind)
            case "invalid" | "content":
                # Refusing a poll says nothing of the job; refusing a still, only that it
                # is too large.
                final = step == "submit" or (step == "upload" and code == _TOO_LARGE)
                return RejectedError(text) if final else InDoubtError(text)
            case "throttled":
                # A provider with one word for both limits may mean either.
                distinct = any(other.kind == "concurrency" for other in self.table)
                return ThrottledError(text, wait_s, "rate" if distinct else None)
            case "concurrency":
                return ThrottledError(text, wait_s, "slots")
            case "daily cap":
                return CappedError(text)
            case "away":
                return NotSentError(text)


FailureKind = Literal["content", "invalid", "server", "stopped"]
"""Why an accepted job made no clip: the row's fault in the first two."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One way in which an accepted job makes no clip, and who pays for it."""

    kind: FailureKind
    told: str
    """The provider's own sign of it, in words for the documentation."""
    when: Callable[[Mapping[str, Any]], bool]
    """Whether an ended task is of this kind."""
    charged: bool | None
    """None if nobody says: it counts as charged until it is settled."""
    source: str
    """The document that says whether it is charged, and when it was read."""
    final: bool = True
    """For `content` and `invalid`: whether no other attempt can do better."""

    def outcome(self, reason: str) -> Refused | Discarded | Rejected:
        charged = self.charged is not False
        if self.kind in {"content", "invalid"} and self.final:
            return Rejected(reason, charged=charged)
        return Discarded(reason) if charged else Refused(reason)


def failures(
    *rows: tuple[FailureKind, str, Callable[[Mapping[str, Any]], bool]],
    charged: bool | None,
    source: str,
) -> tuple[Failure, ...]:
    """Rows (kind, told, when) of a table that one source says the charge of."""
    return tuple(Failure(*row, charged=charged, source=source) for row in rows)


def always(_: Mapping[str, Any]) -> bool:
    """The condition of a table's last row."""
    return True


def failure(
    table: tuple[Failure, ...], task: Mapping[str, Any], reason: str
) -> Refused | Discarded | Rejected | None:
    """The outcome of an ended task, by the first row of the table that fits it."""
    return next((row.outcome(reason) for row in table if row.when(task)), None)


def _plain(pattern: re.Pattern[str]) -> str:
    """A pattern as people read it: our patterns are words with bars between them."""
    return pattern.pattern.replace(r"\s+", " ").replace("|", "” or “")
