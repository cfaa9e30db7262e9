"""A clip on its way through the pipeline."""

from dataclasses import dataclass, field
from typing import Any

from tasks.worker.job_spec import JobSpec
from tasks.worker.jobs import Job
from tasks.worker.model_protocol import CancelledError


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
