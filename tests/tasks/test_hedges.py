"""Paying twice to be in time: only with leave, once a job, and on the bill."""

import asyncio
import time
from decimal import Decimal

import pytest

from manifests.lifecycle import (
    HEDGE,
    Accepted,
    Facts,
    Generated,
    Intended,
    Published,
    State,
    Ticket,
    hedge_of,
)
from storage.ledger.ledger import Ledger, histories
from storage.media.clips import Clips
from storage.objects.client import Objects
from tasks.emulator import Emulator, Fault, running
from tasks.engine.engine import Rules
from tasks.reconcile import opened

pytestmark = pytest.mark.anyio

SLOW, QUICK = "wavespeed/wan-2.2-spicy", "atlas/wan-2.2-spicy"
RULES = Rules(settle_s=0.0, deadline_s=4.0, hedge=True)


@pytest.fixture
def hurried(worlds, clip):
    """Two suppliers, of which the cheaper one is asked first."""

    def world(url, emulator, rules=RULES):
        return worlds(emulator=emulator, url=url, routes=[SLOW, QUICK], rules=rules)

    return world


def lanes(world):
    both = [world.lane(route) for route in world.routes]
    for lane in both:
        lane.looks.learn([0.2] * 10)
    return both


def within(seconds, and_then=lambda night: None):
    """A deadline so long after the night has begun: busy machines begin late."""

    def during(night):
        night.engine.roster.ends_at = time.monotonic() + seconds
        and_then(night)

    return {"finish_at": time.time() + 3600.0, "during": during}


async def run(world, seconds=1.0, **wanted):
    asked = {"policy": "cheapest", **within(seconds), **wanted}
    return await world.run(1, lanes=lanes(world), **asked)


def root(world):
    return Objects.open((world.folder / "root").as_uri())


async def lives(world):
    known = await histories(root(world))
    return {HEDGE in key: past for key, past in known.items()}


def two(worlds, at, elsewhere):
    """A world whose second supplier is another emulator, and its lanes."""
    (slow, url), (quick, other) = at, elsewhere
    world = worlds(emulator=slow, url=url, routes=[SLOW, QUICK], rules=RULES)
    there = worlds(emulator=quick, url=other, routes=[])

    def both():
        lanes = [world.lane(SLOW), there.lane(QUICK)]
        for lane in lanes:
            lane.looks.learn([0.2] * 10)
        return lanes

    return world, both


async def test_a_straggler_near_the_deadline_is_bought_elsewhere_and_the_bill_shows_it(
    hurried, clip
):
    emulator = Emulator(latency_s=0.1, clip=clip, faults={"pan": [Fault.STUCK]})
    with running(emulator) as url:
        world = hurried(url, emulator)

        summary = await run(world)

    assert (summary.published, summary.pending) == (1, 0)
    assert [line.dialect for line in emulator.bill] == ["wavespeed", "atlas"]
    assert summary.spent_usd == emulator.total_usd
    attempts = world.table("attempts").sort("hedge")
    assert attempts["outcome"].to_list() == ["overtaken", "published"]
    assert attempts["charged_usd"].sum() == emulator.total_usd
    clips = world.table("clips")
    assert clips["lane"].to_list() == ["atlas"]
    assert clips["spent_usd"].sum() == emulator.total_usd


async def test_without_leave_no_straggler_is_ever_paid_twice(hurried, clip):
    emulator = Emulator(latency_s=0.1, clip=clip, faults={"pan": [Fault.STUCK]})
    with running(emulator) as url:
        world = hurried(url, emulator, Rules(deadline_s=2.0))

        summary = await run(world)

    assert (summary.published, summary.pending) == (0, 1)
    assert len(emulator.bill) == 1


async def test_a_hedge_that_is_too_late_is_given_up_and_its_money_is_counted(
    hurried, clip
):
    emulator = Emulator(
        latency_s=1.2, clip=clip, faults={"pan": [Fault.STUCK], "x": []}
    )
    emulator.faults["pan"] = []
    with running(emulator) as url:
        world = hurried(url, emulator)
        world.rules = RULES

        summary = await run(world, 0.9)

    assert summary.published == 1
    assert [line.dialect for line in emulator.bill] == ["wavespeed", "atlas"]
    assert summary.spent_usd == emulator.total_usd
    both = await lives(world)
    assert both[False].state is State.PUBLISHED
    assert both[True].state is State.PENDING
    assert both[True].reason == "given up: the first submit was faster"


async def test_a_job_that_fails_is_made_by_its_hedge_and_not_bought_a_third_time(
    hurried, clip
):
    emulator = Emulator(latency_s=0.1, clip=clip, faults={"pan": [Fault.STUCK]})
    with running(emulator) as url:
        world = hurried(url, emulator)
        world.rules = Rules(settle_s=0.0, deadline_s=0.8, hedge=True)
        emulator.faults["pan"] = [Fault.STUCK, Fault.STUCK]
        first = await run(world)
        assert (first.published, len(emulator.bill)) == (0, 2)

        again = await world.run(1, lanes=lanes(world))

    assert len(emulator.bill) == 2
    assert (again.published, again.bought) == (0, 0)


async def test_after_a_crash_both_are_looked_at_and_neither_is_bought_again(
    hurried, clip
):
    emulator = Emulator(latency_s=1.5, clip=clip, faults={"pan": [Fault.STUCK]})
    with running(emulator) as url:
        world = hurried(url, emulator)
        world.rules = Rules(settle_s=0.0, deadline_s=1.1, hedge=True)
        first = await run(world)
        assert (first.published, len(emulator.bill)) == (0, 2)
        world.rules = Rules(settle_s=0.0, deadline_s=10.0)

        again = await world.run(1, lanes=lanes(world))

    assert (again.published, again.bought) == (1, 0)
    assert len(emulator.bill) == 2


async def test_a_hedge_under_way_is_not_given_up_when_the_first_submit_fails(
    hurried, clip
):
    emulator = Emulator(latency_s=0.9, clip=clip, faults={"pan": [Fault.FAIL]})
    with running(emulator) as url:
        world = hurried(url, emulator)

        summary = await run(world)

    assert summary.published == 1
    assert [line.outcome for line in emulator.bill] == ["failed", "succeeded"]
    assert summary.spent_usd == emulator.total_usd


async def hedged_and_crashed(world, clip):
    """The hedge's clip is kept and on record; the machine died before the job's own was."""
    objects = root(world)
    [job] = await histories(objects)
    facts = {"bytes": 1, "seconds": 5.0, "fps": 16.0, "width": 64, "height": 48}
    facts |= {"codec": "h264", "frames": 16, "sha256": "a"}
    uri = await Clips(objects).publish(job, clip, {"job": job, **facts})
    ledger = await Ledger.open(objects, name="crashed")
    for event in (
        Intended(lane="atlas", route=QUICK, price_usd=Decimal("0.17"), seed=1),
        Accepted(Ticket("atlas", "remote")),
        Generated(),
        Published(uri, Facts(**facts)),
    ):
        await ledger.record(hedge_of(job), event)
    await ledger.close()


@pytest.mark.parametrize(
    ("faults", "rules"),
    [([], Rules(deadline_s=0.0)), ([Fault.FAIL], Rules(attempts=1))],
    ids=["under-way", "failed"],
)
async def test_a_hedges_clip_that_a_crash_left_is_the_jobs_and_it_is_not_bought_again(
    hurried, clip, faults, rules
):
    emulator = Emulator(latency_s=1.0, clip=clip, faults={"pan": faults})
    with running(emulator) as url:
        world = hurried(url, emulator, rules)
        await world.run(1, lanes=[world.lane(SLOW)])
        await hedged_and_crashed(world, clip)
        world.rules = RULES

        summary = await world.run(1, lanes=[world.lane(SLOW)])

    assert (summary.published, summary.bought) == (1, 0)
    assert len(emulator.bill) == 1


def late_to_deliver(emulator, seconds):
    """The same provider, whose clips take so long to come."""

    async def app(scope, receive, send):
        if scope.get("path", "").endswith(".mp4"):
            await asyncio.sleep(seconds)
        await emulator(scope, receive, send)

    return app


async def test_two_clips_of_one_job_at_once_are_one_and_end_nothing(worlds, clip):
    slow, quick = Emulator(latency_s=1.2, clip=clip), Emulator(latency_s=0.1, clip=clip)
    with running(slow) as url, running(late_to_deliver(quick, 0.9)) as other:
        world, both = two(worlds, (slow, url), (quick, other))

        summary = await world.run(1, lanes=both(), **within(1.0))

    assert (len(slow.bill), len(quick.bill)) == (1, 1)
    assert (summary.published, summary.bought) == (1, 2)
    assert summary.spent_usd == slow.total_usd + quick.total_usd


async def test_reconcile_fetches_one_clip_of_a_job_and_its_hedge_that_are_both_ready(
    worlds, clip
):
    slow, quick = Emulator(latency_s=1.6, clip=clip), Emulator(latency_s=0.8, clip=clip)
    with running(slow) as url, running(quick) as other:
        world, both = two(worlds, (slow, url), (quick, other))

        async def kill(night):
            while not quick.bill:  # noqa: ASYNC110 - a bill tells nobody
                await asyncio.sleep(0.01)
            night.engine.stop("killed")

        def killed(night):
            killing.append(asyncio.create_task(kill(night)))

        killing = []

        await world.run(1, lanes=both(), **within(1.0, killed))
        assert (len(slow.bill), len(quick.bill)) == (1, 1)
        at = (world.folder / "root").as_uri()
        async with opened(at, lanes=both(), rules=RULES) as books:
            await books.fetch()
        again = await world.run(1, lanes=both())

    assert books.told.fetched >= 1
    assert (again.published, again.bought) == (1, 0)


async def test_while_its_hedge_is_in_doubt_a_job_that_failed_is_not_bought_a_third_time(
    hurried, clip
):
    emulator = Emulator(
        latency_s=1.2, clip=clip, faults={"pan": [Fault.FAIL, Fault.LOSE_ANSWER]}
    )
    with running(emulator) as url:
        world = hurried(url, emulator)
        first = await run(world, 0.9)

        again = await world.run(1, lanes=lanes(world))

    assert [line.dialect for line in emulator.bill] == ["wavespeed", "atlas"]
    assert (first.pending, again.pending, again.bought) == (1, 1, 0)
    assert first.exit_code == again.exit_code == 1
