"""One night passes on to the next: limits, latencies and the use of daily caps."""

import asyncio
import shutil
import time
from decimal import Decimal

import pytest

from manifests.lifecycle import Intended
from storage.ledger import read
from storage.objects import Objects
from tasks.dispatch import Lane
from tasks.emulator import Emulator, Fault, running
from tasks.engine.engine import Rules
from tests.tasks.conftest import BILLED

pytestmark = pytest.mark.anyio

ATLAS = "atlas/wan-2.2-spicy"


def capped(world, **caps):
    lane = world.lane(world.routes[0])
    return Lane(
        name=lane.name,
        route=lane.route,
        endpoint=lane.endpoint,
        limits=lane.limits,
        **caps,
    )


def refused(world):
    [account] = world.emulator.stats()["accounts"]
    return account["throttled"]


@pytest.mark.slow
async def test_twice_the_true_slots_cause_few_refusals_and_no_loss(worlds, clip):
    """With twice the true slots configured, few calls are refused and no row fails."""
    emulator = Emulator(latency_s=0.15, slots=8, submits_per_minute=10**6, clip=clip)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS], slots=16)

        first = await world.run(world.manifest(160, "monday"))
        in_first = refused(world)
        rows = [{"prompt": f"tilt {n}"} for n in range(160)]
        second = await world.run(world.manifest(rows, "tuesday"))

    assert (first.published, second.published) == (160, 160)
    assert set(world.bought.values()) == {1}
    # It has eight slots; the lane sometimes tries one or two more.
    assert world.batch_runs[1].engine.lanes.all[0].limiter.slots <= 10
    assert in_first < 0.1 * 160
    assert refused(world) - in_first < 0.05 * 160


async def test_a_lanes_cap_of_submits_is_kept_over_runs(world):
    lane = world.lane(world.routes[0], submits_per_day=3)

    first = await world.run(2, lanes=[lane])
    again = world.lane(world.routes[0], submits_per_day=3)
    second = await world.run(world.manifest(5, "more"), lanes=[again])

    assert (first.published, first.exit_code) == (2, 0)
    assert (second.published, second.pending, second.exit_code) == (3, 2, 3)
    assert "3 submits in 24 hours" in second.lanes_closed[again.name]
    assert len(world.emulator.bill) == 3


@pytest.mark.parametrize("route", BILLED, indirect=True)
async def test_a_lanes_cap_of_money_is_never_passed_by_a_cent(world):
    cap = Decimal("2.5") * next(
        iter(world.lane(world.routes[0]).route.prices_usd.values())
    )

    summary = await world.run(6, lanes=[capped(world, usd_per_day=cap)])

    assert (summary.published, summary.pending) == (2, 4)
    assert world.owed <= cap


async def test_free_refusal_uses_nothing_of_the_daily_cap(world):
    world.emulator.faults["pan"] = [Fault.THROTTLE_WITH_RETRY_AFTER]
    lane = world.lane(world.routes[0], submits_per_day=3)

    summary = await world.run(3, lanes=[lane])

    assert (summary.published, summary.exit_code) == (3, 0)


async def test_daily_cap_is_used_in_full_despite_a_refused_submit(worlds, emulator):
    emulator.faults["pan"] = [Fault.THROTTLE]
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS], slots=10)
        lane = world.lane(ATLAS, submits_per_day=5)

        summary = await world.run(10, lanes=[lane])

    assert summary.published == 5


async def test_a_lane_on_which_most_comes_to_nothing_buys_no_more(world):
    world.rules = Rules(attempts=1, settle_s=0.0)
    world.emulator.faults["pan"] = [Fault.FAIL] * 100

    summary = await world.run(60)

    assert summary.short_of == "lanes"
    [why] = summary.lanes_closed.values()
    own = not world.batch_runs[0].engine.lanes.all[0].paid
    words = (
        "its first 3 jobs all failed" if own else "10 different jobs in a row failed"
    )
    assert f"{words}; the last: " in why
    assert len(world.emulator.bill) <= 20


async def test_a_lane_whose_clips_are_all_broken_buys_no_more(worlds, clip):
    broken = bytearray(clip)
    start = broken.index(b"mdat") + 8
    broken[start : start + 4000] = bytes(4000)
    emulator = Emulator(latency_s=0.1, slots=1000, clip=bytes(broken))
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS])
        world.rules = Rules(attempts=1, max_failure_rate=0.1)
        lane = world.lane(ATLAS)
        lane.polls.learn([0.1] * 10)

        summary = await world.run(60, lanes=[lane])

    assert (summary.published, summary.short_of) == (0, "lanes")
    assert len(emulator.bill) < 50


async def test_lane_with_an_exhausted_day_rests_and_reports_it(world):
    world.emulator.faults["pan 2"] = [Fault.DAILY_CAP] * 2

    summary = await world.run(6)

    assert set(world.bought.values()) == {1}
    if summary.lanes_closed:
        assert "takes no more for now" in next(iter(summary.lanes_closed.values()))
        assert summary.exit_code == 3
    else:
        # If it looks like any other 429, the lane waits.
        assert summary.published == 6


@pytest.mark.parametrize("ends", ["clean", "killed"])
async def test_minute_of_an_earlier_run_still_counts(worlds, clip, ends):
    """A run that starts within a minute of another one sends only what that one left."""
    emulator = Emulator(latency_s=0.05, slots=100, submits_per_minute=10**6, clip=clip)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS], slots=10)
        root, copy = world.folder / "root", world.folder / "copy"

        def kill(batch_run):
            def copied(*_):
                if not copy.exists():
                    shutil.copytree(root, copy)

            batch_run.engine.on_published(copied)

        def wait(batch_run):
            loop = asyncio.get_running_loop()
            loop.call_later(2.0, batch_run.engine.stop, "stopped by a test")

        first = [world.lane(ATLAS, submits_per_minute=10)]
        await world.run(8, lanes=first, during=kill)
        if ends == "killed":
            shutil.rmtree(root)
            shutil.copytree(copy, root)
        sent = len(emulator.bill)
        entries = await read(Objects.open(root.as_uri()))
        recorded = sum(isinstance(entry.event, Intended) for entry in entries)
        again = world.lane(ATLAS, submits_per_minute=10)
        rows = [{"prompt": f"tilt {n}"} for n in range(20)]
        await world.run(
            world.manifest(rows, "more"), lanes=[again], during=wait, take_over=True
        )

    assert 0 < recorded <= sent == 8
    assert again.limiter.sent(time.monotonic()) == 10
    assert len(emulator.bill) == sent + 10 - recorded
