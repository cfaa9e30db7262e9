"""The watch flow: one look into an inbox, and an event for each manifest that landed."""

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_client, get_run_logger
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter
from prefect.events import emit_event
from prefect.states import Completed, Failed

from flows.prefect_runtime.inbox_events import Watch, event
from storage.inbox.listing import PARQUET, SETTLE_S, digest

BATCH = "nightreel"
"""What the flow is called that takes a manifest."""


@flow(name="nightreel-watch", retries=0, persist_result=False)
async def watch(
    *,
    inbox: str,
    root: str,
    pattern: str = PARQUET,
    settle_s: float = SETTLE_S,
    marked: bool = False,
) -> Any:
    """Say of each new manifest in an inbox, once it is whole, that it has landed.

    Args:
        inbox: URI that manifests are dropped under.
        root: URI that their clips go under; what was announced is kept there.
        pattern: what a manifest's name is like.
        settle_s: seconds between the two looks that have to see the same.
        marked: only what has _SUCCESS in its folder or NAME.ready beside it, at once.
    """
    at = Watch.open(inbox, root, pattern=pattern, marked=marked)
    landed = await at.landed(settle_s)
    again = any(turn > 1 for _, turn in landed)
    waiting = await _waiting(at.root) if again else set[str]()
    told = 0
    for drop, turn in landed:
        if drop.digest in waiting or not await at.register.announce(drop, turn):
            continue
        get_run_logger().info("%s: landed, %d bytes", drop.uri, drop.size)
        if emit_event(**event(drop, at.root)) is None:
            return Failed(message="no server takes events: set PREFECT_API_URL")
        told += 1
    return Completed(message=f"{told:,} announced")


async def _waiting(root: str) -> set[str]:
    """The digests of versions that a run waits to begin with: no second one need wait."""
    # Less the nights to come, which the server puts on its calendar early.
    soon = datetime.now(UTC) + timedelta(hours=1)
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[BATCH])),
            flow_run_filter=FlowRunFilter.model_validate(
                {
                    "state": {"type": {"any_": ["SCHEDULED", "PENDING"]}},
                    "expected_start_time": {"before_": soon},
                }
            ),
            limit=200,
        )
    asked = [run.parameters for run in runs if run.parameters.get("root") == root]
    return {
        digest(said["manifest"], said["version"])
        for said in asked
        if said.get("version")
    }
