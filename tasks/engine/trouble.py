"""Troubles: the reasons that keep the jobs of a lane from moving, by lane and stage.

The engine reports each failed and each successful request. A stage is in trouble after
`IN_A_ROW` failures without a success between them, or `UNHEALED_S` seconds after one
failure. A success for one job says nothing about the failures of another job, whose failures
count until it succeeds or the run leaves it.

The same record is shown at the terminal, in the live page and by `nightreel status`, and
sent to the batch by shards that run in other processes.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum, auto
from typing import Any, Final

from manifests.reasons import alike

log = logging.getLogger(__name__)

IN_A_ROW: Final = 3
"""Failures in a row that make a trouble."""

UNHEALED_S: Final = 30.0
"""Seconds without a success after which a single failure is a trouble."""

LANELESS: Final = ""
"""The lane of a trouble that concerns no lane, such as one of the store."""


class Stage(StrEnum):
    """The step of a job that fails."""

    UPLOAD = auto()
    SUBMIT = auto()
    POLL = auto()
    GENERATE = auto()
    """The provider ends jobs without a clip."""
    QUEUE = auto()
    """The provider has finished nothing for long."""
    DOWNLOAD = auto()
    PUBLISH = auto()
    STORE = auto()
    DOUBT = auto()
    """Submits without an answer, whose jobs wait until they are settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """The trouble of one stage of a lane."""

    lane: str
    stage: Stage
    reason: str
    """The newest reason."""
    count: int
    """Failures since the latest success."""
    since: float
    """When the first of these failures was, in Unix seconds."""

    @property
    def place(self) -> str:
        """The lane, if it concerns one, and the stage."""
        return f"{self.lane} {self.stage}".strip()

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> "Trouble":
        parsed: dict[str, Any] = {"stage": Stage(fields["stage"])}
        return cls(**{**fields, **parsed})


@dataclass(slots=True)
class _Failing:
    """The failures of one job at one stage, or of jobs that the run has left."""

    reason: str
    since: float
    count: int = 0


Key = tuple[str, Stage]
"""A lane and a stage."""


@dataclass(slots=True)
class Troubles:
    """The failures of a run that no success has healed yet."""

    today: Callable[[], float]
    _failing: dict[Key, dict[str, _Failing]] = field(
        default_factory=dict[Key, dict[str, _Failing]]
    )
    """By job; the key "" holds failures of no job in particular."""
    _newest: dict[Key, str] = field(default_factory=dict[Key, str])
    _told: dict[Key, Trouble] = field(default_factory=dict[Key, Trouble])

    def failed(self, lane: str, stage: Stage, reason: str, job: str = "") -> None:
        """Count a failure of a job, or of the lane."""
        failing = self._failing.setdefault((lane, stage), {})
        one = failing.setdefault(job, _Failing(reason, self.today()))
        one.reason, one.count = reason, one.count + 1
        self._newest[lane, stage] = reason

    def observed(
        self, lane: str, stage: Stage, reason: str, *, count: int, for_s: float
    ) -> None:
        """Set the failures of a stage, for a caller that counts them itself."""
        since = self.today() - for_s
        self._failing[lane, stage] = {"": _Failing(reason, since, count)}
        self._newest[lane, stage] = reason

    def succeeded(self, lane: str, stage: Stage, job: str = "") -> None:
        """Heal the failures of this job, and those of no job in particular."""
        if failing := self._failing.get((lane, stage)):
            failing.pop(job, None)
            failing.pop("", None)
            if not failing:
                del self._failing[lane, stage]

    def left(self, job: str) -> None:
        """Count the failures of a job as the lane's: the run tries the job no more.

        A doubt stays the job's own, because the run has still to settle it.
        """
        for (_, stage), stages in self._failing.items():
            if stage is Stage.DOUBT:
                continue
            if (one := stages.pop(job, None)) is not None:
                rest = stages.setdefault("", _Failing(one.reason, one.since))
                rest.reason, rest.count = one.reason, rest.count + one.count
                rest.since = min(rest.since, one.since)

    def standing(self) -> list[Trouble]:
        """The troubles at this moment, the oldest first."""
        found = [*self._standing()]
        return sorted(found, key=lambda trouble: trouble.since)

    def reason(self, lanes: Iterable[str], *stages: Stage) -> str | None:
        """The newest reason of a failure on these lanes, if any stage of them fails."""
        for lane in lanes:
            for stage in stages or Stage:
                if (lane, stage) in self._failing:
                    return self._newest[lane, stage]
        return None

    def _standing(self) -> Iterator[Trouble]:
        now = self.today()
        for (lane, stage), failing in self._failing.items():
            count = sum(one.count for one in failing.values())
            since = min(one.since for one in failing.values())
            # The clock may have been set back.
            if count >= IN_A_ROW or abs(now - since) >= UNHEALED_S:
                yield Trouble(
                    lane=lane,
                    stage=stage,
                    reason=self._newest[lane, stage],
                    count=count,
                    since=since,
                )

    def tell(self, troubles: Iterable[Trouble]) -> None:
        """Log each of these once, again when its reason changes, and when it has healed."""
        standing = {(one.lane, one.stage): one for one in troubles}
        for key, one in standing.items():
            known = self._told.get(key)
            if known is None or alike(known.reason) != alike(one.reason):
                log.warning(
                    "lane.trouble lane=%s stage=%s count=%d since_s=%.0f failures "
                    "without a success: %s",
                    one.lane,
                    one.stage,
                    one.count,
                    max(0.0, self.today() - one.since),
                    one.reason,
                )
        for key, known in self._told.items():
            if key not in standing:
                log.warning(
                    "lane.healed lane=%s stage=%s after_s=%.0f it works again",
                    known.lane,
                    known.stage,
                    max(0.0, self.today() - known.since),
                )
        self._told = standing


def merged(reports: Iterable[Iterable[Trouble]]) -> list[Trouble]:
    """One trouble for each lane and stage, of several processes."""
    found: dict[Key, Trouble] = {}
    for one in (trouble for report in reports for trouble in report):
        key = one.lane, one.stage
        known = found.get(key)
        found[key] = (
            one
            if known is None
            else replace(
                one,
                count=known.count + one.count,
                since=min(known.since, one.since),
            )
        )
    return sorted(found.values(), key=lambda trouble: trouble.since)
