"""A job of the worker: a row of its store, and a clip on its way through the pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

from tasks.worker.job_spec import JobSpec
from tasks.worker.model_protocol import CancelledError

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]

SEEN: Final = (
    "seq, id, spec, status, created_at, started_at, completed_at, error_code, error,"
    " stages, peak_mb, fetched_at, gone, alone"
)


@dataclass(frozen=True, slots=True)
class Job:
    """A job in the store."""

    seq: int
    spec: JobSpec
    status: Status
    created_at: float
    started_at: float | None
    completed_at: float | None
    error: tuple[str, str] | None
    """The error's code and message."""
    stages: Mapping[str, float]
    peak_mb: float | None
    fetched_at: float | None
    gone: bool
    """Whether its clip was fetched, and deleted."""
    alone: bool
    """Whether it was in the pipeline with others when a process died. It is then made alone."""

    @property
    def id(self) -> str:
        return self.spec.id


def read(row: tuple[Any, ...]) -> Job:
    seq, _, spec, status, created, started, completed, code, why, stages, *rest = row
    peak_mb, fetched, gone, alone = rest
    return Job(
        seq=seq,
        spec=JobSpec.read(spec),
        status=status,
        created_at=created,
        started_at=started,
        completed_at=completed,
        error=None if code is None else (code, why),
        stages=orjson.loads(stages),
        peak_mb=peak_mb,
        fetched_at=fetched,
        gone=bool(gone),
        alone=bool(alone),
    )


@dataclass(slots=True)
class Run:
    """A clip on its way through the pipeline."""

    job: Job
    work: Any = None
    stages: dict[str, float] = field(default_factory=dict[str, float])
    peak_mb: float = 0.0
    steps: int = 0
    cancelled: bool = False

    def go_on(self) -> None:
        """Check for cancellation, before each stage and each step.

        Raises:
            CancelledError: the job was cancelled.
        """
        if self.cancelled:
            raise CancelledError

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def spec(self) -> JobSpec:
        return self.job.spec
