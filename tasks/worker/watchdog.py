"""Ends the process if a step hangs: nothing else frees a thread that waits for a device."""

import statistics
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Final

TIMES: Final = 5
"""A step may take this many times the median of its kind."""
FLOOR_S: Final = 30.0
"""The least limit of a step, because the first step of a clip includes encoding the still."""
KNOWN: Final = 3
"""The number of steps after which their median is used."""

LOOKS_S: Final = 0.5
OVERSLEPT_S: Final = 5.0
"""A gap between two checks, normally 0.5 s apart, that shows that the process was frozen."""

Bark = Callable[[str, str], None]
"""Called with the job whose step hangs, and with how long it has hung."""


class Patience:
    """Decides how long a step may take, by the times of earlier steps of its kind."""

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
        """Note the start of a step and the end of the one before it.

        The step may take `within_s` seconds, or what the times of its kind allow.
        """
        with self._lock:
            now = self._now()
            before = self._steps.get(stage)
            if before is not None:
                self._patience.took((stage, before.like), now - before.since)
            allowed_s = within_s or self._patience.allows((stage, like))
            due = now + allowed_s
            self._steps[stage] = _Step(job, like, now, due)

    def rest(self, stage: str) -> None:
        """Note that no step runs in this stage."""
        with self._lock:
            self._steps.pop(stage, None)

    def watch(self) -> None:
        """Check until `stop` is called; the caller provides the thread."""
        self.look()
        while not self._over.wait(LOOKS_S):
            self.overslept()
            self.look()

    def overslept(self) -> None:
        """Extend all limits if the whole process was frozen (a paused container, SIGSTOP).

        A late check shows that; the frozen time of the steps does not count.
        """
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
