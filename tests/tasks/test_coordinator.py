"""A batch whose shards run elsewhere has one bill and one quota, whichever run dies."""

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import pairwise

import pytest
from starlette.responses import PlainTextResponse

from manifests.accounting import LaneTotals
from manifests.lifecycle import State
from storage import checksum, layout
from storage.ledger import FencedError, claimant, histories, segments
from storage.objects import MissingError, Objects, RefusedError
from tasks.batch.lifespan import begun
from tasks.batch.request import Wanted
from tasks.dispatch import DAY_S, LearnedLimits
from tasks.distributed import TRIES, ShardReport, elsewhere, run_shard
from tasks.distributed.messages import Grants
from tasks.distributed.reports import ShardMonitor
from tasks.distributed.shared_limits import RUNS_TO_CLOSE
from tasks.distributed.supervisor import FAILED_STARTS
from tasks.distributed.usage import Usage, slots_of, submits_of
from tasks.emulator import Emulator, Fault, running
from tasks.engine.environment import REAL
from tests.storage.lives import made
from tests.tasks.conftest import KEYS

pytestmark = pytest.mark.anyio

ROUTE = "kling/kling-2.5-turbo"
"""Kling refuses a submit above the account's slots; it does not queue it."""


class Shaky(Objects):
    """A store that refuses to read grants and reports while it is away.

    It can also refuse the first call for each key.
    """

    away = False
    refused = 0
    once: set[str] | None = None

    async def get(self, key):
        Shaky.now_and_then(key)
        if Shaky.away and key.endswith(("grant.json", "usage.json")):
            Shaky.refused += 1
            raise RefusedError(key)
        return await super().get(key)

    async def list(self, folder=""):
        Shaky.now_and_then(folder)
        async for stored in super().list(folder):
            yield stored

    async def put(self, key, data):
        Shaky.now_and_then(key)
        await super().put(key, data)

    async def put_file(self, key, path):
        Shaky.now_and_then(key)
        await super().put_file(key, path)

    async def delete(self, key):
        Shaky.now_and_then(key)
        await super().delete(key)

    @classmethod
    def now_and_then(cls, key):
        if cls.once is not None and key not in cls.once:
            cls.once.add(key)
            raise RefusedError(key)


class Mute(Shaky):
    """A store that refuses every report that its run writes, once it is silent."""

    silent = False

    async def put(self, key, data):
        if Mute.silent and key.endswith("usage.json"):
            raise RefusedError(key)
        await super().put(key, data)


class Late(Shaky):
    """A store that receives a run's last heartbeat after its final message."""

    beats: dict[str, bytes] = {}  # noqa: RUF012 - each test has its own

    async def put(self, key, data):
        await super().put(key, data)
        if not key.endswith("usage.json"):
            return
        usage = ShardReport.load(data, key).usage
        beat = layout.usage(key.split("/")[1], usage.shard, usage.generation)
        if not usage.done:
            Late.beats[beat] = data
        elif beat in Late.beats:
            await super().put(beat, Late.beats[beat])


class Runs:
    """Runs of shards, each with separate lanes, as separate processes have them."""

    def __init__(self, world, root, real, **lane):
        self.world, self.root, self.real, self.lane = world, root, real, lane
        self.started = []
        self.tasks = {}
        self.batch = ""
        self.more = {}

    def lanes(self):
        return [self.world.lane(self.world.routes[0], **self.lane)]

    async def __call__(self, shard, attempt, begun=None):
        self.started.append((shard, attempt))
        self.tasks[shard] = asyncio.ensure_future(
            run_shard(
                self.root,
                batch=self.batch,
                shard=shard,
                lanes=self.lanes(),
                rules=self.world.rules,
                world=self.real,
                **self.more,
            )
        )
        await self.tasks[shard]


async def muted(runs, run, shard, attempt):
    """A run of a shard whose messages stop once `Mute` is silent."""
    whole = runs.real
    runs.real = replace(whole, objects=Mute.open)
    going = asyncio.ensure_future(run(shard, attempt))
    await asyncio.sleep(0)  # it has its store from this point on
    runs.real = whole
    await going


@asynccontextmanager
async def away(
    world, rows, *, at_once=3, shard_rows=4, wanted=None, today=REAL.today, **lane
):
    root = (world.folder / "root").as_uri()
    asked = Wanted(
        manifest=world.manifest(rows),
        root=root,
        shard_rows=shard_rows,
        **(wanted or {}),
    )
    state = world.folder / "state"
    real = replace(
        REAL, state_folder=state, today=today, objects=Shaky.open, check=world.check
    )
    runs = Runs(world, root, real, **lane)
    lanes = [world.lane(world.routes[0], **lane)]
    async with begun(asked, lanes=lanes, rules=world.rules, world=real) as batch_run:
        runs.batch = batch_run.batch
        async with elsewhere(batch_run, runs, rules=world.rules, at_once=at_once):
            yield batch_run, runs


async def over(batch_run, at_once=3):
    window = asyncio.Semaphore(at_once)

    async def one(number):
        async with window:
            await batch_run.run_shard(number)

    await asyncio.gather(*map(one, batch_run.shards))
    await batch_run.settle_doubts()


async def tell(batch_run, number, generation=1, *, in_use=None, needed=None, **fields):
    """Writes the message of a shard's run with these facts."""
    usage = Usage(
        shard=number,
        generation=generation,
        beat=1,
        in_use=in_use or {},
        needed=needed or {},
    )
    by = claimant(1, "shard", REAL.today())
    key = layout.usage(batch_run.batch, number, generation)
    objects = Objects.open(batch_run.wanted.root)
    await objects.put(key, ShardReport(usage=usage, by=by, **fields).dump())


async def until_bought(batch_run, count):
    while batch_run.engine.tally.bought < count:  # noqa: ASYNC110 - a number has no event
        await asyncio.sleep(0.01)


async def granted(batch_run):
    """The grants so far, by shard."""
    with suppress(MissingError):
        objects = Objects.open(batch_run.wanted.root)
        key = layout.grant(batch_run.batch)
        return Grants.load(await objects.get(key), key).grants
    return {}


@pytest.fixture
def world(worlds, clip):
    emulator = Emulator(latency_s=0.3, slots=4, submits_per_minute=100000, clip=clip)
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=[ROUTE])


def peaks(world):
    """The highest counts that the emulator saw on any account."""
    [account] = world.emulator.stats()["accounts"]
    return account


async def test_last_message_of_a_run_survives_an_older_late_one(world, monkeypatch):
    """The last message of a run counts, although an older one arrives after it."""
    monkeypatch.setattr(Late, "beats", {})
    async with away(world, 8) as (batch_run, runs):
        runs.real = replace(runs.real, objects=Late.open)
        await asyncio.wait_for(over(batch_run), 30)

    assert Late.beats
    assert batch_run.summary().published == 8
    assert sorted(runs.started) == [(0, 1), (1, 1)]


async def test_shards_that_run_elsewhere_share_the_slots_and_the_bill(world):
    async with away(world, 16) as (batch_run, runs):
        [lane], seen = batch_run.engine.lanes.all, []
        batch = asyncio.ensure_future(over(batch_run))
        while not batch.done():
            seen.append(batch_run.at_work(lane))
            await asyncio.sleep(0.05)
        await batch

    summary = batch_run.summary()
    assert (summary.published, summary.bought, summary.pending) == (16, 16, 0)
    assert 1 <= max(seen) <= 4
    assert summary.spent_usd == world.owed
    assert set(world.bought.values()) == {1}
    assert sorted(runs.started) == [(n, 1) for n in range(4)]
    assert peaks(world)["running"] == 4
    assert peaks(world)["throttled"] == 0
    # Only the ledger of it is left.
    objects = Objects.open(batch_run.wanted.root)
    assert [one.key async for one in objects.list("shards")] == []


@pytest.mark.slow
async def test_the_bill_by_lane_counts_what_open_shards_have_bought(world):
    async with away(world, 24, shard_rows=24) as (batch_run, _):
        [lane], tally, seen = batch_run.engine.lanes.all, batch_run.engine.tally, set()
        batch = asyncio.ensure_future(over(batch_run))
        while not batch.done():
            seen.add((tally.bill[lane.name].clips, tally.published))
            await asyncio.sleep(0.05)
        await batch

    line = tally.bill[lane.name]
    assert all(by_lane == in_all for by_lane, in_all in seen)
    assert any(0 < by_lane < 24 for by_lane, _ in seen)
    assert (line.submits, line.accepted, line.clips, line.free) == (24, 24, 24, 0)
    assert line.usd == world.owed


async def test_second_run_of_a_shard_takes_over_and_pays_nothing_twice(world):
    """A second run of a shard takes it over and buys no clip twice."""
    async with away(world, 24, shard_rows=24) as (batch_run, runs):
        batch = asyncio.ensure_future(over(batch_run))
        await until_bought(batch_run, 3)
        first = runs.tasks[0]
        again = asyncio.ensure_future(runs(0, 0))
        await asyncio.wait({first})
        await batch
        await asyncio.gather(again, return_exceptions=True)

    summary = batch_run.summary()
    assert isinstance(first.exception(), FencedError)
    # The run that took over is not fenced.
    assert runs.started == [(0, 1), (0, 0)]
    assert (summary.published + summary.in_doubt, summary.pending) == (24, 0)
    assert set(world.bought.values()) == {1}
    assert summary.spent_usd >= world.owed
    assert peaks(world)["throttled"] == 0


@pytest.mark.slow
async def test_silent_run_is_shut_out_and_others_get_its_slots(world, monkeypatch):
    """A run that seems dead is fenced off, and other runs get its slots.

    Its successor waits for a worker, and the other run waits for the slots. Both
    waits end.
    """
    monkeypatch.setattr(Mute, "silent", False)
    async with away(world, 16, at_once=2, shard_rows=8) as (batch_run, runs):
        shard, other_is_over = runs.__call__, asyncio.Event()

        async def start(number, attempt, begun):
            if number == 1:
                await shard(number, attempt, begun)
                other_is_over.set()
            elif attempt == 1:
                seeming = asyncio.ensure_future(muted(runs, shard, number, attempt))
                seeming.add_done_callback(lambda run: run.exception())
                await until_bought(batch_run, 4)
                Mute.silent = True
                raise ConnectionError("nobody can reach it")
            else:
                await other_is_over.wait()
                await shard(number, attempt, begun)

        batch_run.away.start = start
        await over(batch_run, at_once=2)

    summary = batch_run.summary()
    assert (summary.published + summary.in_doubt, summary.pending) == (16, 0)
    assert set(world.bought.values()) == {1}
    assert peaks(world)["throttled"] == 0


@pytest.mark.slow
async def test_learned_slots_are_shared_and_kept_for_the_next_night(worlds, clip):
    """All runs share the slots learned for an account; the next night starts there.

    The account was configured with 24 slots.
    """
    emulator = Emulator(latency_s=2.0, slots=8, submits_per_minute=100000, clip=clip)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ROUTE], slots=24)
        async with away(world, 40, shard_rows=10) as (batch_run, _):
            await over(batch_run)
        first = peaks(world)["throttled"]
        async with away(world, 80, shard_rows=14) as (again, _):
            await over(again)

    assert (batch_run.summary().published, again.summary().published) == (40, 80)
    learned = (world.folder / "root/learned.json").read_bytes()
    [[slots, _]] = checksum.load(learned, "learned.json").values()
    assert 6 <= slots <= 10
    assert peaks(world)["throttled"] - first < first < 40


async def test_messages_read_before_a_refusal_are_counted_first(
    worlds, clip, monkeypatch
):
    """Otherwise the account's slots would be those of the reporting runs alone."""
    emulator = Emulator(slots=8, clip=clip)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ROUTE], slots=24)
        root = (world.folder / "root").as_uri()
        asked = Wanted(manifest=world.manifest(8), root=root, shard_rows=4)
        [lane] = lanes = [world.lane(ROUTE)]
        slots = slots_of(lane.account)

        shaky = replace(REAL, objects=Shaky.open)
        async with begun(
            asked, lanes=lanes, rules=world.rules, world=shaky
        ) as batch_run:
            monitor = ShardMonitor(batch_run)
            monitor.add_shard(0)
            monitor.add_shard(1)
            # The batch itself fetches clips for other runs.
            lane.limiter.hold_slot()
            learned = {lane.account: LearnedLimits(2, 600)}
            await tell(batch_run, 0, in_use={slots: 2}, learned=learned)
            await monitor.read_and_grant()
            await tell(batch_run, 1, in_use={slots: 5})
            with monkeypatch.context() as patch:
                patch.setattr(Shaky, "once", set())
                with pytest.raises(RefusedError):
                    await monitor.read_and_grant()
            await monitor.read_and_grant()

    assert lane.limiter.slots == 8


async def test_lane_closed_by_one_machine_stays_open_to_others(world):
    """A lane that one machine closed for itself stays open to the other machines.

    It closes for all after several runs in a row have closed it, if no run has
    had success since and none still waits for it.
    """
    root = (world.folder / "root").as_uri()
    asked = Wanted(manifest=world.manifest(8), root=root, shard_rows=4)
    [lane] = lanes = [world.lane(ROUTE)]
    its_own = {"closed_here": {lane.name: "401"}}
    closed = []

    async with begun(asked, lanes=lanes, rules=world.rules, world=REAL) as batch_run:
        monitor = ShardMonitor(batch_run)

        async def one_of(shard, generation, **fields):
            await tell(batch_run, shard, generation, **fields)
            await monitor.read_reports()
            closed.append(lane.closed)

        monitor.add_shard(0)
        monitor.add_shard(1)
        for generation in range(1, RUNS_TO_CLOSE):
            await one_of(0, generation, **its_own)
        await one_of(1, 1, bill={lane.name: LaneTotals(submits=1, accepted=1)})
        for generation in range(RUNS_TO_CLOSE, 2 * RUNS_TO_CLOSE):
            await one_of(0, generation, **its_own)
            if generation == RUNS_TO_CLOSE:
                waits = {submits_of(lane.name): 2}
                await one_of(1, 2, needed=waits)
        await one_of(1, 3, **its_own)

    assert closed == [None] * (len(closed) - 1) + ["401"]


async def test_an_account_without_credit_is_closed_for_all_at_once(worlds, clip):
    emulator = Emulator(slots=4, clip=clip)
    emulator.faults["pan"] = [Fault.NO_CREDIT] * 8
    with running(emulator) as url:
        world = worlds(
            emulator=emulator, url=url, routes=["fal/kling-2.5-turbo"], slots=1
        )
        async with away(world, 8) as (batch_run, runs):
            await over(batch_run, at_once=1)

    summary = batch_run.summary()
    assert list(summary.lanes_closed) == ["fal"]
    assert (summary.published, summary.short_of) == (0, "lanes")
    assert runs.started == [(0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("cap", ["budget", "day"])
async def test_budget_is_granted_down_to_the_last_clip(world, cap):
    price = min(world.lane(ROUTE).route.prices_usd.values())
    wanted = {"budget_usd": 7 * price} if cap == "budget" else {}
    limits = {"submits_per_day": 7} if cap == "day" else {}

    async with away(world, 12, wanted=wanted, **limits) as (batch_run, _):
        await over(batch_run)

    summary = batch_run.summary()
    assert (summary.published, summary.pending) == (7, 5)
    assert summary.spent_usd == world.owed == 7 * price
    assert summary.short_of == ("budget" if cap == "budget" else "lanes")


@pytest.mark.slow
async def test_dearer_bill_in_one_shard_raises_the_prices_of_all(worlds, dear_emulator):
    """A bill of four times the price exceeds a shared budget by the submits under way."""
    route = "runway/gen4-turbo"
    emulator = dear_emulator(latency_s=0.3)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[route], slots=3)
        price = min(world.lane(route).route.prices_usd.values())
        wanted = {"budget_usd": 16 * price}
        async with away(world, 24, wanted=wanted, queues=False) as (batch_run, _):
            await asyncio.wait_for(over(batch_run), 60)

    summary = batch_run.summary()
    assert summary.spent_usd == world.owed <= (16 + 3 * 3) * price
    assert f"charged {4 * price:.2f} USD" in summary.lanes_dearer["runway"]
    assert summary.published + summary.pending == 24


@pytest.mark.slow
async def test_worker_without_the_daily_cap_keeps_to_the_batchs_cap(world):
    """A worker whose settings lack the daily cap keeps to the cap of the batch."""
    price = min(world.lane(ROUTE).route.prices_usd.values())

    async with away(world, 12, submits_per_day=7) as (batch_run, runs):
        runs.lane = {}
        await over(batch_run)

    summary = batch_run.summary()
    assert (summary.published, summary.pending, summary.short_of) == (7, 5, "lanes")
    assert summary.spent_usd == world.owed == 7 * price


@pytest.mark.slow
async def test_daily_cap_is_granted_again_on_the_next_day(world):
    later_s = 0.0

    async with away(
        world,
        4,
        shard_rows=2,
        today=lambda: time.time() + later_s,
        submits_per_day=2,
    ) as (batch_run, _):
        await batch_run.run_shard(0)
        later_s = DAY_S
        await batch_run.run_shard(1)

    summary = batch_run.summary()
    assert (summary.published, summary.pending) == (4, 0)


@pytest.mark.slow
async def test_slots_go_to_the_shard_that_has_the_money_for_them(worlds, clip):
    emulator = Emulator(latency_s=0.1, slots=1, submits_per_minute=100000, clip=clip)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ROUTE], slots=1)
        price = min(world.lane(ROUTE).route.prices_usd.values())
        wanted = {"budget_usd": 2 * price}
        async with away(world, 4, shard_rows=2, wanted=wanted) as (batch_run, _):
            await asyncio.wait_for(over(batch_run), 20)

    summary = batch_run.summary()
    assert (summary.published, summary.pending) == (2, 2)
    assert summary.spent_usd == world.owed == 2 * price


@pytest.mark.slow
async def test_stop_of_the_batch_ends_every_shard(world):
    async with away(world, 40, shard_rows=20) as (batch_run, runs):
        batch = asyncio.ensure_future(over(batch_run))
        await until_bought(batch_run, 3)
        batch_run.engine.stop("stopped by a test")
        await batch

    summary = batch_run.summary()
    assert 3 <= summary.bought < 40
    assert summary.in_doubt == 0
    assert summary.published + summary.pending == 40
    assert all(task.done() for task in runs.tasks.values())


@pytest.mark.slow
async def test_stopped_shard_waits_for_clips_about_to_finish(world):
    """A shard that is stopped waits for the clips that are about to finish."""
    await world.run(10)  # teaches the lane its latency
    world.rules = replace(world.rules, grace_s=10.0)
    async with away(world, 50, shard_rows=20) as (batch_run, _):
        batch = asyncio.ensure_future(over(batch_run))
        await until_bought(batch_run, 6)
        batch_run.engine.wind_down("stopped by a test")
        await batch

    summary = batch_run.summary()
    jobs = await histories(Objects.open(batch_run.wanted.root))
    assert 6 <= summary.bought < 40
    assert summary.published == 10 + summary.bought
    assert not [one for one in jobs.values() if one.state is State.ACCEPTED]


@pytest.mark.slow
async def test_shards_doubts_are_risked_once_for_all_of_them(worlds, clip):
    """The batch risks the doubts of all its shards once, under a single limit.

    It does so when all shards are over: its limit holds for everything it runs.
    """
    emulator = Emulator(latency_s=0.1, slots=4, submits_per_minute=100000, clip=clip)
    for n in (0, 2):
        emulator.faults[f"pan {n}"] = [Fault.LOSE_ANSWER]
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["fal/kling-2.5-turbo"])
        price = min(world.lane(world.routes[0]).route.prices_usd.values())
        async with away(world, 4, shard_rows=2, risk_usd=price) as (batch_run, _):
            await over(batch_run)

    summary = batch_run.summary()
    assert (summary.published, summary.in_doubt, summary.pending) == (3, 1, 0)
    assert (summary.risked_usd, summary.spent_usd) == (price, world.owed)
    assert sorted(world.bought.values()) == [1, 1, 1, 2]
    jobs = await histories(Objects.open(batch_run.wanted.root))
    assert Counter(one.state for one in jobs.values()) == {
        State.PUBLISHED: 3,
        State.IN_DOUBT: 1,
    }


class Unlisted:
    """A gateway that refuses the provider's listing until the shards are over."""

    def __init__(self, behind):
        self.behind, self.down = behind, True

    async def __call__(self, scope, receive, send):
        if self.down and scope.get("path", "").endswith("/predictions"):
            await PlainTextResponse("Bad Gateway", 502)(scope, receive, send)
        else:
            await self.behind(scope, receive, send)


async def test_shards_doubts_are_asked_about_once_more_at_the_end(worlds, emulator):
    """The batch asks about doubts that its shards could not settle."""
    emulator.faults["pan 0"] = [Fault.GATEWAY_BEFORE]
    gateway = Unlisted(emulator)
    with running(gateway) as url:
        route = "wavespeed/wan-2.2-spicy"
        world = worlds(emulator=emulator, url=url, routes=[route])
        async with away(world, 2, shard_rows=1) as (batch_run, _):
            for number in batch_run.shards:
                await batch_run.run_shard(number)
            left = batch_run.states()["in_doubt"]
            gateway.down = False
            await batch_run.settle_doubts()

    assert (left, batch_run.summary().published) == (1, 2)
    assert sorted(world.bought.values()) == [1, 1]


class Slow(Objects):
    """A store that delays a write of a shard's first run until it is sealed off."""

    async def create(self, key, data, **options):
        if key.endswith("/shard-0000.01/0000000003.jsonl.zst"):
            while not await segments.exists(self, key):  # noqa: ASYNC110 - a seal has no event
                await asyncio.sleep(0.01)
        await super().create(key, data, **options)


@pytest.mark.parametrize("risk_usd", [Decimal(0), Decimal(5)])
async def test_ticket_that_a_fenced_run_could_not_record_is_followed(
    worlds, clip, caplog, risk_usd
):
    """The batch follows a ticket that a fenced run could not record in the ledger.

    It does not risk the job: the ticket is in a spill file on that run's machine.
    """
    emulator = Emulator(latency_s=0.1, slots=4, submits_per_minute=100000, clip=clip)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["fal/kling-2.5-turbo"])
        async with away(world, 1, risk_usd=risk_usd) as (batch_run, runs):
            runs.real, real = replace(runs.real, objects=Slow.open), runs.real
            batch = asyncio.ensure_future(batch_run.run_shard(0))
            while not emulator.bill:  # noqa: ASYNC110 - a bill has no event
                await asyncio.sleep(0.01)
            first, runs.real = runs.tasks[0], real
            await runs(0, 0)
            await asyncio.wait({first, batch})
            assert batch_run.summary().in_doubt == 1
            await batch_run.settle_doubts()

    summary = batch_run.summary()
    assert isinstance(first.exception(), FencedError)
    assert "ledger.spill_recovered file=spill/" in caplog.text
    assert (summary.published, summary.in_doubt, summary.spent_usd) == (
        1,
        0,
        world.owed,
    )
    assert world.bought == {"pan 0": 1}


async def test_stop_of_the_batch_ends_its_risks(worlds, clip):
    """The batch also counts the submits of the minute that its shards made."""
    emulator = Emulator(latency_s=0.1, slots=8, submits_per_minute=100000, clip=clip)
    for n in range(3):
        emulator.faults[f"pan {n}"] = [Fault.LOSE_ANSWER]
    with running(emulator) as url:
        world = worlds(
            emulator=emulator, url=url, routes=["fal/kling-2.5-turbo"], slots=8
        )
        price = max(world.lane(world.routes[0]).route.prices_usd.values())
        lane = {"risk_usd": 3 * price, "submits_per_minute": 4}
        async with away(world, 3, shard_rows=3, **lane) as (batch_run, _):
            batch = asyncio.ensure_future(over(batch_run))
            while len(emulator.bill) < 4:  # noqa: ASYNC110 - a bill has no event
                await asyncio.sleep(0.01)
            batch_run.engine.stop("stopped by a test")
            await batch

    assert len(emulator.bill) == 4
    summary = batch_run.summary()
    assert (summary.published + summary.pending, summary.in_doubt) == (3, 0)


async def test_superseded_batch_leaves_its_successors_errands_alone(world):
    """A batch that was taken over leaves the errands of its successor in place."""
    older = away(world, 4)
    await older.__aenter__()
    async with away(world, 4, wanted={"take_over": True}) as (batch_run, runs):

        async def start(number, attempt, begun):
            with suppress(FencedError):
                await older.__aexit__(None, None, None)
            await runs(number, attempt, begun)

        batch_run.away.start = start
        await over(batch_run)

    assert batch_run.summary().published == 4
    assert runs.started == [(0, 1)]


async def test_next_batch_deletes_what_a_dead_batch_left_of_its_shards(world):
    """The next batch deletes the shard files that a dead batch left behind.

    Slips hold what rows name, wherever the next batch runs its shards. Files of a
    later batch stay.
    """
    objects = made((world.folder / "root").as_uri())
    await world.run(1)
    await objects.put("shards/000001-m/0000.parquet", b"rows")
    await objects.put("shards/000003-m/0000.parquet", b"rows of a successor")

    await world.run(1)

    left = [stored.key async for stored in objects.list("shards")]
    assert left == ["shards/000003-m/0000.parquet"]


async def test_lane_with_an_unknown_account_is_closed_in_that_worker(
    world, monkeypatch, caplog
):
    """A lane whose account the batch lacks is closed in that worker only.

    The batch would never grant it anything, and its jobs would wait for ever.
    """
    monkeypatch.setattr("tasks.distributed.supervisor.PAUSE_S", 0.01)
    async with away(world, 8) as (batch_run, runs):
        known, strange = world.lane(ROUTE), world.lane(ROUTE)
        strange.account = "kling file:/run/secrets/kling"
        runs.lanes = partial(next, iter([[strange], [known], [known]]))
        await over(batch_run, at_once=1)

    summary = batch_run.summary()
    assert (summary.published, summary.pending, summary.lanes_closed) == (8, 0, {})
    assert runs.started == [(0, 1), (0, 2), (1, 1)]
    assert "names 'kling', not 'kling file:/run/secrets/kling'" in caplog.text


@pytest.mark.slow
async def test_wrong_key_on_one_worker_ends_neither_batch_nor_shard(
    worlds, clip, monkeypatch
):
    """A wrong key on one worker ends neither the batch nor the shard."""
    monkeypatch.setattr("tasks.distributed.supervisor.PAUSE_S", 0.01)
    emulator = Emulator(latency_s=0.1, slots=4, clip=clip, keys=[*KEYS.values()])
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ROUTE])
        async with away(world, 12) as (batch_run, runs):
            outdated = [f"outdated:{'secret' * 6}"] * (RUNS_TO_CLOSE - 1)
            runs.lanes = lambda: [world.lane(ROUTE, key=(outdated or [""]).pop())]
            await over(batch_run, at_once=1)

    summary = batch_run.summary()
    assert runs.started[:RUNS_TO_CLOSE] == [(0, n) for n in range(1, RUNS_TO_CLOSE + 1)]
    assert (summary.published, summary.pending, summary.lanes_closed) == (12, 0, {})
    assert summary.spent_usd == world.owed


@pytest.mark.slow
async def test_a_key_that_all_workers_have_wrong_ends_the_batch(
    worlds, clip, monkeypatch
):
    monkeypatch.setattr("tasks.distributed.supervisor.PAUSE_S", 0.01)
    emulator = Emulator(slots=4, clip=clip, keys=["another:key"])
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ROUTE])
        async with away(world, 12) as (batch_run, runs):
            await over(batch_run, at_once=1)

    summary = batch_run.summary()
    assert (summary.pending, summary.short_of, [*summary.lanes_closed]) == (
        12,
        "lanes",
        ["kling"],
    )
    assert len(runs.started) == RUNS_TO_CLOSE


async def test_run_that_fails_at_its_start_is_retried_with_pauses(world, monkeypatch):
    """A run that fails before its first message is retried after growing pauses.

    A worker without the key is free again at once: without pauses, it would take
    every retry before another worker could.
    """
    monkeypatch.setattr("tasks.distributed.supervisor.PAUSE_S", 0.01)
    async with away(world, 2) as (batch_run, runs):
        run, began = runs.__call__, []

        async def start(number, attempt, begun):
            began.append(asyncio.get_running_loop().time())
            if attempt <= TRIES + 1:
                raise ConnectionError("KLING_KEY is not set")
            await run(number, attempt, begun)

        batch_run.away.start = start
        await over(batch_run)

    pauses = [later - earlier for earlier, later in pairwise(began)]
    assert batch_run.summary().published == 2
    assert len(pauses) == TRIES + 1
    assert all(pause >= 0.01 * 2**n for n, pause in enumerate(pauses))


async def test_shard_that_no_worker_can_start_rests_with_a_reason(
    world, monkeypatch, caplog
):
    monkeypatch.setattr("tasks.distributed.supervisor.PAUSE_S", 0.0)
    async with away(world, 3, shard_rows=1) as (batch_run, _):
        tried = []

        async def start(number, attempt, _begun):
            tried.append(number)
            raise ConnectionError(f"no nightreel.toml, {attempt}")

        batch_run.away.start = start
        await over(batch_run, at_once=1)

    [*reasons] = batch_run.engine.tally.waiting_jobs.values()
    assert tried == [0] * FAILED_STARTS + [1, 2]
    assert batch_run.summary().pending == 3
    assert all("no nightreel.toml" in waiting.reason for waiting in reasons)
    assert caplog.text.count("no nightreel.toml") >= FAILED_STARTS


async def test_fenced_run_with_nothing_to_record_leaves_its_worker(world, monkeypatch):
    """A fenced run that has nothing to record ends and frees its worker."""
    monkeypatch.setattr(Mute, "silent", False)
    async with away(world, 2) as (batch_run, runs):

        async def start(number, attempt, begun):
            if attempt == 1:
                # Nothing is bought, so nothing has to be recorded.
                runs.lane = {"slots": 0}
                seeming = asyncio.ensure_future(muted(runs, runs, number, attempt))
                seeming.add_done_callback(lambda run: run.exception())
                while number not in await granted(batch_run):  # noqa: ASYNC110 - a store has no event
                    await asyncio.sleep(0.05)
                Mute.silent = True
                raise ConnectionError("nobody can reach it")
            runs.lane = {}
            await asyncio.wait({runs.tasks[number]})
            await runs(number, attempt, begun)

        batch_run.away.start = start
        await over(batch_run)

    assert batch_run.summary().published == 2


@pytest.mark.slow
async def test_store_away_for_minutes_ends_neither_batch_nor_shard(world, monkeypatch):
    """A store that is away for minutes ends neither the batch nor the shard."""
    monkeypatch.setattr("tasks.distributed.heartbeat.BATCH_DEAD_S", 2.0)
    async with away(world, 60, shard_rows=60) as (batch_run, runs):
        odd = layout.usage(batch_run.batch, 0, 0)
        await Objects.open(batch_run.wanted.root).put(odd, b"of another version")
        batch = asyncio.ensure_future(over(batch_run))
        await until_bought(batch_run, 1)
        monkeypatch.setattr(Shaky, "refused", 0)
        monkeypatch.setattr(Shaky, "away", True)
        while Shaky.refused < 10:  # noqa: ASYNC110 - a number has no event
            await asyncio.sleep(0.01)
        Shaky.away = False
        await batch

    assert batch_run.summary().published == 60
    assert runs.started == [(0, 1)]


@pytest.mark.slow
async def test_a_store_that_refuses_now_and_then_ends_no_batch(world, monkeypatch):
    """Each call fails once, as when a key is renewed; no message counts twice."""
    async with away(world, 8) as (batch_run, runs):
        # The stores of the shards do not refuse anything.
        runs.real = replace(runs.real, objects=Objects.open)
        monkeypatch.setattr(Shaky, "once", set())
        await over(batch_run)
        refused = len(Shaky.once)
        monkeypatch.setattr(Shaky, "once", None)

    summary = batch_run.summary()
    assert (summary.published, summary.bought, summary.pending) == (8, 8, 0)
    assert summary.spent_usd == world.owed
    assert sorted(runs.started) == [(0, 1), (1, 1)]
    assert refused > 8


@pytest.mark.slow
async def test_run_that_goes_silent_is_replaced_by_another(world, monkeypatch, caplog):
    """Another run takes over from a run that has gone silent.

    Its machine is gone, so nothing could report the failure.
    """
    monkeypatch.setattr("tasks.distributed.supervisor.SILENT_S", 3.0)
    async with away(world, 12, shard_rows=12) as (batch_run, runs):
        run = runs.__call__

        async def start(number, attempt, begun):
            if attempt > 1:
                await run(number, attempt, begun)
                return
            dying = asyncio.ensure_future(run(number, attempt, begun))
            await until_bought(batch_run, 4)
            dying.cancel()
            # The server shows it as running for ever.
            await asyncio.Event().wait()

        batch_run.away.start = start
        await over(batch_run)

    summary = batch_run.summary()
    assert runs.started == [(0, 1), (0, 2)]
    assert "nothing heard of it for 3 s" in caplog.text
    assert (summary.published + summary.in_doubt, summary.pending) == (12, 0)
    assert set(world.bought.values()) == {1}
    assert peaks(world)["throttled"] == 0


@pytest.mark.slow
async def test_run_reported_failed_but_still_heard_is_left_alone(world):
    """A run that is reported as failed but still sends messages is left alone.

    The Prefect server has lost contact with it, for example, and the store has not.
    """
    async with away(world, 24, shard_rows=24) as (batch_run, runs):
        run = runs.__call__

        async def start(number, attempt, begun):
            going = asyncio.ensure_future(run(number, attempt, begun))
            going.add_done_callback(lambda run: run.exception())
            await until_bought(batch_run, 4)
            raise ConnectionError("Crashed: no heartbeat was received")

        batch_run.away.start = start
        await over(batch_run)

    summary = batch_run.summary()
    assert runs.started == [(0, 1)]
    assert (summary.published, summary.bought, summary.pending) == (24, 24, 0)


@pytest.mark.slow
async def test_shard_of_a_drained_machine_continues_on_another(world):
    """Another machine continues the shard of a machine that is drained."""
    async with away(world, 40, shard_rows=40) as (batch_run, runs):
        run = runs.__call__

        def drained(of):
            @contextmanager
            def gently(its):
                if len(runs.started) == 1:
                    of.append(its)
                yield

            return gently

        batch_runs = []

        async def start(number, attempt, begun):
            runs.more = {"gently": drained(batch_runs)}
            await run(number, attempt, begun)

        batch_run.away.start = start
        batch = asyncio.ensure_future(over(batch_run))
        await until_bought(batch_run, 3)
        batch_runs[0].engine.wind_down("stopped by SIGTERM")
        await batch

    summary = batch_run.summary()
    assert runs.started == [(0, 1), (0, 2)]
    assert (summary.published, summary.bought, summary.pending) == (40, 40, 0)
    assert summary.spent_usd == world.owed
    assert peaks(world)["throttled"] == 0


@pytest.mark.slow
async def test_wait_for_a_worker_is_logged_once(world, monkeypatch, caplog):
    monkeypatch.setattr("tasks.distributed.supervisor.SILENT_S", 0.5)
    async with away(world, 2) as (batch_run, runs):
        run = runs.__call__

        async def start(number, attempt, begun):
            while "shard.waits" not in caplog.text:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.05)
            monkeypatch.setattr("tasks.distributed.supervisor.SILENT_S", 60.0)
            await run(number, attempt, begun)

        batch_run.away.start = start
        await over(batch_run)

    assert batch_run.summary().published == 2
    assert caplog.text.count("shard.waits shard=0 ") == 1


async def test_lane_unknown_to_the_batch_is_closed_in_that_worker(world):
    """A lane that the batch does not have is closed in that worker only.

    It uses an account of the batch, but the batch could not count its purchases.
    """
    async with away(world, 4) as (batch_run, runs):
        known, strange = world.lane(ROUTE), world.lane(ROUTE)
        strange.name, strange.limiter = "another", known.limiter
        runs.lanes = lambda: [strange, known]
        await over(batch_run)

    summary = batch_run.summary()
    assert (summary.published, summary.pending, summary.lanes_closed) == (4, 0, {})
    assert summary.spent_usd == world.owed
