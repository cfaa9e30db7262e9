"""The Prefect task: one shard of a batch, run by the batch's one engine."""

from contextvars import ContextVar
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.states import Completed

from tasks.batch.batch import BatchRun

NUMBER: ContextVar[int | None] = ContextVar("NUMBER", default=None)
"""The number of the shard that this context runs, for the log: Prefect's UI does not show it."""


def _name() -> str:
    asked: dict[str, Any] = task_run.get_parameters()
    return named(asked["batch_run"], asked["number"])


def named(batch_run: BatchRun, number: int) -> str:
    """The name of a shard: its range of rows if that identifies it, else its number of jobs."""
    rows = batch_run.due.shard(number)["row"]
    first, last = rows[0], rows[-1]
    if rows.is_sorted() and last - first < 2 * rows.len():
        return f"shard {number:04d}, rows {first}-{last}"
    return f"shard {number:04d}, {rows.len()} jobs"


# No Prefect retries: the ledger makes it safe to run a shard again, and the engine already
# repeats what is free. No tags: Prefect would ask the server for their limits, and the server
# may be out of reach.
@task(
    task_run_name=_name,
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def shard(batch_run: BatchRun, number: int) -> Any:
    """Run every job of a shard to its end; return the number of jobs by state."""
    NUMBER.set(number)
    ended = await batch_run.run_shard(number)
    counts = ", ".join(
        f"{n:,} {state}".replace("_", " ") for state, n in sorted(ended.items())
    )
    # Without this message, Prefect's log line does not name the shard.
    return Completed(message=f"{named(batch_run, number)}: {counts}", data=ended)
