"""Lanes: the order in which slots are reserved, and the closing of a lane."""

import asyncio
import math
from dataclasses import replace
from decimal import Decimal
from itertools import count

import pytest

from manifests.catalogue import load
from manifests.jobs import Job, Order
from tasks.dispatch import (
    Lane,
    Lanes,
    LearnedLimits,
    Limits,
    NoLaneLeftError,
    RateLimiter,
    SlotRequest,
)
from tasks.dispatch.lane import ENOUGH, FIRST_FAILED, IN_A_ROW
from tasks.providers import PROVIDERS
from tasks.providers.http import Endpoint

pytestmark = pytest.mark.anyio

ROUTE = load().route("wavespeed/wan-2.2-spicy")
ORDER = Order(job=Job(image="i", prompt="p"), still="i")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def lane(name="a", *, shared=None, route=ROUTE, **limits):
    all_limits = {"slots": 1, "submits_per_minute": 600, **limits}
    return Lane(
        name=name,
        route=route,
        endpoint=Endpoint(PROVIDERS["wavespeed"](route, "key")),
        limits=Limits(**all_limits),
        shared=shared,
    )


def want(*some):
    return SlotRequest(ORDER, some)


def lanes(*some, today=None):
    return Lanes(some, Clock(), today or Clock())


async def taken(dealt, *some):
    """The lanes of the turns that are dealt at once, in the order of asking."""
    turns = [asyncio.ensure_future(dealt.reserve_slot(want(*some))) for _ in range(4)]
    await asyncio.sleep(0)
    got = [turn.result().name for turn in turns if turn.done()]
    for turn in turns:
        turn.cancel()
    await asyncio.gather(*turns, return_exceptions=True)
    return got


async def test_lanes_of_one_account_share_its_slots():
    spicy = lane("spicy", slots=2)
    plain = lane("plain", shared=spicy.limiter)

    got = await taken(lanes(spicy, plain), plain, spicy)

    assert got == ["plain", "plain"]
    assert spicy.limiter.in_flight == plain.limiter.in_flight


async def test_lanes_of_two_accounts_do_not():
    assert await taken(lanes(a := lane("a"), b := lane("b")), a, b) == ["a", "b"]


async def test_jobs_preferences_are_read_anew_at_each_free_slot():
    """A job's preferred lanes are read again each time a slot becomes free."""
    a, b = lane("a"), lane("b")
    dealt, wants = lanes(a, b), [a]
    await dealt.reserve_slot(want(a))
    waiting = asyncio.ensure_future(dealt.reserve_slot(SlotRequest(ORDER, wants)))
    await asyncio.sleep(0)
    assert not waiting.done()

    wants.append(b)
    behind = asyncio.ensure_future(dealt.reserve_slot(want(a)))

    assert (await waiting).name == "b"
    behind.cancel()


async def test_an_off_peak_lane_takes_nothing_out_of_its_hours():
    route = replace(ROUTE, kind="off_peak", hours_utc=(60, 120))
    today = Clock()
    night = lane("night", route=route)

    assert await taken(lanes(night, today=today), night) == []
    today.now = 3600.0
    assert await taken(lanes(night, today=today), night) == ["night"]


async def test_waiting_jobs_learn_why_all_lanes_are_closed():
    a = lane("a")
    dealt = lanes(a)
    await dealt.reserve_slot(want(a))
    waiting = asyncio.ensure_future(dealt.reserve_slot(want(a)))
    await asyncio.sleep(0)

    dealt.close(a, "top up the account")

    with pytest.raises(NoLaneLeftError, match="a: top up the account"):
        await waiting


async def test_long_queue_is_not_scanned_at_every_deal():
    """A deal does not scan the whole queue, even when a lane is closed."""
    a, b = lane("a"), lane("b")
    asked = count()

    def rank(request):
        next(asked)
        return request.lanes

    dealt = Lanes([a, b], Clock(), Clock(), rank=rank)
    await dealt.reserve_slot(want(a))
    dealt.close(b, "no credit")

    queue = [asyncio.ensure_future(dealt.reserve_slot(want(a, b))) for _ in range(2000)]
    await asyncio.sleep(0)
    for _ in range(20):
        a.limiter.accepted(0.0)
        dealt.release_slot(a)
    await asyncio.sleep(0)

    assert sum(turn.done() for turn in queue) == 20
    assert next(asked) < 3 * 2000
    dealt.stop()
    await asyncio.gather(*queue, return_exceptions=True)


async def test_last_in_a_long_queue_hears_at_once_of_no_lane_left():
    """A job at the end of a long queue learns at once that it has no lane left."""
    a, b = lane("a"), lane("b")
    dealt = lanes(a, b)
    await dealt.reserve_slot(want(a))
    await dealt.reserve_slot(want(b))
    queue = [asyncio.ensure_future(dealt.reserve_slot(want(a, b))) for _ in range(2000)]
    last = asyncio.ensure_future(dealt.reserve_slot(want(b)))
    await asyncio.sleep(0)

    dealt.close(b, "no credit")

    for told in (last, dealt.reserve_slot(want(b))):
        with pytest.raises(NoLaneLeftError, match="b: no credit"):
            await told
    assert not any(turn.done() for turn in queue)
    dealt.stop()
    await asyncio.gather(*queue, return_exceptions=True)


def test_a_few_failures_are_no_rate():
    one = lane()
    for n in range(ENOUGH - 1):
        one.count(f"{n}", failed=n % 2 == 0)

    assert one.why_failing(0.3) is None


def test_a_lane_whose_failures_pass_the_rate_is_failing():
    one = lane()
    for n in range(100):
        one.count(f"{n}", failed=n % 10 < 3)
    assert one.why_failing(0.3) is None

    one.count("100", failed=True)

    assert one.why_failing(0.3) == "31 of 101 jobs failed: over 30%"


def test_jobs_that_fail_in_a_row_close_a_lane_early():
    """Different jobs in a row count, not the attempts of one job; a good one begins anew."""
    one = lane()
    for n in range(100):
        one.count(f"{n}", failed=False)
    for n in range(IN_A_ROW - 1):
        one.count(f"{n}", failed=True)
        one.count(f"{n}", failed=True)
    assert one.why_failing(0.9) is None

    one.count("new", failed=True)

    assert one.why_failing(0.9) == "10 different jobs in a row failed"
    assert one.why_failing(1.0) is None
    one.count("good", failed=False)
    assert one.why_failing(0.9) is None


def test_own_gpu_whose_first_jobs_all_fail_closes_at_once():
    """Three failures close a GPU that has finished nothing, and no paid lane."""
    own, sold = lane(), lane()
    own.paid = False
    for n in range(FIRST_FAILED):
        own.count(f"{n}", failed=True)
        sold.count(f"{n}", failed=True)

    assert own.why_failing(0.3) == "its first 3 jobs all failed"
    assert sold.why_failing(0.3) is None


def test_learned_slots_of_an_account_start_the_next_night():
    """The next night starts with the slots that this night found for an account."""
    limits = Limits(slots=40, submits_per_minute=600)
    limiter, again = RateLimiter(limits), RateLimiter(limits)
    limiter.reserve_slot(0.0)
    for _ in range(19):
        limiter.reserve_slot(0.0)
    for _ in range(19):
        limiter.accepted(0.0)
    limiter.throttled(0.0, None)
    learned = limiter.learned()
    assert learned is not None
    assert learned.slots < 20

    again.restore(learned, now=0.0)

    assert again.slots == limiter.slots


def test_lane_without_refusals_learns_no_limit():
    limiter = RateLimiter(Limits(slots=4, submits_per_minute=60))
    limiter.reserve_slot(0.0)
    limiter.accepted(0.0)

    assert limiter.learned() is None


def test_less_is_remembered_than_is_configured_never_more():
    limiter = RateLimiter(Limits(slots=4, submits_per_minute=60))

    limiter.restore(LearnedLimits(100.0, 1e6), now=0.0)

    assert limiter.slots == 4
    assert limiter.wait_s(0.0) == 0.0
    assert limiter.learned() is None


@pytest.mark.parametrize(("over", "slots"), [("slots", 9), ("rate", 20), (None, 9)])
def test_refusal_that_names_a_limit_changes_only_that_limit(over, slots):
    """A refusal that names the limit it hit changes only that limit."""
    limiter = RateLimiter(Limits(slots=20, submits_per_minute=600))
    for _ in range(10):
        limiter.reserve_slot(0.0)
    for _ in range(9):
        limiter.accepted(0.0)

    limiter.throttled(0.0, None, over)

    assert limiter.slots == slots


def test_the_money_of_a_lanes_risk_is_its_own():
    one = lane()

    assert one.risk.affords(Decimal(0))
    assert not one.risk.affords(Decimal("0.01"))
    assert math.isclose(one.typical_s(), 60.0)
