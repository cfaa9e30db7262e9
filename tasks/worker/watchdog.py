"""A step that hangs ends the process: nothing else gets a thread back from a device."""

import statistics
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

TIMES: Final = 5
"""A step may take this many times the median of its like."""
FLOOR_S: Final = 30.0
"""However quick its like are: the first of a clip has the still's encoding in it."""
KNOWN: Final = 3
"""Steps after which their median is believed."""

Bark = Callable[[str, str], None]
"""Told the job whose step hangs, and for how long it has."""


class Patience:
    """How long a step may take, by what its like have taken."""

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self._took: defaultdict[Hashable, deque[float]] = defaultdict(
            lambda: deque(maxlen=64)
        )

    def took(self, like: Hashable, seconds: float) -> None:
        self._took[like].append(seconds)

    def allows(self, like: Hashable) -> float:
        took = self._took[like]
        if len(took) < KNOWN:
            return self._first_s
        floor = min(FLOOR_S, self._first_s)
        return max(floor, TIMES * statistics.median(took))


@dataclass(frozen=True, slots=True)
class _Step:
    job: str
    like: Hashable
    since: float
    due: float


class Watchdog:
    """Watches one step of each stage at a time."""

    def __init__(
        self, patience: Patience, bark: Bark, now: Callable[[], float]
    ) -> None:
        self._patience = patience
        self._bark = bark
        self._now = now
        self._steps: dict[str, _Step] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()

    def step(self, stage: str, job: str, like: Hashable) -> None:
        """A step begins, and the one before it has ended."""
        with self._lock:
            now = self._now()
            before = self._steps.get(stage)
            if before is not None:
                self._patience.took((stage, before.like), now - before.since)
            due = now + self._patience.allows((stage, like))
            self._steps[stage] = _Step(job, like, now, due)

    def rest(self, stage: str) -> None:
        """Nothing runs in this stage."""
        with self._lock:
            self._steps.pop(stage, None)

    def watch(self) -> None:
        """Look until `stop`, in a thread of its own."""
        while not self._over.wait(0.5):
            self.look()

    def look(self) -> None:
        with self._lock:
            now = self._now()
            late = [step for step in self._steps.values() if now > step.due]
        for step in late:
            self._bark(step.job, f"no step for {now - step.since:.0f} s")

    def stop(self) -> None:
        self._over.set()
