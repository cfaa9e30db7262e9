"""What adapters do alike: read an answer, quote it safely, tell a refusal from a doubt.

How a provider words its refusals and failures is data, so that the same table judges an
answer and is printed in the documentation.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, cast

import httpx
import orjson

from manifests.catalogue.routes import Route
from manifests.jobs import Job, Resolution
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

KEPT_DAYS: Final = 7
"""How long providers are asked to keep a clip: what WaveSpeed gives without asking."""

LONGEST_QUOTE: Final = 500

# Every store signs its links in the query; JSON within JSON escapes a slash repeatedly.
_QUERY: Final = re.compile(r"""(https?:[\\/]{2,}[^\s"'<>?]*)\?[^\s"'<>]*""")
# A JSON Web Token: it opens what the key opens, for as long as it is good.
_TOKEN: Final = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_UNAUTHORIZED: Final = 401
_TOO_LARGE: Final = 413
_GATEWAYS: Final = frozenset({502, 503})

Step = Literal["submit", "upload", "ask"]
"""The request that costs, one that hands over a still, or any other free one."""

Word = Literal[
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
"""Why a provider says no, in no provider's words."""

DOES: Final[Mapping[str, str]] = {
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


CLOCKS_DIFFER_S: Final = 900.0
"""How far the clock of whoever submitted may be out: stores whose requests are signed refuse
what is more (S3's RequestTimeTooSkewed, docs, read 2026-11)."""


def ahead_s(response: httpx.Response, now: float) -> float:
    """How far our clock is ahead of the provider's, by an answer's date; 0 if it has none."""
    try:
        theirs = parsedate_to_datetime(response.headers.get("date", ""))
    except ValueError:
        return 0.0
    return now - theirs.replace(tzinfo=theirs.tzinfo or UTC).timestamp()


def read(response: httpx.Response) -> Any:
    """The answer's JSON, or its text where it is none."""
    try:
        return orjson.loads(response.content)
    except ValueError:
        # Of the rare kinds: half an emoji, NaN, another encoding.
        try:
            return response.json()
        except (ValueError, RecursionError):
            return response.text


def words(said: Any) -> Any:
    """The sentence in an answer, wherever the provider puts it, or else all of it."""
    match said:
        case {"detail": [{"type": str(kind), "msg": str(text)}, *_]}:
            return f"{kind}: {text}"
        case (
            {"detail": str(text)}
            | {"message": str(text)}
            | {"msg": str(text)}
            | {"error": str(text)}
            | {"error": {"message": str(text)}}
        ) if text:
            return text
        case _:
            return said


def quote(said: Any, key: str) -> str:
    """A provider's words, fit to be kept: a short line without the key or a signature."""
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    # Half an emoji, where a message was cut, is no text that could be put on record.
    text = " ".join(text.split()).encode("utf-8", "replace").decode()
    if secret := key.rpartition(":")[2]:
        text = text.replace(secret, "***")
    return _TOKEN.sub("***", _QUERY.sub(r"\1?***", text))[:LONGEST_QUOTE]


def ended(task: Mapping[str, Any], key: str) -> str:
    """How a task that made nothing ended: its status, and what is said of it."""
    status, error = task["status"], task.get("error")
    return f"{status}: {quote(error, key)}" if error else str(status)


def retry_after(response: httpx.Response) -> float | None:
    """The seconds that an answer asks us to wait, if it says so in seconds."""
    said = response.headers.get("retry-after", "").strip()
    return float(said) if _SECONDS.fullmatch(said) else None


def digest(what: object) -> str:
    """What a request can be told by again: 32 hex digits of its JSON, in any order."""
    said = json.dumps(what, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def money(said: object) -> Decimal | None:
    """An amount as providers write one: a number, or a number in a string."""
    # 0.1 + 0.2 is what some of them send for 0.3.
    text = f"{said:.10g}" if isinstance(said, float) else str(said)
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return None
    return amount if amount.is_finite() else None


EXAMPLE: Final = "https://example.com/still.jpg"


def example(resolution: str, seconds: int) -> Job:
    """A clip to ask the price of."""
    size = cast("Resolution", resolution)
    return Job(image=EXAMPLE, prompt="slow pan", resolution=size, duration_s=seconds)


def has_model(route: Route, said: Any, key: str) -> bool | None:
    """Whether all models that a route names are listed in an envelope's `data`."""
    match said:
        case {"data": [_, *_] as models}:
            return {*route.endpoints.values()} <= {_fact(each, key) for each in models}
        case _:
            return None


def _fact(model: Any, key: str) -> str | None:
    match model:
        case {**facts} if isinstance(facts.get(key), str):
            return facts[key]
        case _:
            return None


def options(route: Route, job: Job) -> dict[str, object]:
    """The part of a request that only some routes take."""
    asked: dict[str, object] = {}
    if job.negative_prompt and route.takes_negative_prompt:
        asked["negative_prompt"] = job.negative_prompt
    if len(route.aspect_ratios) > 1:
        asked["aspect_ratio"] = job.aspect_ratio
    return asked


def names_task(response: httpx.Response, said: Any) -> bool:
    """Whether there is a task in it to read, whatever the status it came with.

    A submit's needs an id, which can then be polled; a poll's needs a status.
    """
    polls = response.request.method == "GET"
    match said:
        case {"data": {**task}}:
            return bool(task.get("status" if polls else "id"))
        case {"status": str()}:
            return polls and response.is_success
        case _:
            return False


def code_of(response: httpx.Response, said: Any) -> int:
    """The HTTP status, or the envelope's own where HTTP says that all is well."""
    match said:
        case {"code": int(code)} if response.is_success and code != 0:
            return code
        case _:
            return response.status_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """What a provider's own answer carries when it says no in this way."""

    word: Word
    codes: frozenset[int]
    """HTTP statuses, or the provider's own codes."""
    says: re.Pattern[str] | None = None
    """What must be said besides; it is looked for anywhere in the words."""
    submits: bool = False
    """Whether it means this only in answer to a submit."""
    fix: str = ""
    """What somebody has to do before anything is accepted."""

    def fits(self, code: int, text: str, step: Step) -> bool:
        if code not in self.codes or (self.submits and step != "submit"):
            return False
        return self.says is None or self.says.search(text) is not None

    def __str__(self) -> str:
        """As the documentation has it."""
        codes = ", ".join(map(str, sorted(self.codes, key=abs)))
        return f"{codes} saying “{_plain(self.says)}”" if self.says else codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """What a provider documents as a refusal; nothing else proves a submit innocent."""

    provider: str
    mark: str
    """The key that its own refusals carry and a proxy's do not."""
    uploads: str
    """How the path of its uploads ends, "" where it has none; every other POST costs."""
    signs: tuple[Sign, ...]
    """In this order: the first that fits says what it means."""
    asks: tuple[str, ...] = ()
    """How the paths of POSTs end that only ask."""

    def step(self, request: httpx.Request) -> Step:
        path = request.url.path
        if request.method != "POST" or path.endswith(self.asks):
            return "ask"
        uploads = bool(self.uploads) and path.endswith(self.uploads)
        return "upload" if uploads else "submit"

    def verdict(
        self, response: httpx.Response, said: Any, *, code: int, key: str
    ) -> ProviderError:
        """What an answer that is not a success means.

        `code` is the HTTP status, or what the provider says in its place.
        """
        step, status = self.step(response.request), response.status_code
        text = f"{self.provider}: HTTP {status}"
        if _UNAUTHORIZED not in {
            status,
            code,
        }:  # which may repeat the token it was sent
            text = f"{text}: {quote(words(said), key)}"
        its_own = isinstance(said, dict) and self.mark in said
        wait_s = retry_after(response)
        if its_own and (sign := self._sign(code, said, step)):
            return self._refusal(sign, text, wait_s, step=step, code=code)
        match code:
            case 404 if step != "submit":
                return NotFoundError(text)
            case 429 if step != "submit":
                return ThrottledError(text, wait_s)
            case _ if not its_own and status in _GATEWAYS:
                return InDoubtError(text, "gateway")
            case _:
                return InDoubtError(text)

    def of_store(self, response: httpx.Response) -> ProviderError | None:
        """What the store behind an upload's signed URL says, which binds nobody else.

        Its refusals spell out signatures, so they are not quoted.
        """
        if response.is_success:
            return None
        said = f"{self.provider}: HTTP {response.status_code} from its upload store"
        return InDoubtError(said)

    def _sign(self, code: int, said: Any, step: Step) -> Sign | None:
        text = json.dumps(said, ensure_ascii=False)
        return next((s for s in self.signs if s.fits(code, text, step)), None)

    def _refusal(
        self, sign: Sign, text: str, wait_s: float | None, *, step: Step, code: int
    ) -> ProviderError:
        match sign.word:
            case "auth" | "credit" | "permission":
                said = f"{text}: {sign.fix}" if sign.fix else text
                return MisconfiguredError(said, sign.word)
            case "invalid" | "content":
                # Of a poll it says nothing of the job; of a still, only that it is too
                # large.
                final = step == "submit" or (step == "upload" and code == _TOO_LARGE)
                return RejectedError(text) if final else InDoubtError(text)
            case "throttled":
                # Who has one word for both limits may mean either.
                tells = any(other.word == "concurrency" for other in self.signs)
                return ThrottledError(text, wait_s, "rate" if tells else None)
            case "concurrency":
                return ThrottledError(text, wait_s, "slots")
            case "daily cap":
                return CappedError(text)
            case "away":
                return NotSentError(text)


Failed = Literal["content", "invalid", "server", "stopped"]
"""Why an accepted job came to nothing: the row's fault in the first two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How a provider says that an accepted job came to nothing, and who pays for it."""

    why: Failed
    told: str
    """By what it is told, in words."""
    when: Callable[[Mapping[str, Any]], bool]
    """Whether a task that has ended is such a one."""
    charged: bool | None
    """None where nobody says: it counts as charged until it is settled."""
    source: str
    """Who says whether it is charged, and when it was read."""
    final: bool = True
    """Of the row's own fault: whether no other attempt can do better."""

    def outcome(self, reason: str) -> Refused | Discarded | Rejected:
        charged = self.charged is not False
        if self.why in {"content", "invalid"} and self.final:
            return Rejected(reason, charged=charged)
        return Discarded(reason) if charged else Refused(reason)


def failure(
    failures: tuple[Failure, ...], task: Mapping[str, Any], reason: str
) -> Refused | Discarded | Rejected | None:
    """What an ended task means, by the first of a provider's failures that fits it."""
    for each in failures:
        if each.when(task):
            return each.outcome(reason)
    return None


def _plain(pattern: re.Pattern[str]) -> str:
    """A pattern as people read it: our patterns are words with bars between them."""
    return pattern.pattern.replace(r"\s+", " ").replace("|", "” or “")
