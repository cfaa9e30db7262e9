"""What a run has done so far: read by whoever shows progress, written by the engine."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Final

from manifests.accounting.attempts import Attempt, Attempts
from manifests.expiry import EXPIRED
from manifests.lifecycle import (
    Accepted,
    Discarded,
    Entry,
    Event,
    History,
    Published,
    Rejected,
    State,
)
from tasks.dispatch.budget import Purse
from tasks.engine.lane_costs import Bill
from tasks.engine.own_faults import OwnFaults

FIRST: Final = 5
"""Jobs of which it is remembered that they are the first with a reason."""

REASONS: Final = 200
"""Reasons of which that is remembered: a provider may have other words for each job."""

UNANSWERED: Final = "its answer is not on record"
"""Of a doubt that a crash left, and nobody else."""


class Why(StrEnum):
    """Why a job rests short of its end."""

    STILL = auto()
    """No provider would take its still."""
    UNREAD = auto()
    """Its still could not be read just now."""
    UNSERVED = auto()
    """No lane in use can make it for what its rows will pay."""
    NO_LANE = auto()
    """Every lane that can make it is closed."""
    BUDGET = auto()
    ATTEMPTS = auto()
    DOUBT = auto()
    UNFINISHED = auto()
    """The provider has it, and another run will fetch it."""
    STOPPED = auto()
    BROKEN = auto()
    """Our own code failed on it in a way that nobody foresaw; the log has the traceback."""
    FAULT = auto()
    """Our own code failed on too many jobs in a row: nothing more is bought."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A job that waits for another run, or for a person."""

    why: Why
    reason: str


@dataclass(slots=True)
class Tally:
    """Counts of this run, in jobs."""

    purse: Purse
    bought: int = 0
    published: int = 0
    rejected: int = 0
    resting: dict[str, Rest] = field(default_factory=dict[str, Rest])
    """By job id."""
    fetched: int = 0
    """Clips of other batches that were brought home."""
    expired: int = 0
    """Clips that were paid for, and that their providers keep no longer."""
    faults: OwnFaults = field(default_factory=OwnFaults)
    parked: Counter[str] = field(default_factory=Counter[str])
    """Other batches' clips on which our own code failed, by the reason."""
    passed_over: set[Why] = field(default_factory=set[Why])
    """Why jobs were not even looked at."""
    refusals: Counter[str] = field(default_factory=Counter[str])
    """Why jobs that are no longer remembered were rejected."""
    refused_first: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """The first few of these jobs, by the first reasons that there were."""
    bill: Bill = field(default_factory=Bill)
    """What was bought, by lane."""
    _attempts: Attempts = field(default_factory=Attempts)
    """Those that this run submitted: no other attempt's money is counted."""

    def rest(self, job_id: str, why: Why, reason: str) -> None:
        self.resting[job_id] = Rest(why, reason)

    def forget(self, past: Mapping[str, History]) -> None:
        """Of these jobs, which are over, little is remembered from now on."""
        for job, history in past.items():
            match history:
                case History(state=State.REJECTED, reason=reason):
                    why = reason or "rejected"
                    self.refusals[why] += 1
                    if self.refusals[why] <= FIRST and len(self.refusals) <= REASONS:
                        self.refused_first.setdefault(why, []).append(job)
                case _:
                    pass

    def count_other(self, event: Event, history: History) -> None:
        """One more event of what another batch bought: its money was never ours."""
        self.faults.count(event, history)
        match event:
            case Published():
                self.fetched += 1
            case Discarded(reason):
                self.expired += reason.startswith(EXPIRED)
            case _:
                pass

    def count(self, entry: Entry, history: History) -> Attempt | None:
        """Count one more entry, which made this history of its job.

        The attempt of this run that it begins, changes or ends is returned, if it is one.
        The price of an attempt was reserved before its `Intended` was recorded.
        """
        self.faults.count(entry.event, history)
        match entry.event:
            case Accepted():
                self.bought += 1
            case Published():
                self.published += 1
            case Rejected():
                self.rejected += 1
            case Discarded(reason):
                self.expired += reason.startswith(EXPIRED)
            case _:
                pass
        before = self._attempts.under_way.get(entry.job)
        after = self._attempts.add(entry)
        if after is not None:
            self.bill.replace(before, after)
            if before is not None:
                self.purse.settle(after.cost_usd - before.cost_usd)
        return after
