"""The interface of a provider adapter.

An adapter translates and does nothing else: it yields requests and receives responses, so
it needs no client, event loop, clock or retry. `tasks.providers.http` sends the requests.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import httpx

from manifests.catalogue import Route
from manifests.jobs import Job
from manifests.lifecycle import Discarded, Refused, Rejected, Ticket
from storage.media import Still
from tasks.providers.errors import ProviderError

T = TypeVar("T")

Exchange = Generator[httpx.Request, httpx.Response, T]
"""Yields requests, receives the responses that `judge` accepts, and returns a result."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The clip is ready at a link; a signed link expires, so download it at once."""

    url: str
    seed: int | None = None
    usd: Decimal | None = None
    """The charge that the provider reports, which may differ from the listed price."""
    stages: Mapping[str, float] = field(default_factory=dict[str, float])
    """Seconds of each stage of the generation, if the engine reports them."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The provider made the clip and has deleted it."""

    reason: str


Progress = Finished | Gone | Refused | Discarded | Rejected | None
"""The state of an accepted job; None means that it is not finished."""


class UnreadableError(ValueError):
    """The adapter does not understand an answer; a guess could cost money."""

    def __init__(self, provider: str, answer: object) -> None:
        super().__init__(f"{provider}: cannot read {answer!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountReport:
    """A provider's facts about an account and a model; None if it does not publish one."""

    credit_usd: Decimal | None = None
    slots: int | None = None
    submits_per_minute: int | None = None
    submits_per_day: int | None = None
    prices_usd: Mapping[tuple[str, int], Decimal] = field(
        default_factory=dict[tuple[str, int], Decimal]
    )
    """Current prices of this account by (resolution, seconds)."""
    has_model: bool | None = None
    """Whether the provider still has every model that the route's endpoints name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A submit without an answer: everything that the ledger has about it."""

    mark: str
    """The result of `Findable.mark` before the submit."""
    submitted_at: float
    """Unix seconds, by our clock."""
    known: frozenset[str]
    """The provider's ids of our other submits."""
    near: frozenset[str] = frozenset()
    """Those of them that the same account accepted, at the same place, near that time."""
    enclosed: bool = False
    """Whether some of `near` were accepted before the submit, and some sent after it."""
    route: str = ""
    """The route that the submit was for; the lane may have another one today."""


@dataclass(frozen=True, slots=True)
class Absent:
    """The provider certainly did not accept the submit."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unproven:
    """The listing has no such submit, but it may leave out the time of the submit."""

    reason: str


Found = Ticket | Absent | Unproven | None
"""The answer about a doubt; None if a listed job may be the submit."""


class Provider(Protocol):
    """A service that makes a clip from a still."""

    name: ClassVar[str]
    hosts: ClassVar[frozenset[str]]
    """The hosts that receive the adapter's requests and the key."""
    unique_references: ClassVar[bool]
    """Whether the provider refuses a submit whose reference another one has."""

    def __init__(self, route: Route, key: str, hook: str = "") -> None:
        """`hook` is the webhook's URL for providers that call back."""
        ...

    @property
    def key(self) -> str: ...

    def upload(self, still: Still) -> Exchange[str]:
        """Upload a still; returns its URL for `submit`. Free and safe to repeat."""
        ...

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        """Order the clip with exactly one request, which costs money.

        `reference` is our own name for this submit. With `unique_references`, a submit that
        is repeated after the provider did not have it keeps its name; otherwise no other
        submit has it.
        """
        ...

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        """Ask for the state of a job. Free and safe to repeat.

        Raises:
            UnreadableError: the adapter does not know the status word.
        """
        ...

    def judge(self, response: httpx.Response) -> ProviderError | None:
        """Return the error that (method, status, body) mean; None for a good answer."""
        ...

    def check(self) -> Exchange[AccountReport]:
        """Ask about the account, the model and its prices. Free and safe to repeat.

        Every adapter sends at least one request that needs the key, so that `judge` can
        report a bad one.
        """
        ...


@runtime_checkable
class Findable(Protocol):
    """A provider that can be asked whether it accepted a submit without an answer."""

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        """Return a digest or reference that identifies this submit at the provider.

        The ledger stores it, so it contains no key, signature or prompt.
        """
        ...

    def find(self, doubt: Doubt) -> Exchange[Found]:
        """Look for the submit. Free and safe to repeat.

        Returns a Ticket or Absent only if it is certain. A listing proves an absence only
        if it covers the time of the submit: see `listings.missing`. The caller
        first gives the provider time to list new jobs.
        """
        ...


@runtime_checkable
class ClipHost(Protocol):
    """A provider that serves its clips itself, and only with the key."""

    def fetch(self, url: str) -> httpx.Request:
        """Return the request for the clip at a `Finished.url`."""
        ...


@runtime_checkable
class Billed(Protocol):
    """A provider that reports charges after the fact."""

    def charge(self, ticket: Ticket) -> Exchange[Decimal | None]:
        """Ask for a job's charge in US dollars; None if it is not known yet."""
        ...
