"""What a hostile reader found: each of these promises is broken today."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal

import polars as pl
import pytest

from manifests.lifecycle import (
    Accepted,
    Facts,
    Generated,
    Intended,
    Published,
    Risked,
    Ticket,
    hedge_of,
)
from storage.clips import Clips
from storage.ledger import Ledger, read
from storage.objects import Objects
from tasks.emulator import Emulator, Fault, running
from tasks.engine import Rules
from tasks.lanes import Lane
from tasks.pacing import Limits, Pace
from tasks.reconciling import DecisionError, Decisions, opened
from tasks.roster import Roster

pytestmark = pytest.mark.anyio

KLING, REPLICATE, ATLAS, RUNWAY = (
    "kling/kling-1.6",
    "replicate/wan-2.2",
    "atlas/wan-2.2-spicy",
    "runway/gen4-turbo",
)
WAVESPEED = "wavespeed/wan-2.2-spicy"


@pytest.fixture
def on(worlds, emulator):
    """A world with lanes on these routes."""
    with running(emulator) as url:
        yield lambda *routes: worlds(emulator=emulator, url=url, routes=[*routes])


@pytest.fixture
def slow(worlds, clip):
    emulator = Emulator(latency_s=2.0, slots=1000, clip=clip)
    with running(emulator) as url:
        yield lambda *routes: worlds(emulator=emulator, url=url, routes=[*routes])


def everything(world):
    return read(Objects.open((world.folder / "root").as_uri()))


def again(lane, **changed):
    """The same lane, with something about it changed."""
    said = {
        "name": lane.name,
        "route": lane.route,
        "line": lane.line,
        "limits": lane.limits,
        **changed,
    }
    return Lane(**said)


# --- a doubt settled while its job is taken up again


@pytest.mark.parametrize("route", [KLING, REPLICATE])
async def test_a_doubt_settled_at_the_end_is_taken_up_by_one_worker_only(on, route):
    world = on(route)
    world.rules = Rules(settle_s=1.5)
    world.emulator.faults["pan 1"] = [Fault.ERROR_BEFORE]

    summary = await world.run(3)

    resting = world.nights[-1].engine.tally.resting
    assert summary.published == 3
    assert set(world.bought.values()) == {1}
    assert summary.spent_usd == world.owed
    assert resting == {}
    [lane] = world.nights[-1].engine.lanes.all
    assert lane.pace._unanswered == 0


# --- stop while doubts are settled


@pytest.mark.parametrize("route", [KLING, REPLICATE])
async def test_a_stop_while_doubts_are_asked_about_takes_no_risk(on, route):
    world = on(route)
    world.rules = Rules(settle_s=5.0)
    world.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]
    lane = world.lane(route)
    risky = again(lane, risk_usd=Decimal(1))

    def stopped(night):
        asyncio.get_running_loop().call_later(3.0, night.engine.stop, "SIGTERM")

    first = await world.run(3, lanes=[risky], during=stopped)
    world.rules = Rules(settle_s=0.0)
    second = await world.run(3)

    risks = [e for e in await everything(world) if isinstance(e.event, Risked)]
    assert risks == []
    assert second.published == 3
    assert set(world.bought.values()) == {1}, first


# --- another account, or another provider, behind a lane's name


@pytest.mark.parametrize("route", [KLING, REPLICATE])
async def test_another_accounts_listing_proves_nothing(on, route):
    world = on(route)
    world.rules = Rules(settle_s=3600.0)
    world.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]

    def stopped(night):
        asyncio.get_running_loop().call_later(2.0, night.engine.stop, "killed")

    await world.run(3, during=stopped)
    world.rules = Rules(settle_s=0.0)
    key = f"another:{'account' * 6}"
    await world.run(3, lanes=[world.lane(route, key=key)])

    assert set(world.bought.values()) == {1}


async def test_another_provider_under_the_same_name_proves_nothing(on):
    world = on(WAVESPEED)
    world.rules = Rules(settle_s=3600.0)
    world.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]

    def stopped(night):
        asyncio.get_running_loop().call_later(2.0, night.engine.stop, "killed")

    rows = [{"prompt": f"pan {n}", "resolution": "720p"} for n in range(3)]
    main = again(world.lane(WAVESPEED), name="main")
    await world.run(rows, lanes=[main], during=stopped)
    world.rules = Rules(settle_s=0.0)
    await world.run(rows, lanes=[again(world.lane(KLING), name="main")])

    assert set(world.bought.values()) == {1}


# --- hedges


def hedging(world, emulator_latency_s, left_s):
    world.rules = Rules(hedge=True, settle_s=0.0)
    lanes = [world.lane(WAVESPEED), world.lane(ATLAS)]
    for lane in lanes:
        lane.looks.learn([1.0] * 10)
    return lanes, time.time() + left_s


async def test_a_hedge_under_way_is_not_given_up_when_the_first_submit_fails(
    worlds, clip
):
    emulator = Emulator(latency_s=3.0, clip=clip, faults={"pan": [Fault.FAIL]})
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[])
        lanes, ends = hedging(world, 3.0, 4.0)

        summary = await world.run([{"prompt": "pan"}], lanes=lanes, finish_at=ends)

    events = [(e.job[-6:], type(e.event).__name__) for e in await everything(world)]
    assert summary.published == 1
    assert world.bought == {"pan": 2}, events


async def crashed_after_hedge(world, clip, *, fails):
    """The hedge's clip is kept and on record; the machine died before the job's own."""
    if fails:
        world.emulator.faults["pan"] = [Fault.FAIL]
    world.rules = Rules(deadline_s=0.0)
    await world.run([{"prompt": "pan"}])
    [job] = {e.job for e in await everything(world)}
    objects = Objects.open((world.folder / "root").as_uri())
    ledger = await Ledger.open(objects, name="crashed")
    uri = await Clips(objects).publish(job, clip, {"job": job, "sha256": "a", **FACTS})
    for event in (
        Intended(lane="atlas", route=ATLAS, price_usd=Decimal("0.17"), seed=1),
        Accepted(Ticket("atlas", "remote")),
        Generated(),
        Published(uri, Facts(sha256="a", **FACTS)),
    ):
        await ledger.record(hedge_of(job), event)
    await ledger.close()
    world.rules = Rules(settle_s=0.0)
    return await world.run([{"prompt": "pan"}])


FACTS = {
    "bytes": 1,
    "seconds": 5.0,
    "fps": 16.0,
    "width": 64,
    "height": 48,
    "codec": "h264",
    "frames": 16,
}


async def test_a_hedges_clip_that_a_crash_left_does_not_end_the_batch(slow, clip):
    world = slow(WAVESPEED)

    summary = await crashed_after_hedge(world, clip, fails=False)

    assert summary.published == 1


async def test_a_hedges_clip_that_a_crash_left_is_not_bought_again(slow, clip):
    world = slow(WAVESPEED)

    summary = await crashed_after_hedge(world, clip, fails=True)

    assert summary.published == 1
    assert world.bought == {"pan": 1}


# --- money


async def test_a_bill_is_settled_once_though_a_crash_comes_right_after(on):
    world = on(RUNWAY)
    known = world.lane(RUNWAY)
    listed = {size: price * 2 for size, price in known.route.prices_usd.items()}
    dear = replace(known.route, prices_usd=listed)

    def lane():
        return again(known, route=dear)

    def killed(night):
        record = night.engine._ledger.record

        async def until(job, event):
            if isinstance(event, Generated):
                raise RuntimeError("killed")
            return await record(job, event)

        night.engine._ledger.record = until

    await world.run(1, lanes=[lane()], during=killed)
    await world.run(1, lanes=[lane()])

    clips = world.table("clips")
    assert clips["spent_usd"].sum() == world.owed


async def test_a_bill_for_a_doubt_is_not_given_back_twice(on):
    world = on(KLING)
    world.rules = Rules(settle_s=3600.0)
    world.emulator.faults["pan 0"] = [Fault.ERROR_BEFORE]

    def stopped(night):
        asyncio.get_running_loop().call_later(1.0, night.engine.stop, "killed")

    await world.run(1, during=stopped)
    [job] = {e.job for e in await everything(world)}
    root, lanes = (world.folder / "root").as_uri(), [world.lane(KLING)]
    with suppress(DecisionError):  # either it is refused, or it is counted once
        async with opened(root, lanes=lanes, rules=world.rules) as books:
            await books.decide(Decisions(charged={job: Decimal(0)}))
    world.rules = Rules(settle_s=0.0)
    await world.run(1)

    assert world.table("clips")["spent_usd"].sum() == world.owed


# --- lanes that make nothing


async def test_a_lane_whose_clips_are_all_broken_is_bought_from_no_more(worlds, clip):
    broken = bytearray(clip)
    start = broken.index(b"mdat") + 8
    broken[start : start + 4000] = bytes(4000)
    emulator = Emulator(
        latency_s=0.05, slots=1000, submits_per_minute=100000, clip=bytes(broken)
    )
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[WAVESPEED], slots=4)
        world.rules = Rules(attempts=1)

        summary = await world.run(60)

    assert summary.published == 0
    assert sum(world.bought.values()) < 40


# --- pacing


def test_a_turn_that_is_withdrawn_late_gives_its_slot_back():
    pace = Pace(Limits(slots=2, submits_per_minute=10))
    pace.begin(0.0)
    pace.wait(62.0)  # somebody else asks, and what is over a minute old is forgotten

    pace.withdrawn()
    pace.done()

    assert pace.in_flight == 0


def test_a_turn_that_is_withdrawn_late_hides_nobody_elses_submit():
    pace = Pace(Limits(slots=2, submits_per_minute=2))
    pace.begin(0.0)  # its still takes long, and then will not do
    pace.begin(50.0)
    pace.accepted(51.0)

    pace.withdrawn()
    pace.done()

    # The one submit that the provider saw was at 50.
    assert pace._sent[0] == 50.0


async def test_a_request_that_cannot_be_written_costs_no_budget_and_no_slot(on):
    world = on(REPLICATE)
    known = world.lane(REPLICATE)
    route = known.route
    listed = {**route.prices_usd, ("480p", 8): Decimal("0.08")}
    lane = again(known, route=replace(route, prices_usd=listed))
    provider = type(lane.line.provider)(lane.route, "key")
    lane = again(lane, line=replace(lane.line, provider=provider))

    summary = await world.run([{"prompt": "pan", "duration_s": 8}] * 1, lanes=[lane])

    assert world.bought == {}
    assert summary.spent_usd == 0
    assert lane.pace._unanswered == 0


async def test_two_clips_of_one_job_at_once_do_not_end_the_batch(worlds, clip):
    late = Emulator(latency_s=3.0, clip=clip)
    quick = Emulator(latency_s=0.5, clip=clip)
    with running(late) as url, running(quick) as other:
        world = worlds(emulator=late, url=url, routes=[])
        elsewhere = worlds(emulator=quick, url=other, routes=[])
        world.rules = Rules(hedge=True, settle_s=0.0)
        lanes = [world.lane(WAVESPEED), elsewhere.lane(ATLAS)]
        for lane in lanes:
            lane.looks.learn([0.5] * 10)

        def slowly(night):
            publish = night.engine._publisher.publish

            async def held(job, link, sidecar):
                if sidecar["lane"] == "atlas":  # its store is slow this once
                    await asyncio.sleep(4.0)
                return await publish(job, link, sidecar)

            night.engine._publisher.publish = held

        summary = await world.run(
            [{"prompt": "pan"}],
            lanes=lanes,
            during=slowly,
            finish_at=time.time() + 2.5,
        )

    assert summary.published == 1


async def test_reconcile_outlives_a_job_and_its_hedge_that_are_both_ready(worlds, clip):
    late, quick = Emulator(latency_s=6.0, clip=clip), Emulator(latency_s=2.0, clip=clip)
    with running(late) as url, running(quick) as other:
        world = worlds(emulator=late, url=url, routes=[])
        elsewhere = worlds(emulator=quick, url=other, routes=[])
        world.rules = Rules(hedge=True, settle_s=0.0)
        lanes = [world.lane(WAVESPEED), elsewhere.lane(ATLAS)]
        for lane in lanes:
            lane.looks.learn([0.5] * 10)

        def killed(night):
            asyncio.get_running_loop().call_later(2.0, night.engine.stop, "killed")

        await world.run(
            [{"prompt": "pan"}],
            lanes=lanes,
            during=killed,
            finish_at=time.time() + 2.0,
        )
        assert (len(late.bill), len(quick.bill)) == (1, 1)
        root = (world.folder / "root").as_uri()
        lanes = [world.lane(WAVESPEED), elsewhere.lane(ATLAS)]
        async with opened(root, lanes=lanes, rules=Rules(deadline_s=30.0)) as books:
            await books.fetch()

    assert books.told.fetched >= 1


async def test_a_doubt_whose_provider_could_not_be_reached_is_not_risked(on):
    world = on(KLING)
    world.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]
    risky = again(world.lane(KLING), risk_usd=Decimal(1))
    provider = risky.line.provider
    asked = {"times": 0}

    class Away(type(provider)):
        """Kling, whose listing is away for the first two questions."""

        def find(self, doubt):
            asked["times"] += 1
            if asked["times"] <= 2:
                from tasks.verdicts import NotSentError

                raise NotSentError("kling: connection refused")
            return (yield from super().find(doubt))

    away = Away(provider.route, provider.key)
    risky = again(risky, line=replace(risky.line, provider=away), risk_usd=Decimal(1))

    await world.run(3, lanes=[risky])

    assert set(world.bought.values()) == {1}


async def test_a_doubt_that_fails_after_its_shard_is_over_is_no_rejected_row(
    worlds, clip
):
    emulator = Emulator(latency_s=2.0, slots=1000, clip=clip)
    emulator.faults["pan 0"] = [Fault.LOSE_ANSWER]
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[KLING], slots=2)
        world.rules = Rules(settle_s=5.0)
        stills = [
            (world.folder / world.still(f"{n}.jpg")).read_bytes() for n in range(6)
        ]
        path = world.folder / "e.parquet"
        rows = {
            "image_bytes": stills,
            "prompt": [f"pan {n}" for n in range(6)],
            **{k: [v] * 6 for k, v in world.fits().items()},
        }
        pl.DataFrame(rows).write_parquet(path)

        def fail():
            for _, made in emulator._world.everything():
                if made.wanted.prompt == "pan 0":
                    made.fault = Fault.FAIL

        def soon(night):
            asyncio.get_running_loop().call_later(0.8, fail)

        summary = await world.run(path.as_uri(), shard_rows=3, during=soon)

    assert (summary.published, summary.rejected) == (6, 0)


def test_lanes_of_one_account_are_not_counted_on_twice():
    from manifests.catalogue import load
    from manifests.jobs import Job, Order
    from tasks.exchange import Line
    from tasks.providers import PROVIDERS
    from tasks.routing import kind_of

    spicy, plain = map(load().route, (WAVESPEED, "wavespeed/wan-2.2"))
    limits = Limits(slots=1, submits_per_minute=600)
    a = Lane(
        name="a",
        route=spicy,
        line=Line(PROVIDERS["wavespeed"](spicy, "k")),
        limits=limits,
    )
    b = Lane(
        name="b",
        route=plain,
        line=Line(PROVIDERS["wavespeed"](plain, "k")),
        limits=limits,
        shared=a.pace,
    )
    for lane in (a, b):
        lane.looks.learn([60.0] * 10)
    roster = Roster(
        [a, b], policy="cheapest", now=lambda: 0.0, today=lambda: 0.0, ends_at=6100.0
    )
    orders = [
        Order(job=Job(image="i", prompt="p", model=route.model), still="")
        for route in (spicy, plain)
    ]
    roster.expect({kind_of(order): 90 for order in orders})

    # One slot makes some 96 clips of a minute each by then.
    assert roster.reckon() >= 80


async def test_a_day_is_used_up_though_one_submit_of_it_was_refused(on):
    world = on(WAVESPEED)
    world.slots = 10
    world.emulator.faults["pan"] = [Fault.THROTTLE]
    lane = world.lane(WAVESPEED, submits_per_day=5)

    summary = await world.run(10, lanes=[lane])

    assert summary.published == 5
