"""Chooses the next job: similar clips one after the other, but no job waits for ever.

A job that may have killed a process goes before all others, and is made alone.
"""

from collections.abc import Sequence
from typing import Final

from tasks.worker.job_spec import JobSpec, Model
from tasks.worker.jobs import Job

MOST_IN_A_ROW: Final = 8
"""The most clips of one kind in a row while the oldest job is of another kind."""

Kind = tuple[int, int, bool]
"""Tokens, steps, and whether there is guidance. Equal kinds run without a recompile."""


def kind(spec: JobSpec, model: Model) -> Kind:
    return model.tokens(spec.shape), spec.steps, spec.guided


class Scheduler:
    """Remembers the last kind, and how often in a row it was chosen."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._last: Kind | None = None
        self._row = 0

    def next(self, waiting: Sequence[Job], under_way: Sequence[Job]) -> Job | None:
        """The next of `waiting` (oldest first): the oldest of the last kind, or the oldest."""
        alone = next((job for job in waiting if job.alone), None)
        if alone or any(job.alone for job in under_way):
            return None if under_way else alone
        if not waiting:
            return None
        alike = (job for job in waiting if kind(job.spec, self._model) == self._last)
        chosen = next(alike, None) if self._row < MOST_IN_A_ROW else None
        chosen = chosen or waiting[0]
        self._took(kind(chosen.spec, self._model), oldest=chosen is waiting[0])
        return chosen

    def _took(self, kind: Kind, *, oldest: bool) -> None:
        self._row = 0 if oldest else self._row + 1
        self._last = kind
