"""The reconcile flow: doubts that can be settled without a person, settled on a schedule."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_table_artifact
from prefect.states import Completed

from flows.config import lanes as lanes_of
from flows.config import settings as settings_of
from flows.dashboard import doubts_rows
from flows.logs.streams import outlive_readers_of_a_run
from storage.ledger import HeldError
from tasks.batch.request import public
from tasks.dispatch import usd
from tasks.reconcile import Reconciled, opened

outlive_readers_of_a_run()


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
    # Do not wait for clips that are not ready: a batch may want the root.
    rules = replace(lanes_of.rules(settings), deadline_s=0.0)
    try:
        async with opened(
            public(root, "root"), lanes=on, rules=rules
        ) as reconciliation:
            await reconciliation.ask()
            await reconciliation.fetch()
            await reconciliation.settle()
    except HeldError as exc:
        # Not a failure: the batch settles its own doubts.
        return Completed(name="Skipped", message=f"a batch is at work: {exc}")
    return await _ended(reconciliation.batch, reconciliation.told)


async def _ended(batch: str, told: Reconciled) -> Any:
    outcome = (
        f"{told.accepted:,} found, {told.absent:,} never accepted, "
        f"{told.fetched:,} clips fetched, {usd(told.settled_usd)} USD settled, "
        f"{len(told.doubts):,} still in doubt"
    )
    get_run_logger().info("%s: %s", batch, outcome)
    for reason, clips in told.parked.items():
        get_run_logger().error("%d clips not fetched: %s", clips, reason)
    if told.doubts:
        await acreate_table_artifact(
            doubts_rows(told.doubts), key="nightreel-doubts", description=outcome
        )
        return Completed(name="Unfinished", message=outcome)
    if told.parked:
        return Completed(name="Unfinished", message=f"{outcome}; {min(told.parked)}")
    return Completed(message=outcome)
