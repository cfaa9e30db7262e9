"""Clips that were paid for and not fetched: fetched in time or given up.

It does not matter which night bought them.
"""

import asyncio
import json
import shutil
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest

from manifests.catalogue import loader as catalogue
from manifests.lifecycle import (
    Accepted,
    Discarded,
    Generated,
    History,
    Intended,
    Published,
    Refused,
    State,
    Ticket,
)
from storage.ledger import Ledger, histories, read
from storage.ledger.codec import unpack
from storage.objects import Objects, RefusedError
from tasks.batch.lifespan import begun
from tasks.batch.request import Wanted
from tasks.dispatch import ENOUGH_FINISHED, Budget, Router
from tasks.emulator import Emulator, Fault, running
from tasks.emulator.prices import price_list
from tasks.engine.environment import Deps, Rules, World
from tasks.engine.job import SEND_WITHIN_S
from tasks.engine.past_tables import asking
from tasks.engine.recover import Fetcher
from tasks.providers.http import connected
from tasks.reconcile import opened
from tests.storage.lives import made

pytestmark = pytest.mark.anyio
slow = pytest.mark.slow

DAY_S = 24 * 3600.0
ATLAS, KLING = "atlas/wan-2.2-spicy", "kling/kling-2.5-turbo"
ACCEPTED, GENERATED = 2, 3
"""The number of events on record once a job is accepted, or generated."""
BUYING = (
    Intended(lane="atlas", route=ATLAS, price_usd=Decimal("0.17"), seed=1),
    Accepted(Ticket("atlas", "remote-1")),
)
BOUGHT = History(state=State.ACCEPTED, route=ATLAS, accepted_at=1_800_000_000.0)


@dataclass
class Time:
    """The clocks of this machine and of the providers, which a test puts forward."""

    later_s: float = 0.0
    awake_later_s: float = 0.0
    """Moves the monotonic clock only."""

    def now(self):
        return time.monotonic() + self.awake_later_s

    def today(self):
        return time.time() + self.later_s


@dataclass
class Suspended:
    """Machines that are suspended just after an intent was recorded."""

    time: Time
    naps: list[tuple[float, float]] = field(default_factory=list)
    """The seconds by which each one puts the wall and the monotonic clock forward."""

    def objects(self, uri):
        naps, clock = self.naps, self.time

        class Store(Objects):
            async def create(self, key, data, **options):
                await super().create(key, data, **options)
                segment = key.startswith("ledger/") and key.endswith(".zst")
                if segment and naps and Intended in events(data, key):
                    later_s, awake_later_s = naps.pop(0)
                    clock.later_s += later_s
                    clock.awake_later_s += awake_later_s

        return Store.open(uri)


class Archive(Objects):
    """A store whose tables are archived: it lists them and refuses to read them."""

    asked = 0

    async def get(self, key):
        if key.startswith("tables/"):
            Archive.asked += 1
            raise RefusedError(f"{self.uri(key)}: HTTP 403, InvalidObjectState")
        return await super().get(key)


def root(world):
    return (world.folder / "root").as_uri()


def events(data, key):
    """The kinds of events that a segment of the ledger holds."""
    return {type(getattr(x, "event", x)) for x in unpack(data, key)}


def jobs_of(world):
    return histories(Objects.open(root(world)))


def everything(world):
    return read(Objects.open(root(world)))


async def run(world, manifest, **reaching):
    """A night in a world with these changes."""
    uri = manifest if isinstance(manifest, str) else world.manifest(manifest)
    wanted = Wanted(
        manifest=uri, root=root(world), budget_usd=reaching.pop("usd", None)
    )
    lanes = [world.lane(route) for route in world.routes]
    around = World(**reaching)
    async with begun(wanted, lanes=lanes, rules=world.rules, world=around) as batch_run:
        world.batch_runs.append(batch_run)
        for number in range(len(batch_run.shards)):
            await batch_run.run_shard(number)
        await batch_run.settle_doubts()
    return batch_run.summary()


async def died(world, *, after, rows=1, lanes=None, published=False):
    """A night whose process died when each job had `after` events on record.

    With `published`, the clips are in the store all the same.
    """
    await world.run(world.manifest(rows, "monday"), lanes=lanes)
    entries = await everything(world)
    tables = [
        (path.relative_to(world.folder), path.read_bytes())
        for path in (world.folder / "root" / "tables").rglob("*.parquet")
    ]
    clips = world.folder / "root" / "clips"
    if published:
        clips = clips.rename(world.folder / "clips")
    shutil.rmtree(world.folder / "root")
    ledger = await Ledger.open(made(root(world)), name="monday")
    for job in {entry.job for entry in entries}:
        for entry in [entry for entry in entries if entry.job == job][:after]:
            await ledger.record(job, entry.event)
    await ledger.close()
    if published:
        clips.rename(world.folder / "root" / "clips")
    for name, table in tables:
        (world.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (world.folder / name).write_bytes(table)


async def unparked(job, error):
    """Fails the test: no job here should meet an unforeseen error."""
    raise AssertionError(job) from error


@asynccontextmanager
async def fetching(world, lanes, deadline_s=30.0, clock=time.time, store=Objects):
    """The fetcher of all jobs in the ledger of a root, and that ledger."""
    made(root(world))
    objects = store.open(root(world))
    ledger = await Ledger.open(objects, name="tuesday")
    try:
        async with connected() as clients:
            deps = Deps(
                world=World(today=clock),
                rules=Rules(deadline_s=deadline_s, downloads=4),
                objects=objects,
                ledger=ledger,
                clients=clients,
                router=Router(
                    lanes, policy="balanced", now=time.monotonic, today=clock
                ),
                budget=Budget(Decimal(0)),
            )
            fetcher = Fetcher(deps, record=ledger.record, park=unparked)
            yield fetcher, ledger
    finally:
        await ledger.close()


# Jobs of the same night


@pytest.mark.parametrize(
    ("route", "after", "days", "buys"),
    [
        # Polls still report it as done; the link is dead.
        (KLING, ACCEPTED, 32, 2),
        pytest.param("wavespeed/wan-2.2-spicy", GENERATED, 9, 2, marks=slow),
        pytest.param("fal/wan-2.2", ACCEPTED, 9, 2, marks=slow),
        # Its record is deleted, too.
        pytest.param(ATLAS, ACCEPTED, 9, 2, marks=slow),
        pytest.param(ATLAS, GENERATED, 9, 2, marks=slow),
        # The provider reports the deletion.
        pytest.param("replicate/wan-2.2", ACCEPTED, 0.1, 2, marks=slow),
        ("replicate/wan-2.2", GENERATED, 0.1, 2),
        # A poll returns a fresh link.
        ("runway/gen4-turbo", GENERATED, 9, 1),
        # The clip is not certainly gone.
        (KLING, ACCEPTED, 29, 1),
    ],
)
async def test_expired_clip_is_bought_again_and_available_one_is_not(
    worlds, clip, *, route, after, days, buys
):
    clock = Time()
    emulator = Emulator(
        latency_s=0.05, clip=clip, clock=lambda: time.monotonic() + clock.later_s
    )
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[route])
        await died(world, after=after)
        clock.later_s = days * DAY_S

        summary = await run(world, 1, today=clock.today)

    [lost] = [
        e.event for e in await everything(world) if isinstance(e.event, Discarded)
    ] or [None]
    assert (summary.published, summary.bought) == (1, buys - 1)
    assert len(emulator.bill) == buys
    assert (lost is not None) == (buys == 2)
    assert world.table("clips")["spent_usd"].sum() == emulator.total_usd


@pytest.mark.parametrize("provider", ["kling", "fal"])
async def test_retired_route_clip_is_fetched(worlds, clip, provider):
    """A clip accepted before its route was retired is fetched and not bought again."""
    old, new = f"{provider}/kling-1.6", f"{provider}/kling-2.5-turbo"
    routes = catalogue.load().routes
    prices = price_list([replace(routes[old], retired=""), routes[new]])
    emulator = Emulator(latency_s=0.05, clip=clip, prices=prices)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[old])
        await died(world, after=ACCEPTED)

        summary = await world.run(1, lanes=[world.lane(new)])

    [job] = (await jobs_of(world)).values()
    assert (job.state, job.route) == (State.PUBLISHED, old)
    assert (summary.published, summary.bought) == (1, 0)
    assert len(emulator.bill) == 1


async def test_unobserved_end_of_a_job_teaches_no_latency(worlds, emulator):
    """A job that nothing polled when it ended teaches the lane no latency."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        await died(world, after=ACCEPTED, rows=ENOUGH_FINISHED)

        summary = await run(world, ENOUGH_FINISHED, today=Time(later_s=1800.0).today)

    assert (summary.published, summary.bought) == (ENOUGH_FINISHED, 0)
    assert not world.batch_runs[-1].engine.lanes.all[0].polls.is_learned


@slow
async def test_a_dead_link_is_waited_for_as_long_as_the_clip_is_owed(worlds, emulator):
    emulator.faults["pan"] = [Fault.LOST_CLIP]
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])

        first = await world.run(1)
        again = await run(world, 1, today=Time(later_s=9 * DAY_S).today)

    assert (first.pending, first.published, first.bought) == (1, 0, 1)
    assert (again.published, again.bought) == (1, 1)
    assert first.spent_usd + again.spent_usd == emulator.total_usd


async def test_clip_that_expires_first_is_fetched_in_the_first_shard(worlds, emulator):
    rows = [{"prompt": f"pan {n}", "model": "wan-2.2-spicy"} for n in range(3)]
    rows.append({"prompt": "pan 3", "model": "wan-2.2"})
    with running(emulator) as url:
        routes = [ATLAS, "replicate/wan-2.2"]
        world = worlds(emulator=emulator, url=url, routes=routes)
        await died(world, after=ACCEPTED, rows=rows)

        await world.run(rows, shard_rows=1)

    events = [(x.job, x.event) for x in await everything(world)]
    order = [job for job, event in events if isinstance(event, Published)]
    fetched = [(await jobs_of(world))[job].route for job in order]
    assert fetched == ["replicate/wan-2.2", ATLAS, ATLAS, ATLAS]
    assert set(world.bought.values()) == {1}


async def test_published_clip_is_recorded_without_any_lane(worlds, emulator):
    """A clip that is in the store is recorded, even if no lane asks its provider any more."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        await died(world, after=GENERATED, published=True)
        other = world.lane("replicate/wan-2.2")
        await world.run(world.manifest(1, "monday"), lanes=[other])

    [history] = (await jobs_of(world)).values()
    assert history.state is State.PUBLISHED
    assert set(world.bought.values()) == {1}


# Jobs of other nights


async def test_clips_of_another_night_are_fetched_with_their_facts(worlds, emulator):
    """Clips that another night bought are fetched with all facts on record."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        await died(world, after=ACCEPTED, rows=3)
        before = await jobs_of(world)
        async with fetching(world, [world.lane(ATLAS)]) as (fetcher, _):
            await fetcher.bring_home(before)

    after = await jobs_of(world)
    assert {job.state for job in after.values()} == {State.PUBLISHED}
    assert set(world.bought.values()) == {1}
    for job in after:
        name = f"clips/{job[:2]}/{job}.json"
        sidecar = json.loads(await Objects.open(root(world)).get(name))
        assert sidecar["prompt"].startswith("pan ")
        assert sidecar["generated_at"] == after[job].generated_at
        assert sidecar["price_usd"] == "0.17"


async def test_unfinished_job_is_fetched_when_done_and_holds_its_slot(worlds, clip):
    """A job that is still running holds its slot and is fetched when it is done."""
    clock = Time()
    emulator = Emulator(
        latency_s=3600.0,
        clip=clip,
        faults={"pan 1": [Fault.STUCK]},
        clock=lambda: time.monotonic() + clock.later_s,
    )
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        world.rules = Rules(deadline_s=0.0)
        await world.run(3)
        before, over = await jobs_of(world), asyncio.Event()
        lane = world.lane(ATLAS)
        async with fetching(world, [lane]) as (fetcher, ledger):
            bringing = asyncio.create_task(fetcher.bring_home(before, over))

            def fetched():
                return sum(x.state is State.PUBLISHED for x in ledger.lives.values())

            while (held := lane.limiter.in_flight) < 3:  # noqa: ASYNC110 - a count has no event
                await asyncio.sleep(0.02)
            clock.later_s = 7200.0
            while fetched() < 2 or lane.limiter.in_flight > 1:  # noqa: ASYNC110 - a count has no event
                await asyncio.sleep(0.02)
            stuck = lane.limiter.in_flight
            over.set()
            await bringing

    states = sorted(str(history.state) for history in (await jobs_of(world)).values())
    assert states == ["accepted", "published", "published"]
    assert (held, stuck, lane.limiter.in_flight) == (3, 1, 0)
    assert set(world.bought.values()) == {1}


async def test_ending_batch_is_not_delayed_and_takes_what_is_ready(worlds, clip):
    """A batch that ends does not wait, and fetches the clips that are ready."""
    emulator = Emulator(latency_s=0.05, clip=clip)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        await died(world, after=ACCEPTED, rows=2)
        emulator.faults["other"] = [Fault.STUCK]
        world.rules = Rules(deadline_s=0.0)
        await world.run(world.manifest([{"prompt": "other"}], "another"))
        before, over = await jobs_of(world), asyncio.Event()
        over.set()
        async with fetching(world, [world.lane(ATLAS)]) as (fetcher, _):
            await asyncio.wait_for(fetcher.bring_home(before, over), 20)

    states = sorted(str(history.state) for history in (await jobs_of(world)).values())
    assert states == ["accepted", "published", "published"]


async def test_unreachable_provider_is_not_polled_for_each_clip(
    worlds, emulator, caplog
):
    """A provider that cannot be reached is not asked once for each of 100 clips."""
    world = worlds(emulator=emulator, url="http://127.0.0.1:9", routes=[ATLAS])
    before, over = {f"{n:032x}": BOUGHT for n in range(100)}, asyncio.Event()
    over.set()
    async with fetching(world, [world.lane(ATLAS)]) as (fetcher, ledger):
        for job in before:
            await asyncio.gather(*(ledger.record(job, event) for event in BUYING))
        await fetcher.bring_home(before, over)

    [message] = [
        line.message for line in caplog.records if "not_fetched" in line.message
    ]
    assert 3 <= int(message.partition("clips=")[2].split()[0]) < 20


async def test_clips_that_no_lane_in_use_can_fetch_are_reported(
    worlds, emulator, caplog
):
    before = {f"{n:032x}": BOUGHT for n in range(3)}
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[KLING])
        async with fetching(world, [world.lane(KLING)]) as (fetcher, ledger):
            for job in before:
                await asyncio.gather(*(ledger.record(job, event) for event in BUYING))
            await fetcher.bring_home(before)

    message = (
        "clips.not_fetched clips=3 provider=atlas no lane in use asks the provider"
    )
    assert [line.message for line in caplog.records if "not_fe" in line.message] == [
        message
    ]
    assert {job.state for job in (await jobs_of(world)).values()} == {State.ACCEPTED}


async def test_reconcile_gives_up_lost_clips_and_reports_it(worlds, emulator):
    emulator.faults["pan 0"] = [Fault.LOST_CLIP]
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        lane = world.lane(ATLAS)
        lane.route = replace(lane.route, keeps_s=0)
        await died(world, after=ACCEPTED, rows=2, lanes=[lane])
        async with opened(root(world), lanes=[lane], rules=Rules()) as reconciliation:
            await reconciliation.fetch()

    assert (reconciliation.told.fetched, reconciliation.told.expired) == (1, 1)
    attempts = world.table("attempts")
    assert sorted(attempts.filter(attempt=1)["outcome"]) == ["discarded", "published"]


# A suspended machine


@pytest.mark.parametrize(
    "nap",
    [(2 * SEND_WITHIN_S, 0.0), (-DAY_S, 2 * SEND_WITHIN_S)],
    ids=["suspended", "stopped, and its clock put back"],
)
async def test_an_intent_that_is_old_when_it_could_be_sent_is_not_sent(
    worlds, emulator, nap
):
    clock = Time()
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS], slots=1)
        price = world.lane(ATLAS).route.prices_usd["480p", 5]
        store = Suspended(clock, naps=[nap])

        summary = await run(
            world, 1, usd=price, objects=store.objects, now=clock.now, today=clock.today
        )

    events = [entry.event for entry in await everything(world)]
    assert (store.naps, summary.published, summary.bought) == ([], 1, 1)
    assert [type(event) for event in events[:3]] == [Intended, Refused, Intended]
    assert events[1].reason.startswith("not sent: ")
    assert len(emulator.bill) == 1
    assert summary.spent_usd == emulator.total_usd == price


async def test_slow_store_does_not_keep_requests_from_being_sent(worlds, emulator):
    """A store that is slow does not keep a request from being sent."""
    clock = Time()
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        store = Suspended(clock, naps=[(SEND_WITHIN_S - 5,) * 2])

        summary = await run(
            world, 1, objects=store.objects, now=clock.now, today=clock.today
        )

    assert (store.naps, summary.published) == ([], 1)
    assert world.table("attempts")["outcome"].to_list() == ["published"]


async def test_clips_of_another_manifest_are_fetched_by_the_next_run(worlds, clip):
    """The next run fetches clips that another night's manifest bought."""
    emulator = Emulator(latency_s=1.0, clip=clip)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])

        def stopped(batch_run):
            asyncio.get_running_loop().call_later(0.6, batch_run.engine.stop, "killed")

        monday = await world.run(world.manifest(3, "monday"), during=stopped)
        tuesday = await world.run(
            world.manifest([{"prompt": "tilt"}], "tuesday"),
            lanes=[world.lane(ATLAS)],
        )

    jobs = await histories(Objects.open((world.folder / "root").as_uri()))
    assert (monday.bought, monday.published) == (3, 0)
    assert (tuesday.rows, tuesday.published, tuesday.bought) == (1, 1, 1)
    assert tuesday.spent_usd == Decimal("0.17")
    assert world.batch_runs[-1].engine.tally.fetched == 3
    assert {job.state for job in jobs.values()} == {State.PUBLISHED}
    assert set(world.bought.values()) == {1}


async def test_damaged_table_of_an_earlier_batch_costs_no_clip(
    worlds, emulator, caplog
):
    """A damaged table of an earlier batch ends no night and costs no clip."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        await died(world, after=ACCEPTED)
        [table] = (world.folder / "root" / "tables" / "clips").rglob("*.parquet")
        table.write_bytes(table.read_bytes()[:40])

        tuesday = await world.run(world.manifest([{"prompt": "tilt"}], "tuesday"))

    assert (tuesday.rows, tuesday.published, tuesday.bought) == (1, 1, 1)
    assert {job.state for job in (await jobs_of(world)).values()} == {State.PUBLISHED}
    assert set(world.bought.values()) == {1}
    assert "table.unreadable" in caplog.text
    assert f"/{table.parent.name}/{table.name} it is skipped: " in caplog.text


async def test_ready_clips_are_polled_before_any_earlier_table_is_read(
    worlds, emulator
):
    """Clips that are ready are polled before any table of earlier batches arrives."""
    looked_at = asyncio.Event()

    class Slow(Objects):
        async def create(self, key, data, **options):
            await super().create(key, data, **options)
            if key.endswith(".zst") and Generated in events(data, key):
                looked_at.set()

        async def get(self, key):
            if key.startswith("tables/"):
                await looked_at.wait()
            return await super().get(key)

    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        await died(world, after=ACCEPTED)
        [job] = before = await jobs_of(world)
        async with fetching(world, [world.lane(ATLAS)], store=Slow) as (fetcher, _):
            await asyncio.wait_for(fetcher.bring_home(before), 20)

    name = f"clips/{job[:2]}/{job}.json"
    sidecar = json.loads(await Objects.open(root(world)).get(name))
    assert (await jobs_of(world))[job].state is State.PUBLISHED
    assert sidecar["prompt"] == "pan 0"


async def test_newest_of_several_tables_about_a_job_is_believed(worlds, emulator):
    """If several tables describe a job, the newest one counts."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        await died(world, after=ACCEPTED)
        [job] = await jobs_of(world)
    [table] = (world.folder / "root" / "tables" / "clips").rglob("*.parquet")
    shutil.copytree(table.parent, table.parents[1] / "batch=000000-older")
    unknown = "0" * 32

    objects = Objects.open(root(world))
    async with asking(objects, [job, unknown], within_s=20.0) as asked:
        assert await asked(unknown) == {}
        assert (await asked(job))["prompt"] == "pan 0"


async def test_unreadable_tables_cost_a_sidecar_only_some_facts(tmp_path, caplog):
    """Any error in the tables only makes a sidecar less complete."""

    class Odd(Objects):
        async def list(self, folder=""):
            raise LookupError(folder)
            yield

    async with asking(Odd.open(str(tmp_path)), ["a"], within_s=20.0) as asked:
        assert await asked("a") == {}
    assert (
        "tables.not_searched sidecars of older clips say less: LookupError"
        in caplog.text
    )


async def test_late_table_is_not_awaited_until_a_clip_expires(
    worlds, emulator, monkeypatch
):
    """The fetch does not wait for a late table until the clip expires."""

    class Stuck(Objects):
        async def get(self, key):
            if key.startswith("tables/"):
                await asyncio.Event().wait()
            return await super().get(key)

    monkeypatch.setattr("tasks.engine.recover.TABLES_WITHIN_S", 0.1)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        await died(world, after=ACCEPTED)
        before = await jobs_of(world)
        async with fetching(world, [world.lane(ATLAS)], store=Stuck) as (fetcher, _):
            await asyncio.wait_for(fetcher.bring_home(before), 20)

    assert {job.state for job in (await jobs_of(world)).values()} == {State.PUBLISHED}


async def test_unreadable_tables_end_no_night_and_cost_no_clip(
    worlds, emulator, caplog, monkeypatch
):
    """Tables that cannot be read end no night and cost no clip."""
    monkeypatch.setattr(Archive, "asked", 0)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        await died(world, after=ACCEPTED)
        [table] = (world.folder / "root" / "tables" / "clips").rglob("*.parquet")
        shutil.copytree(table.parent, table.parents[1] / "batch=000000-older")

        another = world.manifest([{"prompt": "tilt"}], "tuesday")
        tuesday = await run(world, another, objects=Archive.open)

    unread = [
        line.message for line in caplog.records if "table.unreadable" in line.message
    ]
    assert (tuesday.rows, tuesday.published, tuesday.bought) == (1, 1, 1)
    assert {job.state for job in (await jobs_of(world)).values()} == {State.PUBLISHED}
    # Two tables of clips for the sidecar, and the table that has the attempt.
    assert Archive.asked == 3
    assert len(unread) == 1
    assert set(world.bought.values()) == {1}
