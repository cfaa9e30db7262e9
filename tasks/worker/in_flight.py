"""A clip on its way down the assembly line."""

from dataclasses import dataclass, field
from typing import Any

from tasks.worker.job_spec import Ask
from tasks.worker.jobs import Job
from tasks.worker.model_protocol import CancelledError


@dataclass(slots=True)
class Run:
    """A clip on its way down the line."""

    job: Job
    work: Any = None
    stages: dict[str, float] = field(default_factory=dict[str, float])
    peak_mb: float = 0.0
    steps: int = 0
    cancelled: bool = False

    def go_on(self) -> None:
        """Looked at before each stage and each step.

        Raises:
            CancelledError: it is not wanted any more.
        """
        if self.cancelled:
            raise CancelledError

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def ask(self) -> Ask:
        return self.job.ask
