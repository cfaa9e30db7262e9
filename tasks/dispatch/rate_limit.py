"""Paces submits and polls. Pure: the clock is passed in.

A lane has slots (clips being made at once), submits per minute, and a circuit breaker. The
configuration has the documented limits; `Pace` learns the real ones from refusals. A provider
that is down, or that loses answers, is paused for a while and tried again with one job at a
time.

Times are seconds on any monotonic clock.
"""

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tasks.providers.errors import Over

MINUTE: Final = 61.0
"""Seconds in which no more submits than allowed per minute are sent. The extra second covers
the network delay between our clock and the provider's."""

TYPICAL_S: Final = 60.0
"""How long a clip takes on a lane without any finished job. The value is what WaveSpeed's and
fal's documents show for 5 seconds at 480p (read 2026-11)."""

TURNAROUND_S: Final = 2.0
"""From a job's end, once noticed, to the answer to the next submit."""

NOTICED: Final = 0.05
"""How late the end of a job is noticed, as a share of its run time: see `Looks`."""

TROUBLES: Final = 3
"""Failures in a row that open the breaker: one job at a time from then on."""

REMEMBERED_AS_S: Final = 300.0
"""The age that the refusals of an earlier run are given."""

TRUST: Final = 4
"""Unanswered submits at once on a lane that has not accepted one yet; later a quarter of its
jobs in flight. If the real limit is lower than configured, one volley has few refusals."""

CAUTION: Final = 8
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
class Learned:
    """The real limits of an account, where they are lower than the configured ones."""

    slots: float
    submits_per_minute: float


_ALL: Final = Learned(math.inf, math.inf)


class Pace:
    """One lane's pacing: call `wait`, then `begin`, then the outcome's method, then `done`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Nothing is known yet: assume a fast model, until `expect` is called.
        self._most = limits.slots + self._spare(typical_s=10.0)
        self._slots = float(self._most)
        self._ceiling = float(self._most)
        self._most_a_minute = limits.submits_per_minute
        self._a_minute = float(limits.submits_per_minute)
        self._sent = deque[float]()
        self._unanswered = 0
        self._not_before = -math.inf
        self._refusals = 0
        self._refused_at = -math.inf
        # Submits in flight when one was refused: their refusals tell nothing new.
        self._volley = 0
        self._troubles = 0
        self._share = _ALL
        self.in_flight = 0

    @property
    def slots(self) -> int:
        """How many clips it may make at once, by the present knowledge."""
        return int(min(self._slots, self._share.slots))

    @property
    def is_full(self) -> bool:
        """Whether a job submitted now would wait at the provider."""
        return self.in_flight >= self._limits.slots

    def share(self, slots: int, submits_per_minute: int) -> None:
        """Limit our share: others submit to the same account."""
        self._share = Learned(slots, submits_per_minute)

    def others_sent(self, at: Iterable[float]) -> None:
        """Count submits of other runs to the same account, at these times."""
        self._sent = deque(sorted([*self._sent, *at]))

    def sent(self, now: float) -> int:
        """How many submits count for the last minute."""
        while self._sent and self._sent[0] <= now - MINUTE:
            self._sent.popleft()
        return len(self._sent)

    @property
    def tripped(self) -> bool:
        """Whether the breaker is open: one job at a time, after a wait."""
        return self._troubles >= TROUBLES

    @property
    def hopeless(self) -> bool:
        """Whether all tries have failed for about a quarter of an hour."""
        return self._troubles >= TROUBLES + 8

    def learned(self) -> Learned | None:
        """The limits learned from refusals; None if the configured ones seem to be true."""
        if self._slots >= self._most and self._a_minute >= self._most_a_minute:
            return None
        return Learned(self._slots, self._a_minute)

    def recall(self, learned: Learned, now: float) -> None:
        """Start with the limits that an earlier run learned, with a little less caution."""
        self._slots = max(1.0, min(self._slots, learned.slots))
        self._ceiling = self._slots
        self._a_minute = max(1.0, min(self._a_minute, learned.submits_per_minute))
        self._refused_at = now - REMEMBERED_AS_S

    def wait(self, now: float) -> float:
        """Seconds until a submit may be sent; inf if a job must end or be answered first."""
        if self.in_flight >= self.slots or self._unanswered >= self._most_unanswered():
            return math.inf
        a_minute = int(min(self._a_minute, self._share.submits_per_minute))
        if not a_minute:
            return math.inf
        over = self.sent(now) - a_minute
        minute = self._sent[over] + MINUTE - now if over >= 0 else 0.0
        return max(0.0, self._not_before - now, minute)

    def _most_unanswered(self) -> int:
        if self.tripped:
            return 1
        return max(TRUST, (self.in_flight - self._unanswered) // TRUST)

    def begin(self, now: float) -> None:
        """Count a submit that is about to be sent."""
        self.in_flight += 1
        self._unanswered += 1
        self._sent.append(now)

    def resumed(self) -> None:
        """Count a job that an earlier run submitted: it holds a slot, too."""
        self.in_flight += 1

    def expect(self, typical_s: float) -> None:
        """Set the typical time of a job, which decides how many are queued at the provider."""
        whole = self._slots >= self._most
        self._most = self._limits.slots + self._spare(typical_s)
        if whole:
            self._slots = self._ceiling = float(self._most)

    def _spare(self, typical_s: float) -> int:
        """How many jobs to submit over the slots, if the provider queues.

        As many as end between the end of one job and the answer to the next submit, so that
        no slot is empty.
        """
        if not self._limits.queues:
            return 0
        share = TURNAROUND_S / typical_s + NOTICED
        return math.ceil(self._limits.slots * min(1.0, share))

    def withdrawn(self) -> None:
        """Take back a `begin` whose submit was never sent; `done` follows."""
        self._answered()
        # The oldest, which may be over a minute old and gone: nobody else's is hidden.
        if self._sent:
            self._sent.popleft()

    def done(self) -> None:
        """Release a slot, whatever the result of the job."""
        self.in_flight -= 1

    def accepted(self, now: float) -> None:
        """The provider accepted a submit: close the breaker, and raise the limits a little."""
        self._answered()
        self._refusals = 0
        self._troubles = 0
        self._grow(now)

    def others_accepted(self, now: float, count: float) -> None:
        """Raise the limits: `count` submits of other runs were accepted on the same account."""
        self._grow(now, count)

    def _grow(self, now: float, accepted: float = 1.0) -> None:
        # The provider may accept now what it refused long ago: caution fades with time.
        calm = min(now - self._refused_at, 3600.0) / 60
        caution = max(1.0, CAUTION / (1 + (calm / 5) ** 2))
        if self._slots < self._ceiling:
            caution = 1.0
        more = accepted / (self._slots * caution)
        self._slots = min(self._most, self._slots + more)
        more = accepted * 0.005 * (1 + calm**2)
        self._a_minute = min(self._most_a_minute, self._a_minute + more)

    def throttled(
        self, now: float, retry_after: float | None, over: Over | None = None
    ) -> None:
        """The provider answered 429: lower the limits, and wait as long as it asks."""
        old_news = self._volley > 0
        self._answered()
        # The oldest, which may be over a minute old and gone: nobody else's is hidden.
        if self._sent:
            self._sent.popleft()
        self._refused_at = now
        if not old_news:
            self._refusals += 1
            self._volley = self._unanswered
            self._learn(over)
        backed_off = min(60.0, 0.5 * 2 ** min(self._refusals - 1, 10))
        pause = backed_off if retry_after is None else retry_after
        self._not_before = max(self._not_before, now + pause)

    def rejected(self) -> None:
        """The provider refused this job; nothing is wrong with the lane."""
        self._answered()
        self._troubles = 0

    def troubled(self, now: float) -> None:
        """Count a failure: no connection or a lost answer. A few in a row open the breaker."""
        self._answered()
        self.out_of_reach(now)

    def out_of_reach(self, now: float) -> None:
        """As `troubled`, for a request that was no submit."""
        if self.tripped and now < self._not_before:
            # The request was sent before the breaker opened: it tells nothing new.
            return
        self._troubles += 1
        if self.tripped:
            longer = min(self._troubles - TROUBLES, 6)
            self._not_before = max(self._not_before, now + min(300.0, 5.0 * 2**longer))

    def _learn(self, over: Over | None) -> None:
        """Lower the limit that caused the refusal, or that may have caused it."""
        again = self._refusals > 1
        if over == "slots" or (over is None and not again):
            self._shrink()
        elif again and self._unanswered == 0:
            # Refused again with fewer in flight: the rate is too high, not the concurrency.
            self._a_minute = max(1.0, min(self._a_minute, len(self._sent)))

    def _answered(self) -> None:
        self._unanswered -= 1
        self._volley = max(0, self._volley - 1)

    def _shrink(self) -> None:
        held = max(1.0, self.in_flight - 1.0)
        if self._unanswered:
            # Several are unanswered: the real limit is not known, so halve.
            self._ceiling = self._slots
            self._slots = max(1.0, min(self._slots / 2, held))
        else:
            self._slots = self._ceiling = min(self._slots, held)


class Looks:
    """Decides when to poll a job: few polls, and an end is noticed within a few per cent of
    the run time.

    It learns how long the lane's jobs take. Then it polls just before the fastest ones
    finish, and as often as the spread justifies. Before that, it polls at growing intervals.
    """

    def __init__(self, *, shortest_s: float = 0.1) -> None:
        self._shortest = shortest_s
        self._recent = deque[float](maxlen=200)
        self._sorted: list[float] = []

    @property
    def learned(self) -> bool:
        """Whether enough jobs have finished to rely on the lane's own latencies."""
        return len(self._sorted) >= LEARNED

    def learn(self, took_s: Iterable[float]) -> None:
        """Add the run times of jobs from earlier runs, in seconds."""
        for took in took_s:
            # With two clocks that disagree, the difference may be below 0.
            if took > 0:
                self.finished(0.0, took)

    def finished(self, unfinished_s: float, finished_s: float) -> None:
        """Add a job that was seen unfinished, then finished, at these seconds after acceptance."""
        took = (unfinished_s + finished_s) / 2 if unfinished_s else finished_s
        if len(self._recent) == self._recent.maxlen:
            self._sorted.remove(self._recent[0])
        self._recent.append(took)
        insort(self._sorted, took)

    def next(self, elapsed_s: float) -> float:
        """Seconds to wait before the next poll of a job that has run `elapsed_s` seconds."""
        if not self.learned:
            return max(2 * self._shortest, min(elapsed_s * 0.25, TYPICAL_S))
        typical = self._sorted[len(self._sorted) // 2]
        fine = max(self._shortest, typical * 0.07)
        # However long it has run: once it has finished, another job needs its slot.
        most = max(typical, TYPICAL_S / 2)
        if elapsed_s < (fastest := self._sorted[0] * 0.97):
            return max(self._shortest, fastest - elapsed_s)
        after = bisect_right(self._sorted, elapsed_s)
        if after == len(self._sorted):
            return max(fine, min((elapsed_s - typical) * 0.2, most))
        # Poll when the next tenth of the lane's jobs have finished.
        share = max(1, len(self._sorted) // 10)
        target = self._sorted[min(after + share, len(self._sorted)) - 1]
        # A few stragglers must not delay the polls of all others.
        return max(fine, min(target - elapsed_s, elapsed_s * 0.2, most))

    def next_early(self, elapsed_s: float) -> float:
        """As `next`, for one of the few jobs that are polled long before the fastest finish,
        because the learned times may be out of date."""
        usual = self.next(elapsed_s)
        if not self.learned:
            return usual
        first = self._sorted[0] / 16
        return min(usual, max(self._shortest, first - elapsed_s, elapsed_s * 0.25))

    def is_news(self, took_s: float) -> bool:
        """Whether this time is so short that other unpolled jobs may have finished, too."""
        return self.learned and took_s < self._sorted[0] * 0.8

    def expected_s(self) -> float | None:
        """How long a job of this lane takes, or None before enough have finished."""
        if not self.learned:
            return None
        return self._sorted[len(self._sorted) // 2]


LEARNED: Final = 8
"""The number of finished jobs after which a lane's own latencies are used."""
