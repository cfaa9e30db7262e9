"""A step that hangs ends the process: nothing else gets a thread back from a device."""

import statistics
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Final

TIMES: Final = 5
"""A step may take this many times the median of its like."""
FLOOR_S: Final = 30.0
"""However quick its like are: the first of a clip has the still's encoding in it."""
KNOWN: Final = 3
"""Steps after which their median is believed."""

LOOKS_S: Final = 0.5
OVERSLEPT_S: Final = 5.0
"""Between two looks, though they are half a second apart."""

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
        took = self._took.get(like, ())
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
        self._looked = now()
        self._steps: dict[str, _Step] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()

    def step(
        self, stage: str, job: str, like: Hashable, within_s: float | None = None
    ) -> None:
        """A step begins, and the one before it has ended; it may take `within_s`, or what
        its like allow."""
        with self._lock:
            now = self._now()
            before = self._steps.get(stage)
            if before is not None:
                self._patience.took((stage, before.like), now - before.since)
            allowed_s = within_s or self._patience.allows((stage, like))
            due = now + allowed_s
            self._steps[stage] = _Step(job, like, now, due)

    def rest(self, stage: str) -> None:
        """Nothing runs in this stage."""
        with self._lock:
            self._steps.pop(stage, None)

    def watch(self) -> None:
        """Look until `stop`; the caller gives it a thread."""
        self.look()
        while not self._over.wait(LOOKS_S):
            self.overslept()
            self.look()

    def overslept(self) -> None:
        """Who was late to look stood still with the whole process (a container that was
        paused, SIGSTOP), and so did every step: that time does not count."""
        with self._lock:
            slept = self._now() - self._looked
            if slept > OVERSLEPT_S:
                for stage, step in self._steps.items():
                    since, due = step.since + slept, step.due + slept
                    self._steps[stage] = replace(step, since=since, due=due)

    def look(self) -> None:
        with self._lock:
            now = self._looked = self._now()
            late = [step for step in self._steps.values() if now > step.due]
        for step in late:
            self._bark(step.job, f"no step for {now - step.since:.0f} s")

    def stop(self) -> None:
        self._over.set()
