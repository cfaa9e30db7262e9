"""Decides when to poll a job, from the run times of the lane's finished jobs.

This module is pure: callers pass the elapsed seconds in.

The aim is few polls, and an end that is noticed within a few per cent of the run time.
Before `ENOUGH_FINISHED` jobs have finished, a job is polled at growing intervals. Then the
first poll is just before the time of the fastest job, and each further poll is when the next
tenth of the lane's jobs have finished. Stragglers are polled at growing intervals again, at
most one typical run time apart.

A lane may become faster than its learned times. The few jobs that use `next_early_s` are
polled from the start and notice it (`is_news`); the caller then polls the others, too.
"""

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable
from typing import Final

TYPICAL_S: Final = 60.0
"""How long a clip takes on a lane without any finished job. The value is what WaveSpeed's and
fal's documents show for 5 seconds at 480p (read 2026-11)."""

ENOUGH_FINISHED: Final = 8
"""The number of finished jobs after which a lane's own run times are used."""


class PollSchedule:
    """The run times of one lane's jobs, and the polls that follow from them."""

    def __init__(self, *, shortest_s: float = 0.1) -> None:
        self._shortest = shortest_s
        self._recent = deque[float](maxlen=200)
        self._sorted: list[float] = []

    @property
    def is_learned(self) -> bool:
        """Whether enough jobs have finished to rely on the lane's own run times."""
        return len(self._sorted) >= ENOUGH_FINISHED

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

    def next_s(self, elapsed_s: float) -> float:
        """Seconds to wait before the next poll of a job that has run `elapsed_s` seconds."""
        if not self.is_learned:
            return max(2 * self._shortest, min(elapsed_s * 0.25, TYPICAL_S))
        if elapsed_s < (fastest := self._sorted[0] * 0.97):
            return max(self._shortest, fastest - elapsed_s)
        typical = self._typical()
        shortest = max(self._shortest, typical * 0.07)
        # However long it has run: once it has finished, another job needs its slot.
        longest = max(typical, TYPICAL_S / 2)
        after = bisect_right(self._sorted, elapsed_s)
        if after == len(self._sorted):
            return max(shortest, min((elapsed_s - typical) * 0.2, longest))
        # Poll when the next tenth of the lane's jobs have finished.
        share = max(1, len(self._sorted) // 10)
        target = self._sorted[min(after + share, len(self._sorted)) - 1]
        # A few stragglers must not delay the polls of all others.
        return max(shortest, min(target - elapsed_s, elapsed_s * 0.2, longest))

    def next_early_s(self, elapsed_s: float) -> float:
        """As `next_s`, for one of the few jobs that are polled long before the fastest finish,
        because the learned times may be out of date."""
        usual = self.next_s(elapsed_s)
        if not self.is_learned:
            return usual
        first = self._sorted[0] / 16
        return min(usual, max(self._shortest, first - elapsed_s, elapsed_s * 0.25))

    def is_news(self, took_s: float) -> bool:
        """Whether this time is so short that other unpolled jobs may have finished, too."""
        return self.is_learned and took_s < self._sorted[0] * 0.8

    def expected_s(self) -> float | None:
        """How long a job of this lane takes, or None before enough have finished."""
        return self._typical() if self.is_learned else None

    def _typical(self) -> float:
        return self._sorted[len(self._sorted) // 2]
