"""What a run has done so far: read by whoever shows progress, written by the engine."""

from dataclasses import dataclass, field
from enum import StrEnum, auto

from manifests.lifecycle import (
    Accepted,
    Doubted,
    Event,
    History,
    Intended,
    Published,
    Refused,
    Rejected,
)
from tasks.routing import Purse


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
    published: int = 0
    rejected: int = 0
    resting: dict[str, Rest] = field(default_factory=dict[str, Rest])
    """By job id."""

    def rest(self, job_id: str, why: Why, reason: str) -> None:
        self.resting[job_id] = Rest(why, reason)

    def count(self, event: Event, past: History) -> None:
        """One more event on record, and the history it made."""
        match event:
            case Accepted():
                self.bought += 1
            case Published():
                self.published += 1
            case Refused():
                self.purse.release(past.price_usd)
            case Rejected(charged=charged):
                self.rejected += 1
                if not charged:
                    self.purse.release(past.price_usd)
            case Intended() | Doubted() | _:
                pass
