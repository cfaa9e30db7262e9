"""The state of one shard as the batch knows it, from the reports of the shard's runs."""

import asyncio

from tasks.distributed.messages import ShardReport


class ShardStatus:
    """A shard that is being run by another process."""

    def __init__(self, first_uncounted: int = 1, *, runs_here: bool = False) -> None:
        self.first_uncounted = first_uncounted
        """The first generation whose records are not in the tally."""
        self.runs_here = runs_here
        """Whether it runs on this process's lanes, which count their daily use themselves."""
        self.latest: tuple[int, int] = (0, 0)
        """The generation and the beat of the latest report."""
        self.silent_s = 0.0
        """For how long no new report came, while the store could be reached."""
        self.report: ShardReport | None = None
        self.counted: ShardReport | None = None
        """The report that is in the tally, of a run whose records are not counted yet."""
        self.done = False
        self.started = False
        """Whether a process is known to run it, even if it has not reported."""
        self.reported = asyncio.Event()

    @property
    def generation(self) -> int:
        """The number of the latest run that has reported; 0 if none has."""
        return self.latest[0]

    def mark_started(self) -> None:
        """Note that a process has started: from now on it should report."""
        if not self.started:
            self.started, self.silent_s = True, 0.0
