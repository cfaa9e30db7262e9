"""Tables of the answers with which a provider refuses a request, and the error of each.

The same table judges an answer and is printed in docs/reference/providers.md.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import httpx

from manifests.lifecycle import Lost
from tasks.providers.errors import (
    CappedError,
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    NotSentError,
    ProviderError,
    RejectedError,
    ThrottledError,
    UploadRefusedError,
)
from tasks.providers.parsing import (
    error_text,
    first_words,
    is_page,
    redact,
    retry_after,
)

_UNAUTHORIZED: Final = 401
_TOO_LARGE: Final = 413
_SERVER: Final = 500
_GATEWAYS: Final = frozenset({502, 503})
_ROUTERS: Final = frozenset({"Not Found", "Method Not Allowed"})
"""The answers of FastAPI and Starlette to a path or method that they do not have."""

Step = Literal["submit", "upload", "ask"]
"""The request that costs money, an upload of a still, or any other free request."""

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
"""The reason of a refusal, in the same words for every provider."""

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
"""Nightreel's reaction to each; the last three kinds cover every other answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One kind of refusal, and the provider's own answers that mean it."""

    kind: RefusalKind
    codes: frozenset[int]
    """HTTP statuses, or the provider's own codes."""
    says: re.Pattern[str] | None
    """Text that the answer's body must contain as well."""
    submit_only: bool
    """Whether the row applies only to the answer to a submit."""
    fix: str
    """The action that a person must take before the provider accepts a submit."""

    def fits(self, code: int, text: str, step: Step) -> bool:
        if code not in self.codes or (self.submit_only and step != "submit"):
            return False
        return self.says is None or self.says.search(text) is not None

    def __str__(self) -> str:
        """Return the codes as docs/reference/providers.md prints them."""
        codes = ", ".join(map(str, sorted(self.codes, key=abs)))
        return f"{codes} saying “{_plain(self.says)}”" if self.says else codes


def refusal(
    kind: RefusalKind,
    *codes: int,
    says: re.Pattern[str] | None = None,
    submit_only: bool = False,
    fix: str = "",
) -> Refusal:
    """Return a row of a provider's table of refusals."""
    return Refusal(
        kind=kind, codes=frozenset(codes), says=says, submit_only=submit_only, fix=fix
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """A provider's documented refusals; no other answer proves that a submit was refused."""

    provider: str
    mark: str
    """The JSON field of the provider's own refusals, which a proxy's answers lack."""
    uploads: str = ""
    """The end of an upload's path. Any other POST costs money, unless `asks` lists it."""
    asks: tuple[str, ...] = ()
    """The ends of the paths of POSTs that are free."""
    table: tuple[Refusal, ...]
    """The first row that fits an answer says what it means."""
    self_hosted: bool = False
    """Whether it is an engine on own GPUs, whose version may lack a path that is asked."""

    def step(self, request: httpx.Request) -> Step:
        path = request.url.path
        if request.method != "POST" or path.endswith(self.asks):
            return "ask"
        uploads = bool(self.uploads) and path.endswith(self.uploads)
        return "upload" if uploads else "submit"

    def is_own(self, body: Any) -> bool:
        """Whether the answer is the provider's, and not a proxy's."""
        return isinstance(body, dict) and self.mark in body

    def verdict(
        self, response: httpx.Response, body: Any, *, code: int, key: str
    ) -> ProviderError:
        """Return the error that an unsuccessful answer means.

        `code` is the HTTP status, or the provider's own code instead of it.
        """
        step, status = self.step(response.request), response.status_code
        text = f"{self.provider}: HTTP {status}"
        # The answer may repeat a refused key.
        if _UNAUTHORIZED not in {status, code}:
            text = f"{text}: {redact(error_text(body), key)}"
        is_own = self.is_own(body)
        wait_s = retry_after(response)
        if step != "submit" and self.is_routers(body):
            return self.not_own(response, body, key=key)
        if is_own and (row := self._row(code, body, step)):
            return self._error(row, text, wait_s, step=step, code=code)
        match code:
            case 404 if step != "submit" and (is_own or not self.self_hosted):
                return NotFoundError(text)
            case 429 if step != "submit":
                return ThrottledError(text, wait_s)
            case _ if status >= _SERVER and is_page(body):
                return self.not_own(response, body, key=key)
            case _ if not is_own and status in _GATEWAYS:
                return InDoubtError(text, "gateway")
            case _ if step == "upload" and is_own and _is_final(status):
                return UploadRefusedError(text)
            case _ if not is_own and 300 <= status < 500:
                return self.not_own(response, body, key=key)
            case _:
                return InDoubtError(text)

    def not_own(self, response: httpx.Response, body: Any, *, key: str) -> InDoubtError:
        step = self.step(response.request)
        return not_own(self.provider, response, body, step=step, key=key)

    def is_routers(self, body: Any) -> bool:
        """Whether an engine's web framework answered, because it lacks the path."""
        match body:
            case {"detail": str(text)} if self.self_hosted:
                return text in _ROUTERS
            case _:
                return False

    def of_store(self, response: httpx.Response) -> ProviderError | None:
        """Judge the answer of the store that holds uploads; it concerns the upload alone.

        Its refusals contain signatures, so they are not quoted.
        """
        if response.is_success:
            return None
        status = response.status_code
        text = f"{self.provider}: HTTP {status} from its upload store"
        return UploadRefusedError(text) if _is_final(status) else InDoubtError(text)

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
                # A refused poll proves nothing about the job; a refused upload only proves
                # that the still is too large.
                final = step == "submit" or (step == "upload" and code == _TOO_LARGE)
                if final:
                    return RejectedError(text)
                return (
                    UploadRefusedError(text) if step == "upload" else InDoubtError(text)
                )
            case "throttled":
                # A provider with a single code for both limits may mean either.
                distinct = any(other.kind == "concurrency" for other in self.table)
                return ThrottledError(text, wait_s, "rate" if distinct else None)
            case "concurrency":
                return ThrottledError(text, wait_s, "slots")
            case "daily cap":
                return CappedError(text)
            case "away":
                return NotSentError(text)


def _is_final(status: int) -> bool:
    """Whether an answer to an upload is a refusal that a repetition seldom changes."""
    return 400 <= status < 500 and status not in {408, 425, 429}


def not_own(
    provider: str, response: httpx.Response, body: Any, *, step: Step, key: str
) -> InDoubtError:
    """Return the error for an answer of a proxy, a firewall or a login page.

    It says the status, the address of a redirect, the first words and the cure.
    """
    status = response.status_code
    place = redact(response.headers.get("location", ""), key)
    parts = [
        f"{provider}: HTTP {status}, not the provider's own answer",
        f"it leads to {place}" if place else "",
        redact(first_words(body), key),
        _cure(status, step),
    ]
    text = ": ".join(filter(None, parts))
    lost: Lost = "gateway" if status in _GATEWAYS else "unclear"
    # A gateway that cannot reach the provider changes between 502, 503 and 504.
    alike = "5xx" if status >= _SERVER else status
    return InDoubtError(text, lost, shape=f"{alike} {place}")


def _cure(status: int, step: Step) -> str:
    """Return the action that may help, by the HTTP status."""
    match status:
        case 404 | 405 if step != "submit":
            return "it may lack this path: check the lane's base_url, and its version"
        case 404 | 405:
            return "check the lane's base_url"
        case 401 | 407:
            return "a login is in front of it: set base_url to the address behind it"
        case 403 | 429:
            return (
                "a firewall refuses this machine: set the lane's user_agent, or fewer "
                "submits_per_minute"
            )
        case _ if status >= _SERVER:
            return "what is in front of the provider cannot reach it"
        case _:
            return "set the lane's base_url to the provider's own address"


def _plain(pattern: re.Pattern[str]) -> str:
    """Return a pattern of alternative words as text for people."""
    return pattern.pattern.replace(r"\s+", " ").replace("|", "” or “")
