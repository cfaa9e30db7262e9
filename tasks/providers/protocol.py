"""What a provider adapter is.

An adapter only translates: it yields requests and is sent responses, so it needs no
client, event loop, clock, retry or mock. `tasks.providers.http` does the talking.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import httpx

from manifests.catalogue.routes import Route
from manifests.jobs import Job
from manifests.lifecycle import Discarded, Refused, Rejected, Ticket
from storage.media.stills import Still
from tasks.providers.errors import ProviderError

T = TypeVar("T")

Exchange = Generator[httpx.Request, httpx.Response, T]
"""Yields requests, is sent the responses that `judge` found good, returns its result."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The clip is ready: a link that may be signed and will die, so fetch it now."""

    url: str
    seed: int | None = None
    usd: Decimal | None = None
    """What it cost, where the provider says so: not always the listed price."""
    stages: Mapping[str, float] = field(default_factory=dict[str, float])
    """The seconds that each stage of making it took, where the engine says so."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The clip was made, and is kept no longer."""

    reason: str


Progress = Finished | Gone | Refused | Discarded | Rejected | None
"""How an accepted job stands; None means ask again later."""


class UnreadableError(ValueError):
    """A provider said something we have no meaning for; guessing could cost money."""

    def __init__(self, provider: str, said: object) -> None:
        super().__init__(f"{provider}: cannot read {said!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountReport:
    """What a provider says of an account and a model; None where it does not say."""

    credit_usd: Decimal | None = None
    slots: int | None = None
    submits_per_minute: int | None = None
    submits_per_day: int | None = None
    prices_usd: Mapping[tuple[str, int], Decimal] = field(
        default_factory=dict[tuple[str, int], Decimal]
    )
    """Of this account, now, by (resolution, seconds), as far as it publishes them."""
    has_model: bool | None = None
    """Whether it still has every model that the route's endpoints name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A submit whose answer never came: all that is on record of it."""

    mark: str
    """As `Findable.mark` made it before the submit."""
    submitted_at: float
    """Unix seconds, by our clock."""
    known: frozenset[str]
    """Remote ids that are on our record already, of other submits."""


@dataclass(frozen=True, slots=True)
class Absent:
    """For certain it was not accepted."""

    reason: str


class Provider(Protocol):
    """Someone who can animate a still."""

    def __init__(self, route: Route, key: str, hook: str = "") -> None:
        """`hook` is where the provider may tell of an end, if it tells at all."""
        ...

    name: ClassVar[str]
    hosts: ClassVar[frozenset[str]]
    """Every host that it sends requests of its own to, keys included."""

    @property
    def key(self) -> str: ...

    def upload(self, still: Still) -> Exchange[str]:
        """Hand over a still; its URL for `submit`. Free, and safe to repeat."""
        ...

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        """Ask for the clip. Exactly one request: this is the one that costs.

        `reference` is ours, and no other submit of ours has it.
        """
        ...

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        """Ask how it is going. Free, and safe to repeat.

        Raises:
            UnreadableError: a status word with no meaning here.
        """
        ...

    def judge(self, response: httpx.Response) -> ProviderError | None:
        """What an answer means by (method, status, body); None when it is good."""
        ...

    def check(self) -> Exchange[AccountReport]:
        """Ask after the account, the model and its prices. Free, and safe to repeat.

        A bad key is told by `judge`: every adapter asks at least one question that
        needs one.
        """
        ...


@runtime_checkable
class Findable(Protocol):
    """A provider that can be asked what became of a submit whose answer never came."""

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        """What the provider's record of this submit can be told by, for our ledger.

        It carries no key, signature or prompt: a digest, or a reference of ours.
        """
        ...

    def find(self, doubt: Doubt) -> Exchange[Ticket | Absent | None]:
        """Ask for it. Free, and safe to repeat.

        A ticket, or Absent, only where it is certain; else None. Not asked before the
        provider has had time to list what it accepted.
        """
        ...


@runtime_checkable
class ClipHost(Protocol):
    """A provider that has its clips on its own machine, behind its own key."""

    def fetch(self, url: str) -> httpx.Request:
        """The request for a clip, by what `Finished` said of where it is."""
        ...


@runtime_checkable
class Billed(Protocol):
    """A provider that says, afterwards, what it charged."""

    def charge(self, ticket: Ticket) -> Exchange[Decimal | None]:
        """What it charged for this, by now, in US dollars; None if it cannot say."""
        ...
