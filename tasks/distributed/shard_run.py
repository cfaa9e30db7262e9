"""Runs one shard of a batch in this process, within the share that the batch grants.

Any process may run it, and run it again: the ledger makes that safe and free. The batch
grants a share of each account's quotas (see `quota`). A run without a grant buys nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
)
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from manifests.input import Plan, planned, validation
from manifests.lifecycle import State
from storage.ledger import FencedError, Ledger, join_root
from storage.objects import Objects
from tasks.batch.batch import BatchRun
from tasks.batch.lifespan import batch_run_of, deps_of
from tasks.batch.request import MANIFEST, Wanted
from tasks.dispatch import TYPICAL_S, Budget, Lane, recall_latencies
from tasks.distributed import mailbox
from tasks.distributed.heartbeat import ShardHeartbeat
from tasks.distributed.messages import ShardOrder, ShardReport
from tasks.engine.environment import REAL, Deps, Rules, World
from tasks.engine.in_doubt import in_doubt
from tasks.engine.job import SEND_WITHIN_S

TAKEN_UP_S: Final = 10.0
"""The time in which the engine has taken up the jobs at providers, which go first."""


async def run_shard(  # noqa: PLR0913 - each has its default
    root: str,
    *,
    batch: str,
    shard: int,
    lanes: Sequence[Lane],
    rules: Rules,
    root_id: str | None = None,
    hints_url: str | None = None,
    world: World = REAL,
    gently: Callable[[BatchRun], AbstractContextManager[None]] = nullcontext,
) -> ShardReport:
    """Run every job of a shard to its end; return the last report.

    `root_id` is the identity of the root that the batch opened.

    Raises:
        RootError: there is no root, or not the batch's.
        FencedError: the shard is over, or a newer run has it.
        LedgerError: there is no such shard to run.
    """
    objects = world.objects(root)
    await join_root(objects, root_id)
    for lane in lanes:
        # The batch takes its owner's risks, once, when all its shards are over. An own GPU
        # has no such risk, whatever its seconds are worth.
        if lane.paid:
            lane.risk = Budget(Decimal(0))
    async with joined(
        objects,
        batch,
        shard,
        lanes=lanes,
        rules=rules,
        hints_url=hints_url,
        world=world,
    ) as batch_run:
        heartbeat = ShardHeartbeat(
            batch_run, objects, batch=batch, shard=shard, world=world
        )
        async with heartbeat.running():
            with gently(batch_run):
                await batch_run.run_shard(0)
                await batch_run.settle_doubts()
    if heartbeat.shut_out:
        raise FencedError(f"{root}: shard {shard} is over, or another run has it")
    return await heartbeat.finish()


@asynccontextmanager
async def joined(  # noqa: PLR0913 - as `run_shard`
    objects: Objects,
    batch: str,
    shard: int,
    *,
    lanes: Sequence[Lane],
    rules: Rules,
    world: World,
    hints_url: str | None = None,
    budget_usd: Decimal | None = None,
) -> AsyncGenerator[BatchRun]:
    """A batch run of one shard, whose older runs are fenced out of the ledger."""
    with TemporaryDirectory(prefix="nightreel-") as name:
        folder = Path(name)
        order = await mailbox.receive_order(objects, batch, shard, folder / MANIFEST)
        ledger = await Ledger.join(
            objects,
            batch=batch,
            shard=shard,
            before=order.before,
            clock=world.today,
            spill_folder=world.spill_folder,
        )
        try:
            if not await mailbox.has_order(objects, batch, shard):
                raise FencedError(f"{objects.root}: shard {shard} is over")
            recall_latencies(lanes, order.latencies, within_s=rules.deadline_s)
            wanted, plan = _wanted(order, objects.root, folder, budget_usd)
            async with (
                deps_of(
                    wanted,
                    lanes,
                    rules=rules,
                    objects=objects,
                    ledger=ledger,
                    world=world,
                ) as deps,
                batch_run_of(wanted, plan, folder, deps, hints_url) as batch_run,
            ):
                await asyncio.to_thread(batch_run.set_demand)
                _hold(deps)
                yield batch_run
        finally:
            await ledger.close()


def _wanted(
    order: ShardOrder, root: str, folder: Path, budget_usd: Decimal | None
) -> tuple[Wanted, Plan]:
    rows = planned(folder / MANIFEST)
    wanted = Wanted(
        manifest=order.manifest,
        root=root,
        budget_usd=Decimal(0)
        if order.has_budget and budget_usd is None
        else budget_usd,
        policy=order.policy,
        finish_at=order.finish_at,
        shard_rows=max(1, rows.height),
    )
    return wanted, Plan(order.manifest, rows.height, rows, validation.none())


def _hold(deps: Deps) -> None:
    """Hold slots from the start for the jobs that the run before left at providers."""
    loop, lanes, ledger = asyncio.get_running_loop(), deps.lanes, deps.ledger
    for history in ledger.lives.values():
        lane = lanes.get(history.lane)
        if history.state is State.ACCEPTED and lane is not None:
            # Until the engine has taken up the job, and holds the slot itself.
            lane.limiter.hold_slot()
            loop.call_later(TAKEN_UP_S, lanes.release_slot, lane)
    for history in in_doubt(ledger.lives, [*ledger.lives]).values():
        lane = lanes.get(history.lane)
        if lane is None:
            continue
        for_s = max(SEND_WITHIN_S, lane.polls.expected_s() or TYPICAL_S)
        left_s = (history.submitted_at or 0.0) + for_s - deps.world.today()
        if left_s > 0:
            lane.limiter.hold_slot()
            loop.call_later(min(left_s, for_s), lanes.release_slot, lane)
