"""The Prefect task: one shard of a batch, run by the batch's one engine."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.night import Night


# No Prefect retries: the ledger makes running a shard again safe, and the engine already
# does again whatever is free to do again.
@task(
    task_run_name="shard {number:04d}",
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def shard(night: Night, number: int) -> dict[str, Any]:
    """Take every job of a shard to its end; how many rows it had and what became of them."""
    return await night.run_shard(number)
