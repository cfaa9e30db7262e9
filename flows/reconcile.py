"""The reconcile flow: doubts that can be settled without a person, settled on a schedule."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_table_artifact
from prefect.states import Completed

from flows import lanes as lanes_of
from flows import settings as settings_of
from tasks.reconciling import opened
from tasks.wanted import public


@flow(name="nightreel-reconcile", retries=0, persist_result=False)
async def reconcile(
    *, root: str, config: str | None = None, lanes: list[str] | None = None
) -> Any:
    """Ask the providers about what is in doubt, fetch what is ready, settle the money.

    Args:
        root: URI that everything is kept under.
        config: path of nightreel.toml.
        lanes: only these of its lanes.
    """
    settings = settings_of.load(Path(config) if config else None, lanes=lanes)
    on = await lanes_of.opened(settings)
    rules = lanes_of.rules(settings)
    async with opened(public(root), lanes=on, rules=rules) as books:
        await books.ask()
        await books.fetch()
        await books.settle()
    told = books.told
    said = (
        f"{told.accepted:,} found, {told.absent:,} never accepted, "
        f"{told.fetched:,} clips fetched, {told.settled_usd:+} USD settled, "
        f"{len(told.doubts):,} still in doubt"
    )
    get_run_logger().info("%s: %s", books.batch, said)
    if told.doubts:
        await acreate_table_artifact(
            [
                {
                    "job": line.job,
                    "lane": line.lane,
                    "hours": round(line.age_s / 3600, 1),
                    "usd": str(line.price_usd),
                    "why": line.reason,
                }
                for line in told.doubts
            ],
            key="doubts",
            description=said,
        )
        return Completed(name="Unfinished", message=said)
    return Completed(message=said)
