"""Finds lanes whose provider has ended no job for unusually long."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

from tasks.dispatch import Lane
from tasks.engine.trouble import Stage, Troubles

SHORTEST_S: Final = 600.0
"""Seconds without the end of a job, at the least, after which a lane's queue stands still."""

TIMES: Final = 4
"""The same in times of what one of its jobs takes."""


@dataclass(slots=True)
class Standstills:
    """The jobs at providers, by lane, and when one of a lane's jobs last ended."""

    troubles: Troubles
    now: Callable[[], float]
    _at_work: dict[Hashable, tuple[Lane, float]] = field(
        default_factory=dict[Hashable, tuple[Lane, float]]
    )
    """By job that is being polled: its lane, and when its polling began."""
    _ended_at: dict[str, float] = field(default_factory=dict[str, float])

    def began(self, job: Hashable, lane: Lane) -> None:
        """Note that the polling of a job begins."""
        self._at_work[job] = lane, self.now()

    def ended(self, lane: Lane) -> None:
        """Note that one of the lane's jobs has ended."""
        self._ended_at[lane.name] = self.now()

    def left(self, job: Hashable) -> None:
        """Note that the polling of a job is over, whatever its result."""
        lane, _ = self._at_work.pop(job)
        if not any(other is lane for other, _ in self._at_work.values()):
            self.troubles.succeeded(lane.name, Stage.QUEUE)

    def look(self) -> None:
        """Report each lane on which no job has ended for unusually long."""
        jobs = defaultdict[str, list[float]](list)
        lanes = dict[str, Lane]()
        for lane, began in self._at_work.values():
            lanes[lane.name] = lane
            jobs[lane.name].append(began)
        for name, lane in lanes.items():
            moved_at = max(self._ended_at.get(name, -math.inf), min(jobs[name]))
            self._judge(lane, len(jobs[name]), self.now() - moved_at)

    def _judge(self, lane: Lane, count: int, still_s: float) -> None:
        usual_s = lane.typical_s()
        if still_s <= max(SHORTEST_S, TIMES * usual_s):
            self.troubles.succeeded(lane.name, Stage.QUEUE)
            return
        reason = f"no job has ended, where one usually takes {usual_s:.0f} s"
        self.troubles.observed(
            lane.name, Stage.QUEUE, reason, count=count, for_s=still_s
        )
