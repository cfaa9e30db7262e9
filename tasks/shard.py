"""The Prefect task: one shard of a batch, run by the batch's one engine."""

from contextvars import ContextVar
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.states import Completed

from tasks.batch.batch import Night

NUMBER: ContextVar[int | None] = ContextVar("NUMBER", default=None)
"""Of the shard whose job this is, for whoever tells of it: the UI's logs do not."""


def _name() -> str:
    asked: dict[str, Any] = task_run.get_parameters()
    return named(asked["night"], asked["number"])


def named(night: Night, number: int) -> str:
    """What a shard is called: between which rows it is where that finds one, else how
    many jobs it has."""
    rows = night.rows_of(number)
    first, last = rows[0], rows[-1]
    if rows.is_sorted() and last - first < 2 * rows.len():
        return f"shard {number:04d}, rows {first}-{last}"
    return f"shard {number:04d}, {rows.len()} jobs"


# No Prefect retries: the ledger makes running a shard again safe, and the engine already
# does again whatever is free to do again. No tags: their limits are asked for at the server,
# which may be away.
@task(
    task_run_name=_name,
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def shard(night: Night, number: int) -> Any:
    """Take every job of a shard to its end; how many rows it had and what became of them."""
    NUMBER.set(number)
    ended = await night.run_shard(number)
    said = ", ".join(
        f"{n:,} {state}".replace("_", " ") for state, n in sorted(ended.items())
    )
    # Else Prefect's line about it in the log does not say of which shard it is.
    return Completed(message=f"{named(night, number)}: {said}", data=ended)
