"""A run that is stopped or paused buys nothing more and loses no clip."""

import asyncio
import time

import pytest

from storage import pause_flag
from tasks.batch import watches
from tasks.emulator import Emulator, running
from tasks.engine.engine import Rules
from tests.storage.lives import made

pytestmark = pytest.mark.anyio

ROUTE = "atlas/wan-2.2-spicy"


@pytest.fixture
def slow(worlds, clip):
    """A world whose clips finish quickly, three at a time."""
    emulator = Emulator(latency_s=0.4, slots=3, submits_per_minute=100000, clip=clip)
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=[ROUTE], slots=3)


def learned(world, took_s: float):
    lane = world.lane(ROUTE)
    lane.polls.learn([took_s] * 10)
    return [lane]


async def until(seen):
    async with asyncio.timeout(20):
        while not seen():  # noqa: ASYNC110 - the emulator has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("known_s", "grace_s", "published"),
    [(0.4, 20.0, True), (60.0, 20.0, False), (0.4, 0.0, False)],
)
async def test_winding_down_waits_for_clips_about_to_finish(
    slow, known_s, grace_s, published
):
    """A run that winds down waits for clips about to finish and buys nothing more."""
    slow.rules = Rules(grace_s=grace_s)

    async def stopping(batch_run):
        await until(lambda: len(slow.emulator.bill) >= 3)
        batch_run.engine.wind_down("told to")

    tasks = []
    told = await slow.run(
        9,
        lanes=learned(slow, known_s),
        during=lambda batch_run: tasks.append(asyncio.create_task(stopping(batch_run))),
    )
    resumed = await slow.run(9, lanes=learned(slow, 0.4))

    assert (told.published, told.pending) == ((3, 6) if published else (0, 9))
    assert (told.bought, told.in_doubt) == (3, 0)
    assert (resumed.published, resumed.bought) == (9, 6)
    assert set(slow.bought.values()) == {1}


@pytest.fixture
def stuck(worlds, clip):
    """A world whose clips never finish."""
    emulator = Emulator(latency_s=3600, slots=3, submits_per_minute=100000, clip=clip)
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=[ROUTE], slots=3)


async def test_grace_that_runs_out_leaves_the_rest_to_the_next_run(stuck):
    """Clips that are not done when the grace runs out are left to the next run.

    The lane seems quick, and is slow tonight.
    """
    stuck.rules = Rules(grace_s=0.5)
    began, tasks = [], []

    async def stopping(batch_run):
        await until(lambda: len(stuck.emulator.bill) >= 3)
        began.append(time.monotonic())
        batch_run.engine.wind_down("told to")

    told = await stuck.run(
        3,
        lanes=learned(stuck, 0.01),
        during=lambda batch_run: tasks.append(asyncio.create_task(stopping(batch_run))),
    )

    assert (told.pending, told.in_doubt, told.bought) == (3, 0, 3)
    assert 0.5 <= time.monotonic() - began[0] < 60


async def test_paused_root_follows_its_jobs_and_resumes_buying(slow, monkeypatch):
    """A paused root buys nothing, follows its jobs, and buys again when resumed."""
    monkeypatch.setattr(watches, "LOOK_S", 0.05)
    objects = made((slow.folder / "root").as_uri())
    seen, tasks = [], []

    async def pausing_for_a_while(batch_run):
        await until(lambda: slow.emulator.bill)
        await pause_flag.pause(objects, "a test")
        await until(lambda: batch_run.engine.paused)
        await until(lambda: batch_run.done == len(slow.emulator.bill))
        seen.append((batch_run.done, batch_run.engine.done_buying))
        await pause_flag.resume(objects)

    summary = await slow.run(
        9,
        lanes=learned(slow, 0.4),
        during=lambda batch_run: tasks.append(
            asyncio.create_task(pausing_for_a_while(batch_run))
        ),
    )

    [(done, why)] = seen
    assert 0 < done < 9
    assert why is None
    assert summary.published == 9
    assert set(slow.bought.values()) == {1}


async def test_run_that_starts_paused_buys_nothing_and_can_be_stopped(slow):
    """A run that starts paused buys nothing and can be stopped."""
    objects = made((slow.folder / "root").as_uri())
    await pause_flag.pause(objects, "a test")
    tasks = []

    async def stopping(batch_run):
        assert batch_run.engine.paused
        await asyncio.sleep(0.3)
        batch_run.engine.wind_down("told to")

    summary = await slow.run(
        3,
        during=lambda batch_run: tasks.append(asyncio.create_task(stopping(batch_run))),
    )
    await pause_flag.resume(objects)
    again = await slow.run(3)

    assert (summary.pending, summary.bought) == (3, 0)
    assert again.published == 3
