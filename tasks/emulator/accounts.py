"""An account: one key at one provider, with its slots, its queue and its rate limit.

Nothing runs in the background: the times of acceptance and the latencies decide which
predictions hold a slot at a moment, and each request works that out.
"""

import hashlib
import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass

from tasks.emulator.faults import Fault
from tasks.emulator.predictions import Prediction, Stage
from tasks.emulator.refusals import BusyError, CappedError, ThrottledError

MINUTE_S = 60.0
DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A provider's limits for one account, and its refunds."""

    slots: int
    """The most predictions that run at once."""
    submits_per_minute: int | None
    """The most submits in any 60 seconds; None means no limit."""
    queues: bool
    """Whether submits over the slots wait in a queue instead of being refused."""
    refunds: frozenset[Stage]
    """The stages that are not charged."""
    retry_after: bool = False
    """Whether a refusal by the rate limit has Retry-After."""
    keep_s: float = 7 * 24 * 3600.0
    """How long clips are kept if a submit does not say."""
    submits_per_day: int | None = None
    """The most submits in any 24 hours; None means no limit."""
    keyless: bool = False
    """Whether a request needs no key, unless the emulator has a list of keys."""


@dataclass(slots=True)
class Peaks:
    """The highest use of an account so far, which shows whether its quotas were kept."""

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
        """Admit one more submit.

        Raises:
            ThrottledError: the rate limit or, without a queue, the slots are used up.
            CappedError: the day's submits are used up.
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
        """Give a prediction a slot or a place in the queue."""
        self._recent.append(now)
        self._today.append(now)
        self.peaks.per_minute = max(self.peaks.per_minute, len(self._recent))
        self._waiting.append(prediction)
        self._fill(now)
        self.peaks.waiting = max(self.peaks.waiting, len(self._waiting))

    def today(self, now: float) -> int:
        """Return the number of submits in the last 24 hours."""
        while self._today and self._today[0] <= now - DAY_S:
            self._today.popleft()
        return len(self._today)

    def advance(self, now: float) -> None:
        """Bring slots and queue up to a moment."""
        while self._recent and self._recent[0] <= now - MINUTE_S:
            self._recent.popleft()
        while self._running and self._running[0][0] <= now:
            ends_at, _, prediction = heapq.heappop(self._running)
            prediction.end(ends_at)
            self._fill(ends_at)

    def position(self, prediction: Prediction) -> int:
        """Return how many predictions are ahead in the queue."""
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
