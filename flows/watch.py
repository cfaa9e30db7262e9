"""The watch flow: one look into an inbox, and a run for each manifest that landed."""

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.config import seconds
from flows.logs.streams import outlive_readers_of_a_run
from flows.prefect_runtime import DEPLOYMENT, Watch, may_begin_root, start_runs
from storage.inbox import PARQUET, SETTLE_S

outlive_readers_of_a_run()


def _run_name() -> str:
    inbox = str(flow_run.get_parameters()["inbox"])
    return f"inbox {PurePosixPath(unquote(urlsplit(inbox).path)).name or inbox}"


@flow(
    name="nightreel-watch",
    flow_run_name=_run_name,
    retries=0,
    persist_result=False,
)
async def watch(  # noqa: PLR0913 - each is a field of the form in the Prefect UI
    *,
    inbox: str,
    root: str,
    deployment: str = DEPLOYMENT,
    pattern: str = PARQUET,
    settle_s: float = SETTLE_S,
    marked: bool = False,
    new_root: bool = False,
) -> Any:
    """Start a run for each new manifest in an inbox, once it is whole.

    Args:
        inbox: URI that manifests are dropped under.
        root: URI that their clips go under; which of them are taken is kept there.
        deployment: what is started, by its flow's name and its own: nightreel/on-manifest.
        pattern: what a manifest's name is like.
        settle_s: seconds between the two looks that have to see the same.
        marked: only what has _SUCCESS in its folder or NAME.ready beside it, at once.
        new_root: begin a new root if none is there.
    """
    seconds("settle_s", settle_s)
    may_begin = may_begin_root(new_root=new_root)
    at = await Watch.open(
        inbox, root, pattern=pattern, marked=marked, new_root=may_begin
    )
    started = await start_runs(at, deployment, settle_s)
    for drop in started:
        get_run_logger().info("%s: landed, %d bytes", drop.uri, drop.size)
    return Completed(message=f"{len(started):,} started")
