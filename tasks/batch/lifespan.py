"""Starts and ends a batch: checks it, opens its ledger, and builds its engine.

The running batch is a `BatchRun`. When it is over, its tables are written.
"""

import asyncio
import logging
import math
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from manifests.input import Plan
from storage import layout
from storage.ledger import (
    HeldError,
    KnownRoots,
    Ledger,
    entries,
    make_root_folder,
    open_root,
)
from storage.objects import Objects
from tasks.alongside import alongside, background
from tasks.batch.batch import BatchRun
from tasks.batch.request import Wanted, looked_at, planned, refuse_unread
from tasks.batch.run_report import reported, write_last
from tasks.batch.watches import heeding, trouble_told
from tasks.dispatch import (
    DAY_S,
    RATE_WINDOW_S,
    Budget,
    Lane,
    Router,
    keep_limits,
    recall_day,
    recall_latencies,
    recall_limits,
    recall_minute,
)
from tasks.engine.engine import Engine
from tasks.engine.environment import REAL, Deps, Rules, World
from tasks.webhooks.hints import hints

log = logging.getLogger(__name__)

WATCHER: ContextVar[Callable[[BatchRun], None] | None] = ContextVar(
    "WATCHER", default=None
)
"""Called in this process when a batch starts; the command line sets it."""


async def refused(held: HeldError) -> None:
    """Do not wait for the other run: raise the error at once."""
    raise held


@asynccontextmanager
async def begun(  # noqa: PLR0913 - each has its default
    wanted: Wanted,
    *,
    lanes: Sequence[Lane],
    rules: Rules,
    hints_url: str | None = None,
    on_held: Callable[[HeldError], Awaitable[None]] = refused,
    world: World = REAL,
) -> AsyncGenerator[BatchRun]:
    """Run a batch for the length of the block; check it first, write its tables at the end.

    `hints_url` is the address of a listener for webhooks, if there is one. If another run
    holds the root, `on_held` waits a little, or raises.

    Raises:
        ManifestError: it cannot be read, or `strict` is set and a row is bad.
        OpeningError, StorageError: the manifest or the root is out of reach.
        HeldError: another run is at work on the same root, and is not waited for.
        FencedError: a later run has taken over the root.
    """
    with tempfile.TemporaryDirectory(prefix="nightreel-") as name:
        folder = Path(name)
        plan = await asyncio.to_thread(planned, wanted, folder, lanes)
        if wanted.strict:
            refuse_unread(await looked_at(plan, wanted, folder, lanes))
        objects, root_id = await _root_of(wanted, world)
        ledger = await _opened(wanted, objects, world, on_held)
        try:
            async with deps_of(
                wanted, lanes, rules=rules, objects=objects, ledger=ledger, world=world
            ) as deps:
                await _prepare(deps)
                async with batch_run_of(
                    wanted, plan, folder, deps, hints_url
                ) as batch_run:
                    batch_run.root_id = root_id
                    await _start(batch_run)
                    # Clips that other batches left at providers are fetched meanwhile.
                    fetching = alongside(batch_run.bring_home)
                    async with fetching, reported(batch_run):
                        yield batch_run
            await _finish(batch_run)
        finally:
            await ledger.close()


async def _root_of(wanted: Wanted, world: World) -> tuple[Objects, str]:
    """Open the root of a run; a root that is new is begun. Returns its identity, too."""
    known = KnownRoots(world.state_folder)
    may_begin = wanted.new_root
    await asyncio.to_thread(make_root_folder, wanted.root, known, new_root=may_begin)
    objects = world.objects(wanted.root)
    root = await open_root(objects, world.today, known, new_root=may_begin)
    return objects, root.id


async def _prepare(deps: Deps) -> None:
    """Delete old messages, and load what earlier runs learned about the lanes."""
    # Old messages hold rows of manifests: delete them, wherever the shards run now.
    await _delete_old_messages(deps.objects, deps.ledger.epoch)
    lanes, world = deps.lanes.all, deps.world
    recall_latencies(lanes, deps.ledger.latencies, within_s=deps.rules.deadline_s)
    await recall_limits(lanes, deps.objects, world.now())
    now, today = world.now(), world.today()
    recent = await deps.ledger.submits(since=today - RATE_WINDOW_S)
    recall_minute(lanes, recent, now=now, today=today)
    if any(lane.day.limited for lane in lanes):
        await recall_day(lanes, entries(deps.objects, since=today - DAY_S), today)


async def _start(batch_run: BatchRun) -> None:
    """Compute whether the deadline can be met, and announce the batch."""
    await asyncio.to_thread(batch_run.check_deadline)
    log.info(
        "batch.started batch=%s rows=%d jobs=%d buying begins",
        batch_run.batch,
        batch_run.plan.rows,
        batch_run.plan.jobs,
    )
    if watcher := WATCHER.get():
        watcher(batch_run)


async def _finish(batch_run: BatchRun) -> None:
    """Close the ledger, then write the tables and the learned limits.

    Raises:
        FencedError: a later run has taken over the root.
    """
    await batch_run.ledger.close()
    batch_run.ledger.refuse_if_taken_over()
    await batch_run.keep()
    await keep_limits(batch_run.engine.lanes.all, batch_run.engine.deps.objects)
    await write_last(batch_run)
    batch_run.over = True
    log.info("batch.ended batch=%s %s", batch_run.batch, batch_run.summary())


async def _opened(
    wanted: Wanted,
    objects: Objects,
    world: World,
    on_held: Callable[[HeldError], Awaitable[None]],
) -> Ledger:
    """Open the ledger; while another run holds the root, call `on_held` and try again."""
    while True:
        try:
            return await Ledger.open(
                objects,
                name=Path(unquote(urlsplit(wanted.manifest).path)).stem,
                clock=world.today,
                take_over=wanted.take_over,
                spill_folder=world.spill_folder,
            )
        except HeldError as held:
            await on_held(held)


@asynccontextmanager
async def deps_of(  # noqa: PLR0913 - a run has these parts
    wanted: Wanted,
    lanes: Sequence[Lane],
    *,
    rules: Rules,
    objects: Objects,
    ledger: Ledger,
    world: World,
) -> AsyncGenerator[Deps]:
    """Open the clients of a run of a batch or a shard, and put its parts together.

    The run may spend the budget of `wanted`.
    """
    async with world.clients() as clients:
        yield Deps(
            world=world,
            rules=replace(rules, sources=rules.sources.beside(wanted.manifest)),
            objects=objects,
            ledger=ledger,
            clients=clients,
            router=_router(wanted, lanes, world),
            budget=Budget(wanted.budget_usd),
        )


def _router(wanted: Wanted, lanes: Sequence[Lane], world: World) -> Router:
    """The lanes of a batch, in the order of its policy."""
    left_s = math.inf
    if wanted.finish_at is not None:
        left_s = wanted.finish_at - world.today()
    return Router(
        lanes,
        policy=wanted.policy,
        now=world.now,
        today=world.today,
        ends_at=world.now() + left_s,
    )


@asynccontextmanager
async def batch_run_of(
    wanted: Wanted, plan: Plan, folder: Path, deps: Deps, hints_url: str | None
) -> AsyncGenerator[BatchRun]:
    """Build a batch run on an open ledger, with an engine that heeds pauses and hints."""
    engine = Engine(deps)
    deps.ledger.on_trouble(engine.stop)
    batch_run = BatchRun(wanted, plan=plan, folder=folder, engine=engine)
    async with (
        heeding(engine, deps.objects),
        background(_listen(engine, hints_url)) if hints_url else nullcontext(),
        trouble_told(batch_run),
        engine.refetcher.running(),
    ):
        yield batch_run


async def _listen(engine: Engine, url: str) -> None:
    """Make the engine poll a job at once when the listener has a hint about it."""
    async for hint in hints(url):
        engine.follower.hint(hint.provider, hint.id)


async def _delete_old_messages(objects: Objects, epoch: int) -> None:
    """Delete the messages between earlier batches and their shards, which are over."""
    async for stored in objects.list(layout.SHARDS):
        found = layout.MESSAGE.match(stored.key)
        if found and int(found["epoch"]) < epoch:
            await objects.delete(stored.key)
