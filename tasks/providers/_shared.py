"""What adapters do alike: read an answer, quote it safely, tell a refusal from a doubt."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import httpx

from manifests.catalogue import Route
from manifests.jobs import Job
from tasks.verdicts import (
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    ProviderError,
    RejectedError,
    ThrottledError,
)

KEPT_DAYS: Final = 7
"""How long providers are asked to keep a clip: what WaveSpeed gives without asking."""

LONGEST_QUOTE: Final = 500

# Every store signs its links in the query; JSON within JSON escapes a slash repeatedly.
_QUERY: Final = re.compile(r"""(https?:[\\/]{2,}[^\s"'<>?]*)\?[^\s"'<>]*""")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_UNAUTHORIZED: Final = 401

Step = Literal["submit", "upload", "ask"]
"""The request that costs, one that hands over a still, or any other free one."""


def read(response: httpx.Response) -> Any:
    """The answer's JSON, or its text where it is none."""
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
        ) if text:
            return text
        case _:
            return said


def quote(said: Any, key: str) -> str:
    """A provider's words, fit to be kept: a short line without the key or a signature."""
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    text = " ".join(text.split())
    if secret := key.rpartition(":")[2]:
        text = text.replace(secret, "***")
    return _QUERY.sub(r"\1?***", text)[:LONGEST_QUOTE]


def ended(task: Mapping[str, Any], key: str) -> str:
    """How a task that made nothing ended: its status, and what is said of it."""
    status, error = task["status"], task.get("error")
    return f"{status}: {quote(error, key)}" if error else str(status)


def retry_after(response: httpx.Response) -> float | None:
    """The seconds that an answer asks us to wait, if it says so in seconds."""
    said = response.headers.get("retry-after", "").strip()
    return float(said) if _SECONDS.fullmatch(said) else None


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
class Refusals:
    """What a provider documents as a refusal; nothing else proves a submit innocent."""

    provider: str
    mark: str
    """The key that its own refusals carry and a proxy's do not."""
    uploads: str
    """How the path of its uploads ends; every other POST costs."""
    fixes: Mapping[int, str]
    """Nothing will be accepted until somebody does this."""
    bad_input: frozenset[int]
    """This still or prompt will not be accepted, here or elsewhere."""

    def step(self, request: httpx.Request) -> Step:
        if request.method != "POST":
            return "ask"
        return "upload" if request.url.path.endswith(self.uploads) else "submit"

    def verdict(
        self, response: httpx.Response, said: Any, *, code: int, key: str
    ) -> ProviderError:
        """What an answer that is not a success means.

        `code` is the HTTP status, or what the provider says in its place.
        """
        step = self.step(response.request)
        text = f"{self.provider}: HTTP {response.status_code}"
        if code != _UNAUTHORIZED:  # which may repeat the token it was sent
            text = f"{text}: {quote(words(said), key)}"
        its_own = isinstance(said, dict) and self.mark in said
        match code:
            case 404 if step != "submit":
                return NotFoundError(text)
            case 429 if its_own or step != "submit":
                return ThrottledError(text, retry_after(response))
            case _ if its_own and code in self.fixes:
                return MisconfiguredError(f"{text}: {self.fixes[code]}")
            case 413 if its_own and step == "upload":
                return RejectedError(text)
            case _ if its_own and step == "submit" and code in self.bad_input:
                return RejectedError(text)
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
