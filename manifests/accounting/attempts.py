"""Attempts: every submit of a job with its outcome and its cost.

The events of a ledger, in their order, give its attempts. All counts of money and of
submits, wherever they are shown, are sums over these records.
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from enum import StrEnum, auto
from typing import Final, NamedTuple

from manifests.accounting.adjustments import Adjustment, Adjustments
from manifests.lifecycle import (
    FREE,
    OVER,
    Accepted,
    Adjusted,
    Discarded,
    Doubted,
    Entry,
    Event,
    Forgotten,
    Generated,
    History,
    Intended,
    Lost,
    Parked,
    Published,
    Refused,
    Rejected,
    Risked,
    State,
    Ticket,
    Unplayable,
    added_usd,
)


class Outcome(StrEnum):
    """How an attempt ended, or how far it is."""

    IN_DOUBT = auto()
    ACCEPTED = auto()
    GENERATED = auto()
    PUBLISHED = auto()
    REFUSED = auto()
    RISKED = auto()
    DISCARDED = auto()
    FORGOTTEN = auto()
    REJECTED = auto()
    UNPLAYABLE = auto()


_ENDINGS: Final[Mapping[type[Event], tuple[Outcome, bool | None]]] = {
    Published: (Outcome.PUBLISHED, True),
    Refused: (Outcome.REFUSED, False),
    Risked: (Outcome.RISKED, None),
    Discarded: (Outcome.DISCARDED, True),
    Forgotten: (Outcome.FORGOTTEN, True),
    Unplayable: (Outcome.UNPLAYABLE, True),
}
"""By event: the outcome of the attempt that it ends, and whether that was charged."""

_UNDER_WAY: Final[Mapping[State, tuple[Outcome, bool | None]]] = {
    State.IN_DOUBT: (Outcome.IN_DOUBT, None),
    State.ACCEPTED: (Outcome.ACCEPTED, True),
    State.GENERATED: (Outcome.GENERATED, True),
}

_STATES: Final[Mapping[Outcome, State]] = {
    **{outcome: state for state, (outcome, _) in _UNDER_WAY.items()},
    Outcome.PUBLISHED: State.PUBLISHED,
    Outcome.REJECTED: State.REJECTED,
    Outcome.UNPLAYABLE: State.UNPLAYABLE,
}


# A tuple is replaced in a tenth of the time that a frozen dataclass takes, and there is
# a replacement for each event of a ledger.
class Attempt(NamedTuple):
    """One submit of a job: who made it, how it ended, what it cost and when."""

    job: str
    number: int
    """Which of the job's attempts, from 1."""
    lane: str
    route: str
    price_usd: Decimal
    """The listed price when the submit was intended."""
    seed: int | None
    mark: str
    """The text by which the provider's record of the request is found, if it keeps one."""
    submitted_at: float
    outcome: Outcome = Outcome.IN_DOUBT
    charged: bool | None = None
    """Whether the provider charges for it; None if nobody knows: in doubt, or risked."""
    cost_usd: Decimal = FREE
    """The amount that counts as spent; it includes what may have been charged."""
    billed_usd: Decimal | None = None
    """The charge that the provider stated with the clip, if it did."""
    ticket: Ticket | None = None
    lost: Lost | None = None
    reason: str | None = None
    parks: int = 0
    """How often our own code failed on the clip."""
    stages: str | None = None
    """The seconds of each stage of making the clip, as a JSON object, where known."""
    accepted_at: float | None = None
    generated_at: float | None = None
    ended_at: float | None = None

    @property
    def state(self) -> State:
        """The state of the job after the last event of this attempt."""
        return _STATES.get(self.outcome, State.PENDING)

    def after(self, entry: Entry) -> "Attempt":
        """The attempt after one more entry of its job, other than an adjustment."""
        match entry.event:
            case Accepted(ticket):
                return self._replace(
                    outcome=Outcome.ACCEPTED,
                    charged=True,
                    ticket=ticket,
                    lost=None,
                    reason=None,
                    accepted_at=entry.at,
                )
            case Generated(seed, usd, stages):
                return self._replace(
                    outcome=Outcome.GENERATED,
                    cost_usd=self.cost_usd + added_usd(entry.event, self.cost_usd),
                    billed_usd=usd,
                    seed=self.seed if seed is None else seed,
                    reason=None,
                    stages=stages,
                    generated_at=entry.at,
                )
            case Doubted(reason, lost):
                return self._replace(reason=reason, lost=lost)
            case Parked(reason):
                return self._replace(reason=reason, parks=self.parks + 1)
            case event:
                return self._ended(event, entry.at)

    def _ended(self, event: Event, at: float) -> "Attempt":
        match event:
            case Rejected(charged=was_charged):
                outcome, charged = Outcome.REJECTED, was_charged
            case _:
                outcome, charged = _ENDINGS[type(event)]
        return self._replace(
            outcome=outcome,
            charged=charged,
            cost_usd=self.cost_usd + added_usd(event, self.cost_usd),
            lost=None,
            reason=getattr(event, "reason", None),
            ended_at=at,
        )

    def adjusted(self, adjustment: Adjustment) -> "Attempt":
        """The attempt with a correction of its cost, made after it had ended."""
        charged, cost_usd = adjustment.applied_to(self.cost_usd)
        reason = adjustment.added_to(self.reason)
        return self._replace(charged=charged, cost_usd=cost_usd, reason=reason)


def intended(entry: Entry, event: Intended, number: int) -> Attempt:
    """The attempt that an entry begins."""
    return Attempt(
        entry.job,
        number,
        event.lane,
        event.route,
        event.price_usd,
        event.seed,
        event.mark,
        entry.at,
        cost_usd=added_usd(event, FREE),
    )


def under_way(job: str, history: History) -> Attempt | None:
    """The attempt of a job that has not ended, from the job's history; None if all have.

    Its price is the provider's own where the provider has stated one.
    """
    if history.state not in _UNDER_WAY:
        return None
    outcome, charged = _UNDER_WAY[history.state]
    return Attempt(
        job=job,
        number=history.attempts,
        lane=history.lane or "",
        route=history.route or "",
        price_usd=history.price_usd,
        seed=history.seed,
        mark=history.mark,
        submitted_at=history.submitted_at or 0.0,
        outcome=outcome,
        charged=charged,
        # A single attempt may have been adjusted: then its cost is not its price.
        cost_usd=history.price_usd if history.attempts > 1 else history.spent_usd,
        ticket=history.ticket,
        lost=history.lost,
        reason=history.reason,
        parks=history.parks,
        stages=history.stages,
        accepted_at=history.accepted_at,
        generated_at=history.generated_at,
    )


class Attempts:
    """The fold of a ledger's entries: in memory are only the jobs that are not over.

    `histories` are those of the jobs at the first entry, if there were earlier ones.
    """

    def __init__(self, histories: Mapping[str, History] | None = None) -> None:
        histories = histories or {}
        found = (under_way(job, history) for job, history in histories.items())
        self.under_way = {attempt.job: attempt for attempt in found if attempt}
        """By job: the attempt that has not ended."""
        self._numbers = {job: history.attempts for job, history in histories.items()}
        """By job that is not over: how many attempts it has had."""

    @property
    def pending(self) -> int:
        """How many jobs wait for their next attempt, after one that brought no clip."""
        return len(self._numbers) - len(self.under_way)

    def add(self, entry: Entry) -> Attempt | None:
        """The attempt that an entry begins, changes or ends.

        None for an adjustment, which `Adjustments` collects, and for an attempt whose
        beginning is neither among the entries nor in a history.
        """
        job, event = entry.job, entry.event
        if isinstance(event, Intended):
            number = self._numbers[job] = self._numbers.get(job, 0) + 1
            attempt = self.under_way[job] = intended(entry, event, number)
            return attempt
        before = self.under_way.get(job)
        if before is None or isinstance(event, Adjusted):
            return None
        attempt = before.after(entry)
        if attempt.ended_at is None:
            self.under_way[job] = attempt
            return attempt
        del self.under_way[job]
        if attempt.state in OVER:
            del self._numbers[job]
        return attempt


def attempts(entries: Iterable[Entry]) -> Iterator[Attempt]:
    """All attempts of a whole ledger, in the order of their submits, adjusted."""
    folding, adjustments = Attempts(), Adjustments()
    found: dict[tuple[str, int], Attempt] = {}
    for entry in entries:
        if attempt := folding.add(entry):
            found[attempt.job, attempt.number] = attempt
        else:
            adjustments.add(entry)
    for key, attempt in found.items():
        adjustment = adjustments.get(key)
        yield attempt.adjusted(adjustment) if adjustment else attempt
