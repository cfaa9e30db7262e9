"""How long jobs of each kind took on own GPUs in this run: the rule for stuck jobs. Pure.

An own GPU sends no bill, so giving a job up costs nothing. A job is given up when it has
taken `TIMES` as long as the longest of the last jobs of its kind, and at least `LEAST_S`.
`ENOUGH_KNOWN` jobs of its kind must have finished in this run, on any own GPU. A job of a
paid provider is never given up.
"""

import math
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Final

from manifests.catalogue import Route
from manifests.jobs import Job

TIMES: Final = 10
"""GPUs differ in speed by less than this, and so does a job that waits for another one."""

LEAST_S: Final = 60.0
"""An engine may load its model, or compile it, for a job that would take seconds."""

ENOUGH_KNOWN: Final = 3

_RECENT: Final = 20

_Kind = tuple[str, str, int]
"""Route, resolution and duration."""


def _recent() -> deque[float]:
    return deque(maxlen=_RECENT)


@dataclass(slots=True)
class RunTimes:
    """Seconds from acceptance to the end, of the last finished jobs of each kind."""

    _took: defaultdict[_Kind, deque[float]] = field(
        default_factory=lambda: defaultdict[_Kind, deque[float]](_recent)
    )

    def finished(self, route: Route, job: Job, took_s: float) -> None:
        """Add a job that was accepted and finished in this run."""
        self._took[_kind(route, job)].append(took_s)

    def longest_s(self, route: Route, job: Job) -> float | None:
        """The longest of the last jobs of this kind; None if too few are known."""
        took = self._took.get(_kind(route, job), ())
        return max(took) if len(took) >= ENOUGH_KNOWN else None

    def stuck_after_s(self, route: Route, job: Job) -> float:
        """How old a job of this kind may be before it is given up; inf if that is unknown."""
        longest = self.longest_s(route, job)
        return math.inf if longest is None else max(LEAST_S, TIMES * longest)


def _kind(route: Route, job: Job) -> _Kind:
    return route.name, job.resolution, job.duration_s
