"""The shard flow: a part of a batch, run by whichever worker of the pool is free."""

from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.logs.streams import outlive_readers_of_a_run, outlive_terminal
from flows.prefect_runtime import described, gently, run_configured_shard
from storage.ledger import FencedError

outlive_readers_of_a_run()


def _run_name() -> str:
    asked: dict[str, Any] = flow_run.get_parameters()
    return f"{asked['batch']} shard {asked['shard']:04d}"


@flow(
    name="nightreel-shard",
    flow_run_name=_run_name,
    retries=0,
    persist_result=False,
)
async def shard(  # noqa: PLR0913 - each is public
    *,
    root: str,
    batch: str,
    shard: int,
    root_id: str | None = None,
    config: str | None = None,
    lanes: list[str] | None = None,
    trust_manifest: bool = False,
    stills_folder: str | None = None,
) -> Any:
    """Take every job of a shard to its end. Started by its batch; safe to run again.

    Args:
        root: URI that the batch is kept under.
        batch: its name there, such as 000003-portraits.
        shard: the shard's number.
        root_id: the identity of the root that the batch opened; any other is refused.
        config: path of nightreel.toml, as for the batch.
        lanes: only these of its lanes.
        trust_manifest: as for the batch.
        stills_folder: as for the batch.
    """
    try:
        with outlive_terminal():
            report = await run_configured_shard(
                root=root,
                batch=batch,
                shard=shard,
                root_id=root_id,
                config=config,
                lanes=lanes,
                trust_manifest=trust_manifest,
                stills_folder=stills_folder,
                gently=gently,
            )
    except FencedError as exc:
        return Completed(name="Superseded", message=str(exc))
    return Completed(message=described(report))
