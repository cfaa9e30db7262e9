"""Paying twice to be in time: only with leave, once a job, and on the bill."""

import time

import pytest

from manifests.lifecycle import HEDGE, State
from storage.ledger import histories
from storage.objects import Objects
from tasks.emulator import Emulator, Fault, running
from tasks.engine import Rules

pytestmark = pytest.mark.anyio

SLOW, QUICK = "wavespeed/wan-2.2-spicy", "atlas/wan-2.2-spicy"
RULES = Rules(settle_s=0.0, deadline_s=4.0, hedge=True)


@pytest.fixture
def hurried(worlds, clip):
    """Two suppliers, of which the cheaper one is asked first."""

    def world(url, emulator, rules=RULES):
        made = worlds(emulator=emulator, url=url, routes=[SLOW, QUICK], rules=rules)
        return made

    return world


def lanes(world):
    both = [world.lane(route) for route in world.routes]
    for lane in both:
        lane.looks.learn([0.2] * 10)
    return both


async def run(world, **wanted):
    asked = {"policy": "cheapest", "finish_at": time.time() + 1.0, **wanted}
    return await world.run(1, lanes=lanes(world), **asked)


async def lives(world):
    known = await histories(Objects.open((world.folder / "root").as_uri()))
    return {HEDGE in key: past for key, past in known.items()}


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

        summary = await run(world, finish_at=time.time() + 0.9)

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
