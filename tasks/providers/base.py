"""What a provider adapter is.

An adapter only translates: it yields requests and is sent responses, so it needs no
client, event loop, clock, retry or mock. `tasks.exchange` does the talking.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import httpx

from manifests.catalogue import Route
from manifests.jobs import Job
from manifests.lifecycle import Discarded, Refused, Rejected, Ticket
from storage.stills import Still
from tasks.verdicts import ProviderError

T = TypeVar("T")

Exchange = Generator[httpx.Request, httpx.Response, T]
"""Yields requests, is sent the responses that `judge` found good, returns its result."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The clip is ready: a link that may be signed and will die, so fetch it now."""

    url: str
    seed: int | None = None


Progress = Finished | Refused | Discarded | Rejected | None
"""How an accepted job stands; None means ask again later."""


class UnreadableError(ValueError):
    """A provider said something we have no meaning for; guessing could cost money."""

    def __init__(self, provider: str, said: object) -> None:
        super().__init__(f"{provider}: cannot read {said!r}")


class Provider(Protocol):
    """Someone who can animate a still."""

    def __init__(self, route: Route, key: str) -> None: ...

    @property
    def name(self) -> str: ...

    @property
    def hosts(self) -> frozenset[str]:
        """Every host it sends requests of its own to, keys included."""
        ...

    def upload(self, still: Still) -> Exchange[str]:
        """Hand over a still; its URL for `submit`. Free, and safe to repeat."""
        ...

    def submit(self, job: Job, image_url: str, seed: int) -> Exchange[Ticket]:
        """Ask for the clip. Exactly one request: this is the one that costs."""
        ...

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        """Ask how it is going. Free, and safe to repeat.

        Raises:
            UnreadableError: a status word with no meaning here.
        """
        ...

    def cancel(self, ticket: Ticket) -> Exchange[None]:
        """Ask to stop. Free, and safe to repeat."""
        ...

    def judge(self, response: httpx.Response) -> ProviderError | None:
        """What an answer means by (method, status, body); None when it is good."""
        ...
