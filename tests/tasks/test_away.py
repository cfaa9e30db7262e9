"""A batch whose shards run elsewhere: one bill, one quota, whoever dies."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal

import pytest

from manifests.lifecycle import State
from storage.ledger import histories
from storage.objects import Objects
from tasks.away import elsewhere
from tasks.emulator import Emulator, Fault, running
from tasks.engine import Rules
from tasks.joining import run_shard
from tasks.night import begun
from tasks.wanted import Wanted
from tasks.world import REAL

pytestmark = pytest.mark.anyio

ROUTE = "kling/kling-1.6"
"""What is over its slots is refused there, and does not wait."""


class Runs:
    """Runs of shards, each with lanes of its own, as processes have them."""

    def __init__(self, world, root, **lane):
        self.world, self.root, self.lane = world, root, lane
        self.started = []
        self.tasks = {}
        self.batch = ""

    async def __call__(self, shard, attempt):
        self.started.append((shard, attempt))
        self.tasks[shard] = asyncio.ensure_future(
            run_shard(
                self.root,
                batch=self.batch,
                shard=shard,
                lanes=[self.world.lane(ROUTE, **self.lane)],
                rules=self.world.rules,
                world=replace(REAL, lifeboats=self.world.folder / "lifeboats"),
            )
        )
        await self.tasks[shard]


@asynccontextmanager
async def away(world, rows, *, at_once=3, shard_rows=4, wanted=None, **lane):
    root = (world.folder / "root").as_uri()
    asked = Wanted(
        manifest=world.manifest(rows),
        root=root,
        shard_rows=shard_rows,
        **(wanted or {}),
    )
    runs = Runs(world, root, **lane)
    world_ = replace(REAL, lifeboats=world.folder / "lifeboats")
    lanes = [world.lane(ROUTE, **lane)]
    async with begun(asked, lanes=lanes, rules=world.rules, world=world_) as night:
        runs.batch = night.batch
        async with elsewhere(night, runs, rules=world.rules, at_once=at_once):
            yield night, runs


async def over(night, at_once=3):
    window = asyncio.Semaphore(at_once)

    async def one(number):
        async with window:
            await night.run_shard(number)

    await asyncio.gather(*map(one, night.shards))
    await night.mend()


@pytest.fixture
def world(worlds, clip):
    emulator = Emulator(latency_s=0.1, slots=4, submits_per_minute=100000, clip=clip)
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=[ROUTE])


def peaks(world):
    [account] = world.emulator.stats()["accounts"]
    return account


async def test_shards_that_run_elsewhere_share_the_slots_and_the_bill(world):
    async with away(world, 16) as (night, runs):
        await over(night)

    said = night.summary()
    assert (said.published, said.bought, said.pending) == (16, 16, 0)
    assert said.spent_usd == world.owed
    assert set(world.bought.values()) == {1}
    assert sorted(runs.started) == [(n, 1) for n in range(4)]
