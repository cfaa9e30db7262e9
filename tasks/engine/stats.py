"""Counts the work of a run so far; the engine writes it, and the progress views read it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Final

from manifests.accounting import Attempt, Attempts
from manifests.expiry import EXPIRED
from manifests.lifecycle import (
    Discarded,
    Entry,
    Event,
    History,
    Published,
    Rejected,
    State,
    Unplayable,
)
from tasks.dispatch import Budget
from tasks.engine.lane_costs import Bill
from tasks.engine.own_faults import OwnFaults

FIRST: Final = 5
"""The number of first jobs kept for each reason."""

REASONS: Final = 200
"""The number of reasons with such jobs, since each job may have a different reason."""

UNANSWERED: Final = "its answer is not on record"
"""The reason of a doubt that a crash left."""


class WaitReason(StrEnum):
    """Why a job waits before its end."""

    STILL = auto()
    """No provider would take its still."""
    UNREAD = auto()
    """Its still could not be read just now."""
    UNSERVED = auto()
    """No lane in use can make it for its max_usd."""
    NO_LANE = auto()
    """Every lane that can make it is closed."""
    BUDGET = auto()
    ATTEMPTS = auto()
    DOUBT = auto()
    GAP = auto()
    """It may have been bought in a part of the ledger that was lost."""
    UNFINISHED = auto()
    """The provider has it, and another run will fetch it."""
    STOPPED = auto()
    BROKEN = auto()
    """Our own code failed on it unexpectedly; the log has the traceback."""
    FAULT = auto()
    """Our own code failed on too many jobs in a row: nothing more is bought."""


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job that waits for another run, or for a person."""

    why: WaitReason
    reason: str


@dataclass(slots=True)
class Tally:
    """The counts of this run, in jobs."""

    budget: Budget
    published: int = 0
    differing: int = 0
    """Published clips that differ from what was ordered."""
    rejected: int = 0
    unplayable: int = 0
    """Paid files that are no clips, and are kept as they are."""
    waiting_jobs: dict[str, WaitingJob] = field(default_factory=dict[str, WaitingJob])
    """By job id."""
    fetched: int = 0
    """Clips of other batches that were fetched."""
    expired: int = 0
    """Clips that were paid for, and that their providers no longer have."""
    faults: OwnFaults = field(default_factory=OwnFaults)
    parked: Counter[str] = field(default_factory=Counter[str])
    """Other batches' clips on which our own code failed, by the reason."""
    passed_over: set[WaitReason] = field(default_factory=set[WaitReason])
    """The reasons why jobs were passed over."""
    refusals: Counter[str] = field(default_factory=Counter[str])
    """By reason: rejected jobs that are no longer in memory."""
    refused_first: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """By reason: the first few of these jobs, for the first reasons only."""
    bill: Bill = field(default_factory=Bill)
    """The purchases of this run, by lane."""
    _attempts: Attempts = field(default_factory=Attempts)
    """The attempts that this run submitted: no other attempt's money is counted."""

    @property
    def bought(self) -> int:
        """Submits of this run that a provider accepted."""
        return sum(line.accepted for _, line in self.bill)

    def set_waiting(self, job_id: str, why: WaitReason, reason: str) -> None:
        self.waiting_jobs[job_id] = WaitingJob(why, reason)

    def forget(self, histories: Mapping[str, History]) -> None:
        """Keep only reasons and counts of these jobs, which are over."""
        for job, history in histories.items():
            match history:
                case History(state=State.REJECTED, reason=reason):
                    why = reason or "rejected"
                    self.refusals[why] += 1
                    if self.refusals[why] <= FIRST and len(self.refusals) <= REASONS:
                        self.refused_first.setdefault(why, []).append(job)
                case _:
                    pass

    def count_other(self, event: Event, history: History) -> None:
        """Count an event on another batch's job, whose money is not this run's."""
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
            case Published(facts=facts):
                self.published += 1
                self.differing += bool(facts.differs)
            case Rejected():
                self.rejected += 1
            case Unplayable():
                self.unplayable += 1
            case Discarded(reason):
                self.expired += reason.startswith(EXPIRED)
            case _:
                pass
        before = self._attempts.under_way.get(entry.job)
        after = self._attempts.add(entry)
        if after is not None:
            self.bill.replace(before, after)
            if before is not None:
                self.budget.settle(after.cost_usd - before.cost_usd)
        return after
