"""How hard a lane may be pushed, and when to look: pure, the clock is passed in.

A lane has slots (clips being made at once), submits per minute, and a breaker. What is
configured is what we were told; what the provider bears is learned from its refusals. A
provider that is down, or that loses answers, is left alone for a while and tried again
with one job at a time.

Times are seconds on any clock that only goes forward.
"""

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tasks.providers.errors import Over

MINUTE: Final = 61.0
"""Seconds in which no more submits than allowed are sent: a little over a minute, for
the network between our clock and theirs."""

TYPICAL_S: Final = 60.0
"""How long a clip takes where nothing has been seen of its lane: what WaveSpeed's and
fal's documents show for 5 seconds at 480p (read 2026-11)."""

TURNAROUND_S: Final = 2.0
"""From a job's end, once noticed, to the answer to the next submit."""

NOTICED: Final = 0.05
"""How late an end is noticed, in shares of a job's time: see `Looks`."""

TROUBLES: Final = 3
"""Failures in a row after which a lane is tried with one job at a time."""

REMEMBERED_AS_S: Final = 300.0
"""What an earlier night's refusals count for: as if they had been so long ago."""

TRUST: Final = 4
"""Submits on their way at once to a lane that has yet to take one; later a quarter of what
it is at work on. Where less is borne than we were told, few are refused in one volley."""

CAUTION: Final = 8
"""Rounds of successes that earn one slot more than was last refused: a probe costs a
refused call, and one in 8 rounds keeps those well under 5 % of jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a lane was told that it may do."""

    slots: int
    submits_per_minute: int
    queues: bool = False
    """Whether work over the slots waits at the provider instead of being refused."""
    submits_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """What an account was found to bear, where that is less than what we were told."""

    slots: float
    submits_per_minute: float


_ALL: Final = Learned(math.inf, math.inf)


class Pace:
    """One lane's pacing: ask `wait`, then `begin`, say what came of it, then `done`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Nothing is known yet: as for a quick model, until `expect` knows better.
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
        # Submits that were on their way when one was refused: theirs is no fresh news.
        self._volley = 0
        self._troubles = 0
        self._share = _ALL
        self.in_flight = 0

    @property
    def slots(self) -> int:
        """How many clips it may make at once, as far as we know by now."""
        return int(min(self._slots, self._share.slots))

    @property
    def is_full(self) -> bool:
        """Whether what is submitted now would wait at the provider."""
        return self.in_flight >= self._limits.slots

    def share(self, slots: int, submits_per_minute: int) -> None:
        """No more than so much of it is ours: others submit to the same account."""
        self._share = Learned(slots, submits_per_minute)

    def others_sent(self, at: Iterable[float]) -> None:
        """Somebody else submitted to the same account at these times."""
        self._sent = deque(sorted([*self._sent, *at]))

    def sent(self, now: float) -> int:
        """How many submits count for the minute that is over now."""
        while self._sent and self._sent[0] <= now - MINUTE:
            self._sent.popleft()
        return len(self._sent)

    @property
    def tripped(self) -> bool:
        """Whether the breaker is open: one job at a time, after a wait."""
        return self._troubles >= TROUBLES

    @property
    def hopeless(self) -> bool:
        """Whether it has been tried in vain for about a quarter of an hour."""
        return self._troubles >= TROUBLES + 8

    def learned(self) -> Learned | None:
        """What refusals have taught; None where what we were told seems to be true."""
        if self._slots >= self._most and self._a_minute >= self._most_a_minute:
            return None
        return Learned(self._slots, self._a_minute)

    def recall(self, learned: Learned, now: float) -> None:
        """Begin where an earlier night left off, a little less cautious by now."""
        self._slots = max(1.0, min(self._slots, learned.slots))
        self._ceiling = self._slots
        self._a_minute = max(1.0, min(self._a_minute, learned.submits_per_minute))
        self._refused_at = now - REMEMBERED_AS_S

    def wait(self, now: float) -> float:
        """Seconds until a submit may be sent; inf until something comes back."""
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
        """A submit is about to be sent."""
        self.in_flight += 1
        self._unanswered += 1
        self._sent.append(now)

    def resumed(self) -> None:
        """A job that an earlier run submitted holds a slot there too."""
        self.in_flight += 1

    def expect(self, typical_s: float) -> None:
        """Jobs take about so long: what is queued at the provider is worth as much."""
        whole = self._slots >= self._most
        self._most = self._limits.slots + self._spare(typical_s)
        if whole:
            self._slots = self._ceiling = float(self._most)

    def _spare(self, typical_s: float) -> int:
        """Where the provider queues, a few more than it runs: as many as end while one
        end is noticed and the next submit is answered, so that no slot is empty."""
        if not self._limits.queues:
            return 0
        share = TURNAROUND_S / typical_s + NOTICED
        return math.ceil(self._limits.slots * min(1.0, share))

    def withdrawn(self) -> None:
        """What was begun was never sent; `done` follows."""
        self._answered()
        # The oldest, which may be over a minute old and gone: nobody else's is hidden.
        if self._sent:
            self._sent.popleft()

    def done(self) -> None:
        """A slot is given back, whatever came of the job."""
        self.in_flight -= 1

    def accepted(self, now: float) -> None:
        """The provider took it: the lane is well, and may be asked for a little more."""
        self._answered()
        self._refusals = 0
        self._troubles = 0
        self._grow(now)

    def others_accepted(self, now: float, count: float) -> None:
        """So many submits of somebody else were accepted on the same account."""
        self._grow(now, count)

    def _grow(self, now: float, accepted: float = 1.0) -> None:
        # What was refused long ago may be welcome now: caution fades with the minutes.
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
        """Too much or too fast: fewer at once, or less often, and not before it says."""
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
        """It answered, and would not have this job: nothing is wrong with the lane."""
        self._answered()
        self._troubles = 0

    def troubled(self, now: float) -> None:
        """It could not be reached, or its answer was lost: after a few, leave it alone."""
        self._answered()
        self.out_of_reach(now)

    def out_of_reach(self, now: float) -> None:
        """The same, of what was no submit."""
        if self.tripped and now < self._not_before:
            # Sent before the breaker opened: the same piece of news.
            return
        self._troubles += 1
        if self.tripped:
            longer = min(self._troubles - TROUBLES, 6)
            self._not_before = max(self._not_before, now + min(300.0, 5.0 * 2**longer))

    def _learn(self, over: Over | None) -> None:
        """What a refusal teaches of the limit that it was, or may have been."""
        again = self._refusals > 1
        if over == "slots" or (over is None and not again):
            self._shrink()
        elif again and self._unanswered == 0:
            # Refused again with fewer in flight: it is the rate that is too high.
            self._a_minute = max(1.0, min(self._a_minute, len(self._sent)))

    def _answered(self) -> None:
        self._unanswered -= 1
        self._volley = max(0, self._volley - 1)

    def _shrink(self) -> None:
        held = max(1.0, self.in_flight - 1.0)
        if self._unanswered:
            # Several are on their way: how many it bears is not known, so halve.
            self._ceiling = self._slots
            self._slots = max(1.0, min(self._slots / 2, held))
        else:
            self._slots = self._ceiling = min(self._slots, held)


class Looks:
    """When to look at a job: few looks, and a finished one is noticed within a few per
    cent of its run time.

    Learns how long the lane's jobs take, and then looks just before the fastest finish
    and as often as the spread is worth. Not knowing yet, it looks at growing intervals.
    """

    def __init__(self, *, shortest_s: float = 0.1) -> None:
        self._shortest = shortest_s
        self._recent = deque[float](maxlen=200)
        self._sorted: list[float] = []

    @property
    def learned(self) -> bool:
        """Whether enough jobs have finished for the lane's own latencies to be believed."""
        return len(self._sorted) >= LEARNED

    def learn(self, took_s: Iterable[float]) -> None:
        """How long jobs took on earlier nights."""
        for took in took_s:
            # Two clocks that did not agree may say that it took less than nothing.
            if took > 0:
                self.finished(0.0, took)

    def finished(self, unfinished_s: float, finished_s: float) -> None:
        """A job was seen unfinished and then finished, so long after it was accepted."""
        took = (unfinished_s + finished_s) / 2 if unfinished_s else finished_s
        if len(self._recent) == self._recent.maxlen:
            self._sorted.remove(self._recent[0])
        self._recent.append(took)
        insort(self._sorted, took)

    def next(self, elapsed_s: float) -> float:
        """Seconds to wait before the next look at a job that has run this long."""
        if not self.learned:
            return max(2 * self._shortest, min(elapsed_s * 0.25, TYPICAL_S))
        typical = self._sorted[len(self._sorted) // 2]
        fine = max(self._shortest, typical * 0.07)
        # However long it has run: once it is done, its slot is another job's.
        most = max(typical, TYPICAL_S / 2)
        if elapsed_s < (fastest := self._sorted[0] * 0.97):
            return max(self._shortest, fastest - elapsed_s)
        after = bisect_right(self._sorted, elapsed_s)
        if after == len(self._sorted):
            return max(fine, min((elapsed_s - typical) * 0.2, most))
        # Then when the next tenth of the lane's jobs are done.
        share = max(1, len(self._sorted) // 10)
        target = self._sorted[min(after + share, len(self._sorted)) - 1]
        # A few stragglers must not have all others noticed late.
        return max(fine, min(target - elapsed_s, elapsed_s * 0.2, most))

    def next_early(self, elapsed_s: float) -> float:
        """As `next`, for one of the few jobs that are looked at long before the fastest
        finish: what was learned may be true no more."""
        usual = self.next(elapsed_s)
        if not self.learned:
            return usual
        first = self._sorted[0] / 16
        return min(usual, max(self._shortest, first - elapsed_s, elapsed_s * 0.25))

    def is_news(self, took_s: float) -> bool:
        """Whether others like it may have finished too, without anybody having looked."""
        return self.learned and took_s < self._sorted[0] * 0.8

    def expected_s(self) -> float | None:
        """How long a job of this lane takes, or None before enough have finished."""
        if not self.learned:
            return None
        return self._sorted[len(self._sorted) // 2]


LEARNED: Final = 8
"""Finished jobs from which on a lane's own latencies are believed."""
