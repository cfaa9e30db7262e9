"""Runs one shard of a batch in this process, for the shard flow and command."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from flows.config import lanes as lanes_of
from flows.config import settings as settings_of
from tasks.batch.batch import BatchRun
from tasks.distributed import ShardReport, run_shard


async def run_configured_shard(  # noqa: PLR0913 - the parameters of a flow run, each public
    *,
    root: str,
    batch: str,
    shard: int,
    root_id: str | None = None,
    config: str | None = None,
    lanes: Sequence[str] | None = None,
    trust_manifest: bool = False,
    stills_folder: str | None = None,
    gently: Callable[[BatchRun], AbstractContextManager[None]] = nullcontext,
) -> ShardReport:
    """Take every job of the shard to its end, within the share that the batch deals it."""
    settings = settings_of.load(Path(config) if config else None, lanes=lanes)
    may_name = lanes_of.sources(settings, trust=trust_manifest, folder=stills_folder)
    return await run_shard(
        root,
        root_id=root_id,
        batch=batch,
        shard=shard,
        lanes=await lanes_of.opened(settings),
        rules=lanes_of.rules(settings, may_name),
        hints_url=settings.listen.hints_url if settings.listen.public_url else None,
        gently=gently,
    )


def described(report: ShardReport) -> str:
    """The result of a run, in words."""
    counts = f"{report.published:,} clips, {report.rejected:,} rejected"
    return f"{counts}, {len(report.waiting_jobs):,} left, {report.spent_usd:,.2f} USD"
