"""Rate limits: when a submit may be sent to an account.

This module is pure: callers pass the clock in. Times are seconds on any monotonic clock.

Overview
--------
A lane has slots (jobs in flight at once), submits per minute, and a circuit breaker. The
configuration has the documented limits. They may be wrong, and other programs may use the
same account. So `RateLimiter` learns the real limits from the provider's answers. Lanes of
one account share one limiter.

    wait_s(now)             0 if a submit may be sent now
    reserve_slot(now)       just before the submit
    accepted, throttled, rejected, failed or not_sent
                            the answer to the submit
    release_slot()          when the job has ended, or if its submit got no job

Slots
-----
Additive increase, multiplicative decrease, as in TCP. A 429 while other submits are
unanswered halves the slots, because the real limit is not known. A 429 without any sets
the slots to just below what was in flight. Accepted submits raise them again: by one slot a
round up to the last known limit, and above it by one slot in `ROUNDS_BEFORE_PROBE` rounds.
The number of rounds falls to one again with the time since the last refusal.

Several submits may be unanswered when the first 429 arrives. Their refusals are one volley
and lower the limits once. The number of unanswered submits is bounded, so that a volley is
small while the real limit is unknown.

A provider that queues (`Limits.queues`) gets a few more jobs than it has slots: as many as
end between the end of one job and the answer to the next submit.

Submits per minute
------------------
A sliding window of `RATE_WINDOW_S` never has more submits than allowed. If a 429 does not
name its limit, the first one lowers the slots. Another one in a row, with nothing
unanswered, lowers the rate to what the window had.

Retry-After
-----------
A 429 stops submits for as long as the provider asks. Without a Retry-After, the pause is
0.5 s and doubles with each refusal in a row, up to 60 s.

Circuit breaker
---------------
`FAILURES_TO_OPEN` failures in a row (no connection, or a lost answer) open the breaker. The
lane then pauses for 5 s, doubled with each further failure up to 300 s, and is tried with
one submit at a time. One accepted or rejected submit closes the breaker. A lane whose tries
have all failed for about a quarter of an hour is closed by the engine (`is_down`).

More than one process
---------------------
Shard runs of one batch share accounts. `set_share` limits this process to its grant. The
submits and successes of others count by `others_sent` and `others_accepted`.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from storage.backoff import backoff
from tasks.providers.errors import Over

RATE_WINDOW_S: Final = 61.0
"""Seconds in which no more submits than allowed per minute are sent. The extra second covers
the network delay between our clock and the provider's."""

TURNAROUND_S: Final = 2.0
"""From a job's end, once noticed, to the answer to the next submit."""

POLL_DELAY_SHARE: Final = 0.05
"""How late the end of a job is noticed, as a share of its run time: see `PollSchedule`."""

FAILURES_TO_OPEN: Final = 3
"""Failures in a row that open the breaker: one job at a time from then on."""

RESTORED_AGE_S: Final = 300.0
"""The age that the refusals of an earlier run are given."""

MAX_UNANSWERED: Final = 4
"""Unanswered submits at once on a lane that has not accepted one yet; later a quarter of its
jobs in flight. If the real limit is lower than configured, one volley has few refusals."""

ROUNDS_BEFORE_PROBE: Final = 8
"""Rounds of successes before one slot more than was last refused is tried. Such a probe costs
a refused call, and one in 8 rounds keeps these well under 5 % of jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The configured limits of a lane."""

    slots: int
    submits_per_minute: int
    queues: bool = False
    """Whether the provider queues work over the slots instead of refusing it."""
    submits_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class LearnedLimits:
    """The real limits of an account, where they are lower than the configured ones."""

    slots: float
    submits_per_minute: float


_NO_SHARE: Final = LearnedLimits(math.inf, math.inf)


class CircuitBreaker:
    """Counts failures in a row, and pauses a lane that keeps failing."""

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether only one job at a time is tried, after a pause."""
        return self._failures >= FAILURES_TO_OPEN

    @property
    def is_down(self) -> bool:
        """Whether all tries have failed for about a quarter of an hour."""
        return self._failures >= FAILURES_TO_OPEN + 8

    def wait_s(self, now: float) -> float:
        """Seconds until the next try; below 0 if it may be sent."""
        return self._retry_at - now

    def succeeded(self) -> None:
        """Close the breaker: the provider answered."""
        self._failures = 0

    def failed(self, now: float) -> None:
        """Count a failure: no connection, or a lost answer."""
        self._failures += 1
        if self.is_open:
            pause = backoff(self._failures - FAILURES_TO_OPEN + 1, 5.0, 300.0)
            self._retry_at = max(self._retry_at, now + pause)


class RateLimiter:
    """The slots, the submits per minute and the breaker of one account."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.breaker = CircuitBreaker()
        # Nothing is known yet: assume a fast model, until `set_typical_s` is called.
        self._max_slots = limits.slots + self._queued(typical_s=10.0)
        self._slots = float(self._max_slots)
        # The highest number of slots that was not refused.
        self._ceiling = float(self._max_slots)
        self._a_minute = float(limits.submits_per_minute)
        self._sent = deque[float]()
        self._unanswered = 0
        self._retry_at = -math.inf
        self._refusals = 0
        self._refused_at = -math.inf
        # Submits in flight when one was refused: their refusals tell nothing new.
        self._volley = 0
        self._share = _NO_SHARE
        self.in_flight = 0
        self.refused = 0
        """Submits that the provider answered with 429 in this run."""

    # -- whether a submit may be sent

    @property
    def slots(self) -> int:
        """How many jobs may be in flight at once, by the present knowledge."""
        return int(min(self._slots, self._share.slots))

    @property
    def is_full(self) -> bool:
        """Whether a job submitted now would wait at the provider."""
        return self.in_flight >= self._limits.slots

    def sent(self, now: float) -> int:
        """How many submits count for the last minute."""
        while self._sent and self._sent[0] <= now - RATE_WINDOW_S:
            self._sent.popleft()
        return len(self._sent)

    def sent_at(self, now: float) -> list[float]:
        """The times of the submits that count for the last minute."""
        self.sent(now)
        return [*self._sent]

    def wait_s(self, now: float) -> float:
        """Seconds until a submit may be sent; inf if a job must end or be answered first."""
        if self.in_flight >= self.slots or self._unanswered >= self._max_unanswered():
            return math.inf
        a_minute = int(min(self._a_minute, self._share.submits_per_minute))
        if not a_minute:
            return math.inf
        over = self.sent(now) - a_minute
        window = self._sent[over] + RATE_WINDOW_S - now if over >= 0 else 0.0
        return max(0.0, self._retry_at - now, self.breaker.wait_s(now), window)

    def _max_unanswered(self) -> int:
        if self.breaker.is_open:
            return 1
        return max(
            MAX_UNANSWERED, (self.in_flight - self._unanswered) // MAX_UNANSWERED
        )

    # -- the life of one submit

    def reserve_slot(self, now: float) -> None:
        """Count a submit that is about to be sent."""
        self.in_flight += 1
        self._unanswered += 1
        self._sent.append(now)

    def hold_slot(self) -> None:
        """Count a job that an earlier run submitted: it holds a slot, too."""
        self.in_flight += 1

    def release_slot(self) -> None:
        """Count a job as ended, whatever its result."""
        self.in_flight -= 1

    def not_sent(self) -> None:
        """The submit of a reserved slot was never sent; `release_slot` follows."""
        self._answered()
        self._forget_sent()

    def accepted(self, now: float) -> None:
        """The provider accepted a submit: close the breaker, and raise the limits a little."""
        self._answered()
        self._refusals = 0
        self.breaker.succeeded()
        self._raise(now, 1.0)

    def throttled(
        self, now: float, retry_after: float | None, over: Over | None = None
    ) -> None:
        """The provider answered 429: lower the limits, and wait as long as it asks."""
        same_volley = self._volley > 0
        self.refused += 1
        self._answered()
        self._forget_sent()
        self._refused_at = now
        if not same_volley:
            self._refusals += 1
            self._volley = self._unanswered
            self._lower(over)
        pause = retry_after
        if pause is None:
            pause = backoff(self._refusals, 0.5, 60.0)
        self._retry_at = max(self._retry_at, now + pause)

    def rejected(self) -> None:
        """The provider refused this job; nothing is wrong with the lane."""
        self._answered()
        self.breaker.succeeded()

    def failed(self, now: float) -> None:
        """A submit got no connection, or its answer was lost."""
        self._answered()
        self.unreachable(now)

    def unreachable(self, now: float) -> None:
        """As `failed`, for a request that was no submit."""
        paused = max(self._retry_at - now, self.breaker.wait_s(now)) > 0
        if self.breaker.is_open and paused:
            # The request was sent before the breaker opened: it tells nothing new.
            return
        self.breaker.failed(now)

    def _answered(self) -> None:
        self._unanswered -= 1
        self._volley = max(0, self._volley - 1)

    def _forget_sent(self) -> None:
        # The oldest one is removed. The submit in question may be older than the window and
        # no longer counted, so removing the newest one could hide another submit.
        if self._sent:
            self._sent.popleft()

    # -- learning

    def set_typical_s(self, typical_s: float) -> None:
        """Set the typical time of a job, which decides how many are queued at the provider."""
        not_lowered = self._slots >= self._max_slots
        self._max_slots = self._limits.slots + self._queued(typical_s)
        if not_lowered:
            self._slots = self._ceiling = float(self._max_slots)

    def _queued(self, typical_s: float) -> int:
        """How many jobs to submit over the slots, so that no slot of a queue is empty."""
        if not self._limits.queues:
            return 0
        share = TURNAROUND_S / typical_s + POLL_DELAY_SHARE
        return math.ceil(self._limits.slots * min(1.0, share))

    def learned(self) -> LearnedLimits | None:
        """The limits learned from refusals; None if the configured ones seem to be true."""
        rate_is_true = self._a_minute >= self._limits.submits_per_minute
        if self._slots >= self._max_slots and rate_is_true:
            return None
        return LearnedLimits(self._slots, self._a_minute)

    def restore(self, learned: LearnedLimits, now: float) -> None:
        """Start with the limits that an earlier run learned, with a little less caution."""
        self._slots = max(1.0, min(self._slots, learned.slots))
        self._ceiling = self._slots
        self._a_minute = max(1.0, min(self._a_minute, learned.submits_per_minute))
        self._refused_at = now - RESTORED_AGE_S

    def _raise(self, now: float, accepted: float) -> None:
        # The provider may accept now what it refused long ago: caution fades with time.
        minutes = min(now - self._refused_at, 3600.0) / 60
        rounds = max(1.0, ROUNDS_BEFORE_PROBE / (1 + (minutes / 5) ** 2))
        if self._slots < self._ceiling:
            rounds = 1.0
        more = accepted / (self._slots * rounds)
        self._slots = min(self._max_slots, self._slots + more)
        more = accepted * 0.005 * (1 + minutes**2)
        self._a_minute = min(self._limits.submits_per_minute, self._a_minute + more)

    def _lower(self, over: Over | None) -> None:
        """Lower the limit that caused the refusal, or that may have caused it."""
        repeated = self._refusals > 1
        if over == "slots" or (over is None and not repeated):
            self._lower_slots()
        elif repeated and self._unanswered == 0:
            # Refused again with fewer in flight: the rate is too high, not the concurrency.
            self._a_minute = max(1.0, min(self._a_minute, len(self._sent)))

    def _lower_slots(self) -> None:
        held = max(1.0, self.in_flight - 1.0)
        if self._unanswered:
            # Several are unanswered: the real limit is not known, so halve.
            self._ceiling = self._slots
            self._slots = max(1.0, min(self._slots / 2, held))
        else:
            self._slots = self._ceiling = min(self._slots, held)

    # -- other processes on the same account

    def set_share(self, slots: int, submits_per_minute: int) -> None:
        """Limit this process to its share of the account."""
        self._share = LearnedLimits(slots, submits_per_minute)

    def others_sent(self, at: Iterable[float]) -> None:
        """Count submits of other runs to the same account, at these times."""
        self._sent = deque(sorted([*self._sent, *at]))

    def others_accepted(self, now: float, count: float) -> None:
        """Raise the limits: `count` submits of other runs were accepted on the same account."""
        self._raise(now, count)
