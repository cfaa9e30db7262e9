"""Starts and ends a batch: checks it, opens its ledger, and builds its engine.

The running batch is a `Night`. When it is over, its tables are written.
"""

import asyncio
import logging
import math
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from manifests.input.plan import Plan
from storage import layout
from storage.ledger import HeldError, Ledger, entries
from storage.media import Clips
from storage.objects import Objects
from tasks.batch.batch import Night
from tasks.batch.pause_watch import heeding
from tasks.batch.request import Wanted, looked_at, planned, refuse
from tasks.dispatch.budget import DAY_S, Purse
from tasks.dispatch.lanes import Lane, Lanes
from tasks.dispatch.learned import (
    keep_limits,
    recall_day,
    recall_latencies,
    recall_limits,
)
from tasks.dispatch.policy import Roster
from tasks.engine.engine import Engine, Rules
from tasks.engine.environment import REAL, World
from tasks.providers.http import Clients
from tasks.webhooks.hints import hints

log = logging.getLogger(__name__)

WATCHER: ContextVar[Callable[[Night], None] | None] = ContextVar(
    "WATCHER", default=None
)
"""Called in this process when a batch starts; the command line sets it."""


async def refused(held: HeldError) -> None:
    """Do not wait for the other run: raise the error at once."""
    raise held


@asynccontextmanager
async def begun(  # noqa: PLR0913 - the parts of a run, each named once
    wanted: Wanted,
    *,
    lanes: Sequence[Lane],
    rules: Rules,
    hints_url: str | None = None,
    on_held: Callable[[HeldError], Awaitable[None]] = refused,
    world: World = REAL,
) -> AsyncGenerator[Night]:
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
            refuse(await looked_at(plan, wanted.manifest, folder, lanes))
        objects = world.objects(wanted.root)
        stem = Path(unquote(urlsplit(wanted.manifest).path)).stem
        opening = partial(
            Ledger.open,
            objects,
            name=stem,
            clock=world.today,
            take_over=wanted.take_over,
            spill_folder=world.spill_folder,
        )
        ledger = await _opened(opening, on_held)
        try:
            # Old messages hold rows of manifests: delete them, wherever the shards run now.
            await _delete_old_messages(objects, ledger.epoch)
            await _recall(lanes, ledger, objects, world, deadline_s=rules.deadline_s)
            async with night_of(
                wanted,
                plan=plan,
                folder=folder,
                ledger=ledger,
                lanes=lanes,
                rules=rules,
                objects=objects,
                world=world,
                hints_url=hints_url,
            ) as night:
                await asyncio.to_thread(night.reckon)
                log.info(
                    "batch.started batch=%s rows=%d jobs=%d buying begins",
                    ledger.batch,
                    plan.rows,
                    plan.jobs,
                )
                if watcher := WATCHER.get():
                    watcher(night)
                async with _fetching(night, objects):
                    yield night
            await ledger.close()
            ledger.refuse_if_taken_over()
            await night.keep(objects)
            await keep_limits(lanes, objects)
            night.over = True
            log.info("batch.ended batch=%s %s", ledger.batch, night.summary())
        finally:
            await ledger.close()


async def _opened(
    opening: Callable[[], Awaitable[Ledger]],
    on_held: Callable[[HeldError], Awaitable[None]],
) -> Ledger:
    while True:
        try:
            return await opening()
        except HeldError as held:
            await on_held(held)


@asynccontextmanager
async def night_of(  # noqa: PLR0913 - the parts of a night, each named once
    wanted: Wanted,
    *,
    plan: Plan,
    folder: Path,
    ledger: Ledger,
    lanes: Sequence[Lane],
    rules: Rules,
    objects: Objects,
    world: World,
    hints_url: str | None,
) -> AsyncGenerator[Night]:
    """Build a night on an open ledger, with an engine that heeds pauses and hints."""
    async with world.clients() as clients:
        engine = _engine_of(wanted, lanes, rules, ledger, objects, clients, world)
        ledger.on_trouble(engine.stop)
        night = Night(
            wanted, plan=plan, folder=folder, ledger=ledger, engine=engine, world=world
        )
        async with heeding(engine, objects), _hinted(engine, hints_url):
            yield night


def _engine_of(  # noqa: PLR0913, PLR0917 - the parts of a run, each named once
    wanted: Wanted,
    lanes: Sequence[Lane],
    rules: Rules,
    ledger: Ledger,
    objects: Objects,
    clients: Clients,
    world: World,
) -> Engine:
    left_s, purse = math.inf, Purse(wanted.budget_usd)
    if wanted.finish_at is not None:
        left_s = wanted.finish_at - world.today()
    roster = Roster(
        lanes,
        policy=wanted.policy,
        now=world.now,
        today=world.today,
        ends_at=world.now() + left_s,
    )
    return Engine(
        lanes=Lanes(lanes, world.now, world.today, purse, roster.rank),
        roster=roster,
        ledger=ledger,
        clips=Clips(objects),
        clients=clients,
        entries=partial(entries, objects),
        purse=purse,
        rules=rules,
        check=world.check,
        now=world.now,
        today=world.today,
    )


async def _recall(
    lanes: Sequence[Lane],
    ledger: Ledger,
    objects: Objects,
    world: World,
    *,
    deadline_s: float,
) -> None:
    """Load what earlier runs learned about these lanes."""
    recall_latencies(lanes, ledger.latencies, within_s=deadline_s)
    await recall_limits(lanes, objects, world.now())
    if any(lane.day.limited for lane in lanes):
        today = world.today()
        await recall_day(lanes, entries(objects, since=today - DAY_S), today)


@asynccontextmanager
async def _hinted(engine: Engine, url: str | None) -> AsyncGenerator[None]:
    """Make the engine poll a job at once when the listener has a hint about it."""

    async def listen(url: str) -> None:
        async for hint in hints(url):
            engine.follower.hint(hint.provider, hint.id)

    listening = asyncio.create_task(listen(url)) if url else None
    try:
        yield
    finally:
        if listening is not None:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening


@asynccontextmanager
async def _fetching(night: Night, objects: Objects) -> AsyncGenerator[None]:
    """Fetch the clips that other batches left at providers, while this batch runs.

    Raises:
        FencedError, StorageError: nothing can be recorded any more.
    """
    until = asyncio.Event()
    coming = asyncio.create_task(night.bring_home(objects, until))
    try:
        yield
    finally:
        until.set()
        await asyncio.wait({coming})
    await coming


async def _delete_old_messages(objects: Objects, epoch: int) -> None:
    """Delete the messages between earlier batches and their shards, which are over."""
    async for stored in objects.list(layout.SHARDS):
        found = layout.MESSAGE.match(stored.key)
        if found and int(found["epoch"]) < epoch:
            await objects.delete(stored.key)
