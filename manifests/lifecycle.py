"""The life of a job.

Rule 1: every state and every transition lives in this file.
Rule 2: nothing here waits, sends or stores; time and answers arrive as entries.
Rule 3: from the moment we mean to submit until an answer is on record, the job is
in doubt. A job in doubt may have been paid for, so it is never submitted again.

       +-----------------Discarded------------------+-------Discarded-------+
       v                                            |                       |
    pending --Intended--> in_doubt --Accepted--> accepted --Generated--> generated
       ^                   ^  |  |                  |                    |   |
       |                   +--+  |                  |                    Published
       |                 Doubted |                  |                    |   v
       +-----Refused, Risked-----+-----Refused------+                    | published
       +------------------------Forgotten-----------+------Forgotten-----+
                                 |                  |
                                 +-----Rejected-----+--> rejected
                             generated --Unplayable--> unplayable

Doubted states why no answer arrived. Refused: not charged; the job may be submitted
again. Risked: it may have been charged, and its owner has it submitted again all the
same. Discarded: charged without a good clip; may be submitted again with the next seed.
Forgotten: the GPU server restarted and lost the job; may be submitted again with the
same seed. Rejected: never submitted again, at any provider. Only an accepted job is
discarded. To discard a submit in doubt that was charged and lost, record Accepted with
its ticket first.

Unplayable: charged, and the provider's file is the same each time and no clip. Its bytes
are kept, and the job is never submitted again.

Parked changes no state: our own code failed on a job that is paid for. The job stays
accepted or generated until the next run.

Adjusted changes no state: a provider charged more or less than was counted for an attempt
that is over, and reported it afterwards.

The clip's URL is not an event: it is a bearer link that expires, and a poll of the
ticket gives a fresh one for free.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum, auto
from typing import Any, Final, Literal

FREE: Final = Decimal(0)

Lost = Literal["gateway", "unclear", "broken", "silent", "unread"]
"""How an answer was lost, in falling order of the chance that the submit was refused.

`gateway`: a gateway sent its own answer. `unclear`: the answer is ambiguous. `broken`: it
broke off. `silent`: it did not arrive in time. `unread`: it arrived and is no refusal, but
our own code could not read it.
"""

LOST: Final[tuple[Lost, ...]] = ("gateway", "unclear", "broken", "silent", "unread")


class State(StrEnum):
    """The state of a job."""

    PENDING = auto()
    IN_DOUBT = auto()
    ACCEPTED = auto()
    GENERATED = auto()
    PUBLISHED = auto()
    REJECTED = auto()
    UNPLAYABLE = auto()


@dataclass(frozen=True, slots=True)
class Ticket:
    """A provider's receipt: all that is needed to find our request again.

    `urls` never carry a key or a signature: the ledger keeps them in clear text.
    """

    provider: str
    id: str
    urls: Mapping[str, str] = field(default_factory=dict[str, str])


UNBILLED: Final = "own-"
"""The prefix of the mark of a submit to your own GPU, where the lane has `paid = false`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intended:
    """We are about to submit; durable before the request that costs is sent."""

    lane: str
    route: str
    price_usd: Decimal
    seed: int
    mark: str = ""
    """The text that identifies the request in the provider's records, if it keeps any: the
    account, the name of the request, and the base URL that it was sent to (see
    `tasks.engine.submit_mark`). It begins with `UNBILLED` if the lane is not billed."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider has our request; from here on it costs money."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Doubted:
    """The answer did not arrive, or is ambiguous."""

    reason: str
    lost: Lost = "unclear"


@dataclass(frozen=True, slots=True)
class Risked:
    """It may have been charged; its owner knows, and has the job submitted again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider did not do it this time; nothing was charged."""

    reason: str


@dataclass(frozen=True, slots=True)
class Discarded:
    """It was charged, but no good clip came of it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Your own GPU server worked on it, and no longer has a record of it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Parked:
    """Our own code failed on a job that is paid for: the next run tries it again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """No provider will be asked again: bad input, or content policy."""

    reason: str
    charged: bool = False


@dataclass(frozen=True, slots=True)
class Unplayable:
    """It was charged, and its file is no clip; the reason says where the bytes are kept."""

    reason: str


@dataclass(frozen=True, slots=True)
class Generated:
    """The clip exists at the provider, who will not keep it for long."""

    seed: int | None = None
    """The seed the provider says it used, where it says so."""
    usd: Decimal | None = None
    """The charge that the provider states: not always the listed price."""
    stages: str | None = None
    """The seconds that each stage of making it took, as a JSON object, where it says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Properties of a clip, as its check measured them."""

    sha256: str
    bytes: int
    seconds: float
    fps: float
    width: int
    height: int
    """As a player shows it."""
    codec: str
    frames: int
    rotation: int = 0
    """The degrees by which a player turns its frames, clockwise."""
    differs: str = ""
    """How it differs from what was ordered; empty if it does not."""


@dataclass(frozen=True, slots=True)
class Published:
    """The clip and its sidecar are stored completely in our storage."""

    uri: str
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjusted:
    """A correction of what an ended attempt cost."""

    attempt: int
    """The number of the job's submit, from 1."""
    usd: Decimal
    """The amount to be added to the cost; less than 0 for a refund."""
    reason: str


Failure = Refused | Discarded | Forgotten | Rejected | Risked | Parked | Unplayable
"""An attempt that brought no clip, or whose clip must wait for the next run."""

Event = Intended | Accepted | Doubted | Generated | Published | Adjusted | Failure

KINDS: Final[Mapping[str, type[Event]]] = {
    "intended": Intended,
    "accepted": Accepted,
    "doubted": Doubted,
    "risked": Risked,
    "refused": Refused,
    "discarded": Discarded,
    "forgotten": Forgotten,
    "parked": Parked,
    "rejected": Rejected,
    "unplayable": Unplayable,
    "generated": Generated,
    "published": Published,
    "settled": Adjusted,
}
"""The name of each kind of event in ledgers and their checkpoints. A name never changes,
even if the class does: old roots have it."""

TRANSITIONS: Final[Mapping[State, Mapping[type[Event], State]]] = {
    State.PENDING: {
        Intended: State.IN_DOUBT,
        Adjusted: State.PENDING,
    },
    State.IN_DOUBT: {
        Doubted: State.IN_DOUBT,
        Accepted: State.ACCEPTED,
        Refused: State.PENDING,
        Risked: State.PENDING,
        Rejected: State.REJECTED,
        Adjusted: State.IN_DOUBT,
    },
    State.ACCEPTED: {
        Generated: State.GENERATED,
        Parked: State.ACCEPTED,
        Adjusted: State.ACCEPTED,
        Refused: State.PENDING,
        Discarded: State.PENDING,
        Forgotten: State.PENDING,
        Rejected: State.REJECTED,
    },
    State.GENERATED: {
        Published: State.PUBLISHED,
        Unplayable: State.UNPLAYABLE,
        Discarded: State.PENDING,
        Forgotten: State.PENDING,
        Parked: State.GENERATED,
        Adjusted: State.GENERATED,
    },
    State.PUBLISHED: {Adjusted: State.PUBLISHED},
    State.REJECTED: {Adjusted: State.REJECTED},
    State.UNPLAYABLE: {Adjusted: State.UNPLAYABLE},
}

OVER: Final = frozenset({State.PUBLISHED, State.REJECTED, State.UNPLAYABLE})
"""States in which a job has ended: later events are only about money."""


def added_usd(event: Event, counted_usd: Decimal) -> Decimal:
    """The amount that an event adds to the cost of its attempt; less than 0 for a refund.

    `counted_usd` is what the attempt under way costs so far. Every sum of money is
    computed by this function: no other code decides what an event does to a cost.
    (`checkpoint.rows.made_rows` shortens it for jobs with one submit; a test compares both.)
    """
    match event:
        case Intended(price_usd=usd) | Adjusted(usd=usd):
            return usd
        case Generated(usd=Decimal() as usd):
            return usd - counted_usd
        case Refused() | Rejected(charged=False):
            return -counted_usd
        case _:
            return FREE


class IllegalTransitionError(RuntimeError):
    """An event arrived in a state that does not allow it: a bug, or a corrupt ledger."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger: a job, its event, and the time (Unix seconds, UTC)."""

    job: str
    at: float
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything the ledger's entries say about one job."""

    state: State = State.PENDING
    attempts: int = 0
    """Submits intended, with any outcome."""
    failures: int = 0
    """Attempts that a provider accepted and then did not deliver."""
    discards: int = 0
    """Attempts that were charged and brought no clip: each moves the seed on by one."""
    losses: int = 0
    """Attempts that your own GPU server worked on, and forgot."""
    risks: int = 0
    """Submits in doubt that the owner had submitted again."""
    parks: int = 0
    """Times that our own code failed on the clip of the latest attempt."""
    failed_route: str | None = None
    """The route of the last accepted attempt that brought no clip."""
    lane: str | None = None
    route: str | None = None
    price_usd: Decimal = FREE
    """The price of the attempt that is under way or was the last: as it was listed, until
    the provider says what it charged."""
    spent_usd: Decimal = FREE
    """The cost of all attempts; a submit in doubt counts as spent."""
    seed: int | None = None
    mark: str = ""
    stages: str | None = None
    """The seconds of each stage of making the clip: see Generated."""
    lost: Lost | None = None
    """How the answer was lost, while in doubt."""
    ticket: Ticket | None = None
    uri: str | None = None
    facts: Facts | None = None
    reason: str | None = None
    submitted_at: float | None = None
    accepted_at: float | None = None
    generated_at: float | None = None
    published_at: float | None = None

    @property
    def billed(self) -> bool:
        """Whether its attempt is billed, whatever the lane's settings are now."""
        return not self.mark.startswith(UNBILLED)

    @property
    def charged(self) -> int:
        """The number of attempts whose charge is final, and which may be settled.

        An attempt that may yet be refunded as a whole is not settled in part.
        """
        return self.attempts - (self.state in {State.IN_DOUBT, State.ACCEPTED})

    def after(self, entry: Entry) -> "History":
        """The history with one more entry.

        Raises:
            IllegalTransitionError: the event cannot happen in this state.
        """
        try:
            state = TRANSITIONS[self.state][type(entry.event)]
        except KeyError:
            what = f"{type(entry.event).__name__} while {self.state}"
            raise IllegalTransitionError(f"job {entry.job}: {what}") from None
        if isinstance(entry.event, Adjusted):
            self._check_adjusted(entry, entry.event.attempt)
        return replace(
            self,
            state=state,
            spent_usd=self.spent_usd + added_usd(entry.event, self.price_usd),
            **self._changes(entry.event, entry.at),
        )

    def _check_adjusted(self, entry: Entry, attempt: int) -> None:
        if not 1 <= attempt <= self.charged:
            what = f"attempt {attempt} of {self.attempts} settled"
            raise IllegalTransitionError(f"job {entry.job}: {what}")

    def _changes(self, event: Event, at: float) -> dict[str, Any]:
        """The fields that an event changes, besides the state and the cost."""
        match event:
            case Intended():
                return _new_attempt(event, at) | {"attempts": self.attempts + 1}
            case Accepted(ticket):
                return {"ticket": ticket, "accepted_at": at, **_CERTAIN}
            case Generated():
                return self._generated(event, at)
            case Published(uri, facts):
                return {
                    "uri": uri,
                    "facts": facts,
                    "published_at": at,
                    "reason": None,
                }
            case Adjusted():
                return {}
            case Doubted(reason, lost):
                return {"reason": reason, "lost": lost}
            case _:
                return {"reason": event.reason, **self._failed(event)}

    def _generated(self, event: Generated, at: float) -> dict[str, Any]:
        return {
            "seed": self.seed if event.seed is None else event.seed,
            "price_usd": self.price_usd if event.usd is None else event.usd,
            "stages": event.stages,
            "generated_at": at,
            "reason": None,
        }

    def _failed(self, event: Failure) -> dict[str, Any]:
        """The counts that change when an attempt brings no clip, or not yet."""
        match event:
            case Refused() if self.state is State.ACCEPTED:
                failures = self.failures + 1
                return {"lost": None, "failures": failures, "failed_route": self.route}
            case Refused() | Rejected():
                return {"lost": None}
            case Discarded():
                return {
                    "failures": self.failures + 1,
                    "discards": self.discards + 1,
                    "failed_route": self.route,
                }
            case Forgotten():
                return {"losses": self.losses + 1}
            case Risked():
                return {"lost": None, "risks": self.risks + 1}
            case Parked():
                return {"parks": self.parks + 1}
            case Unplayable():
                return {}


_CERTAIN: Final[Mapping[str, None]] = {"reason": None, "lost": None}
"""The fields that a doubt set."""


def _new_attempt(event: Intended, at: float) -> dict[str, Any]:
    """The fields of the attempt under way: nothing of the one before stays."""
    return {
        "lane": event.lane,
        "route": event.route,
        "price_usd": event.price_usd,
        "seed": event.seed,
        "mark": event.mark,
        "stages": None,
        "ticket": None,
        "parks": 0,
        "submitted_at": at,
        "accepted_at": None,
        "generated_at": None,
        **_CERTAIN,
    }


NEW: Final = History()


def fold(entries: Iterable[Entry]) -> dict[str, History]:
    """Every job's history by its id, from entries in the order they were recorded."""
    histories: dict[str, History] = {}
    for entry in entries:
        histories[entry.job] = histories.get(entry.job, NEW).after(entry)
    return histories
