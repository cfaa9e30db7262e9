"""One shard of a batch that runs elsewhere: what the flow, the task and the command share."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.terminal import Config, LaneNames, names, place, tell
from flows.config import lanes as lanes_of
from flows.config import settings as settings_of
from flows.prefect_runtime.signals import gently
from storage.ledger.ledger import FencedError
from tasks.batch.batch import Night
from tasks.distributed.mailbox import Report
from tasks.distributed.shard_run import run_shard


async def ran(  # noqa: PLR0913 - the parameters of a flow run, each public
    *,
    root: str,
    batch: str,
    shard: int,
    config: str | None = None,
    lanes: Sequence[str] | None = None,
    gently: Callable[[Night], AbstractContextManager[None]] = nullcontext,
) -> Report:
    """Take every job of the shard to its end, within the share that the batch deals it."""
    settings = settings_of.load(Path(config) if config else None, lanes=lanes)
    return await run_shard(
        root,
        batch=batch,
        shard=shard,
        lanes=await lanes_of.opened(settings),
        rules=lanes_of.rules(settings),
        hints_url=settings.listen.hints_url if settings.listen.public_url else None,
        gently=gently,
    )


def said(report: Report) -> str:
    """What a run came to, in words."""
    counts = f"{report.published:,} clips, {report.rejected:,} rejected"
    return f"{counts}, {len(report.resting):,} left, {report.spent_usd:,.2f} USD"


def shard(
    root: Annotated[str, typer.Argument(help="URI that the batch is kept under")],
    *,
    batch: Annotated[str, typer.Option(help="such as 000003-portraits")],
    number: Annotated[int, typer.Option("--shard", min=0)],
    config: Config = None,
    lanes: LaneNames = None,
) -> None:
    """Run a shard of a batch that is under way and has its shards run elsewhere."""
    try:
        report = asyncio.run(
            ran(
                root=place(root),
                batch=batch,
                shard=number,
                config=None if config is None else str(config),
                lanes=names(lanes),
                gently=gently,
            )
        )
    except FencedError as exc:
        tell(str(exc))
        raise typer.Exit(1) from exc
    tell(f"shard {number} of {batch}: {said(report)}")
