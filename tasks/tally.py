"""What a run has done so far: read by whoever shows progress, written by the engine."""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum, auto

from manifests.lifecycle import (
    HEDGE,
    Accepted,
    Event,
    History,
    Intended,
    Published,
    Rejected,
)
from tasks.purse import Purse


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
    """Something that nobody foresaw; the log has it."""


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
    hedged: int = 0
    """Of what was bought, the second submits of stragglers."""
    published: int = 0
    rejected: int = 0
    resting: dict[str, Rest] = field(default_factory=dict[str, Rest])
    """By job id."""
    _spent: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    """What each job of which this run has bought something has cost, by its life's id."""

    def rest(self, job_id: str, why: Why, reason: str) -> None:
        self.resting[job_id] = Rest(why, reason)

    def count(self, job_id: str, event: Event, past: History) -> None:
        """One more event on record, and the history it made."""
        match event:
            case Intended():
                # The offer reserved it.
                self._spent[job_id] = past.spent_usd
            case Accepted():
                self.bought += 1
                self.hedged += job_id.endswith(HEDGE)
            case Published():
                self.published += not job_id.endswith(HEDGE)
            case Rejected():
                self.rejected += not job_id.endswith(HEDGE)
            case _:
                pass
        # What an earlier run bought was never this run's money.
        if job_id in self._spent:
            self.purse.settle(past.spent_usd - self._spent[job_id])
            self._spent[job_id] = past.spent_usd
