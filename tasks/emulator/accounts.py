"""An account: one key at one provider, with its slots, its queue and its minute.

Nothing runs here: who holds a slot at a moment follows from when each prediction was
accepted and how long it takes, so it is worked out when somebody asks.
"""

import hashlib
import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass

from tasks.emulator.dialects.predictions import Prediction, Stage
from tasks.emulator.faults import Fault
from tasks.emulator.refusals import BusyError, CappedError, ThrottledError

MINUTE_S = 60.0
DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a provider lets one account do, and what it gives back."""

    slots: int
    """How many predictions run at once."""
    submits_per_minute: int | None
    """How many are accepted in any 60 seconds; None where there is no such limit."""
    queues: bool
    """Whether what is over the slots waits in line instead of being refused."""
    refunds: frozenset[Stage]
    """The ends that are not charged for."""
    retry_after: bool = False
    """Whether a refusal by the minute says when to come again."""
    keep_s: float = 7 * 24 * 3600.0
    """How long clips are kept, where a submit does not say."""
    submits_per_day: int | None = None
    """How many are accepted in any 24 hours; None where there is no such limit."""
    keyless: bool = False
    """Whether it asks nobody for a key, unless it was given some."""


@dataclass(slots=True)
class Peaks:
    """The most that an account was seen to do: quotas are witnessed here."""

    running: int = 0
    waiting: int = 0
    per_minute: int = 0
    """Submits accepted in any 60 seconds."""
    throttled: int = 0
    """Submits answered with 429, by quota or by fault."""


class Account:
    """One key at one provider."""

    def __init__(self, dialect: str, key: str, terms: Terms) -> None:
        self.dialect = dialect
        self.fingerprint = hashlib.sha256(key.encode()).hexdigest()[:12]
        self.terms = terms
        self.peaks = Peaks()
        self._recent: deque[float] = deque()
        self._today: deque[float] = deque()
        self._waiting: deque[Prediction] = deque()
        self._running: list[tuple[float, int, Prediction]] = []
        self._ties = itertools.count()

    def admit(self, now: float) -> None:
        """Let one more submit in.

        Raises:
            ThrottledError: the minute is used up, or, where there is no queue, the slots.
            CappedError: the day is used up.
        """
        self.advance(now)
        most = self.terms.submits_per_day
        if most is not None and self.today(now) >= most:
            raise CappedError(f"over {most} submits per day")
        limit = self.terms.submits_per_minute
        if limit is not None and len(self._recent) >= limit:
            wait = self._recent[-limit] + MINUTE_S - now
            raise ThrottledError(
                f"over {limit} submits per minute",
                math.ceil(wait) if self.terms.retry_after else None,
            )
        if not self.terms.queues and len(self._running) >= self.terms.slots:
            raise BusyError(f"over {self.terms.slots} at once")

    def take(self, prediction: Prediction, now: float) -> None:
        """Give it a slot, or a place in the queue."""
        self._recent.append(now)
        self._today.append(now)
        self.peaks.per_minute = max(self.peaks.per_minute, len(self._recent))
        self._waiting.append(prediction)
        self._fill(now)
        self.peaks.waiting = max(self.peaks.waiting, len(self._waiting))

    def today(self, now: float) -> int:
        """How many were accepted in the last 24 hours."""
        while self._today and self._today[0] <= now - DAY_S:
            self._today.popleft()
        return len(self._today)

    def advance(self, now: float) -> None:
        """Bring slots and queue up to this moment."""
        while self._recent and self._recent[0] <= now - MINUTE_S:
            self._recent.popleft()
        while self._running and self._running[0][0] <= now:
            ends_at, _, prediction = heapq.heappop(self._running)
            prediction.end(ends_at)
            self._fill(ends_at)

    def position(self, prediction: Prediction) -> int:
        """How many are before it in the queue."""
        return self._waiting.index(prediction)

    def _fill(self, now: float) -> None:
        while self._waiting and len(self._running) < self.terms.slots:
            prediction = self._waiting.popleft()
            prediction.stage = Stage.RUNNING
            prediction.started_at = now
            stuck = prediction.fault is Fault.STUCK
            ends_at = math.inf if stuck else now + prediction.latency_s
            heapq.heappush(self._running, (ends_at, next(self._ties), prediction))
        self.peaks.running = max(self.peaks.running, len(self._running))
