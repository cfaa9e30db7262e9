"""Laws of the forecast: what a batch would cost and take, by policy."""

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.catalogue import Route
from manifests.jobs import Job, Order
from tasks.dispatch import RATE_WINDOW_S, Lane, Limits, capacity
from tasks.forecast import typical
from tasks.forecast.forecast import forecast
from tasks.providers import PROVIDERS
from tasks.providers.http import Endpoint

DAY = 24 * 3600.0
SMALL, LARGE = ("480p", 5), ("720p", 5)


def lane(name, usd, *, like=None, usd_per_day=None, hours_utc=None, **limits):
    """A lane of ten slots and 60 s a clip; `usd` is the 480p price or a price table."""
    prices = usd if isinstance(usd, dict) else {SMALL: usd}
    route = Route(
        name=f"wavespeed/{name}",
        endpoints={"480p": "e", "720p": "e"},
        prices_usd={what: Decimal(price) for what, price in prices.items()},
        fps=16,
        typical_s=60,
        hours_utc=hours_utc,
    )
    return Lane(
        name=name,
        route=route,
        endpoint=Endpoint(PROVIDERS["wavespeed"](route, "key")),
        limits=Limits(**{"slots": 10, "submits_per_minute": 1000, **limits}),
        usd_per_day=usd_per_day,
        shared=like and like.limiter,
    )


def orders(count, *, resolution="480p", **fields):
    job = Job(image="https://h.example/a.jpg", prompt="pan", resolution=resolution)
    return [Order(job=job, still="", **fields)] * count


def jobs(told):
    return {share.lane: share.jobs for share in told.shares}


def test_balanced_takes_the_cheapest_lane_that_is_free():
    told = forecast(orders(50), [lane("dear", "0.30"), lane("cheap", "0.10")])

    assert jobs(told) == {"cheap": 30, "dear": 20}
    assert (told.seconds, told.cost_usd) == (180, Decimal("9.00"))


def test_fastest_takes_the_earliest_lane_whatever_it_costs():
    """Policy `fastest` takes the lane that finishes first, at any price."""
    lanes = [lane("slow", "0.10"), lane("quick", "0.90")]

    told = forecast(
        orders(60), lanes, policy="fastest", typical_s={"slow": 250, "quick": 50}
    )

    assert jobs(told) == {"slow": 10, "quick": 50}
    assert told.seconds == 250


def test_cheapest_waits_for_the_cheapest_lane_if_not_pressed():
    """Policy `cheapest` waits for the cheapest lane if no deadline presses."""
    lanes = [lane("dear", "0.30"), lane("cheap", "0.10")]

    told = forecast(orders(1000), lanes, policy="cheapest")

    assert jobs(told) == {"cheap": 1000, "dear": 0}
    assert (told.seconds, told.late) == (6000, 0)


def test_cheapest_by_a_deadline_pays_extra_only_where_it_must():
    """With a deadline, policy `cheapest` pays extra only for the jobs that need it."""
    lanes = [lane("dear", "0.30"), lane("cheap", "0.10")]

    told = forecast(orders(1000), lanes, policy="cheapest", within_s=3600)

    assert jobs(told) == {"cheap": 600, "dear": 400}
    assert (told.seconds, told.late) == (3600, 0)


def test_cheapest_leaves_a_cheap_lane_to_those_it_saves_most():
    """Policy `cheapest` leaves a cheap lane to the jobs that it saves most."""
    lanes = [
        lane("one", {SMALL: "0.10", LARGE: "0.20"}),
        lane("two", {SMALL: "0.11", LARGE: "0.90"}),
    ]
    batch = [*orders(100), *orders(100, resolution="720p")]

    sparing = forecast(batch, lanes, policy="cheapest", within_s=600)
    balanced = forecast(batch, lanes, policy="balanced", within_s=600)

    assert sparing.cost_usd == Decimal("31.00")
    assert balanced.cost_usd > 2 * sparing.cost_usd
    assert sparing.late == balanced.late == 0


@pytest.mark.parametrize("policy", ["cheapest", "fastest", "balanced"])
def test_late_work_is_done_as_soon_as_possible_and_called_late(policy):
    """Work too big for the deadline ends as soon as possible and is marked late."""
    lanes = [lane("dear", "0.30"), lane("cheap", "0.10")]

    told = forecast(orders(1000), lanes, policy=policy, within_s=600)

    assert (told.late, told.jobs, told.seconds) == (800, 1000, 3000)


def test_a_deadline_that_is_past_makes_everything_late():
    told = forecast(orders(7), [lane("one", "1")], policy="cheapest", within_s=-5)

    assert (told.late, told.jobs) == (7, 7)


@pytest.mark.parametrize("policy", ["cheapest", "fastest", "balanced"])
def test_a_row_that_will_not_pay_the_price_is_not_served(policy):
    lanes = [lane("cheap", "0.10"), lane("dear", "0.30")]
    batch = [
        order
        for most in ("0.09", "0.10", "0.29", "0.30", "5")
        for order in orders(1, max_usd=Decimal(most))
    ]

    told = forecast(batch, lanes, policy=policy)

    assert (told.unserved, told.jobs) == (1, 4)
    assert [(alone.jobs, alone.unable) for alone in told.alone] == [(4, 1), (2, 3)]


def test_each_lane_alone_is_shown_with_the_jobs_it_cannot_make():
    lanes = [lane("small", "0.10"), lane("both", {SMALL: "0.2", LARGE: "0.4"})]
    batch = [*orders(100), *orders(20, resolution="720p")]

    small, both = forecast(batch, lanes).alone

    assert (small.lane, small.jobs, small.unable) == ("small", 100, 20)
    assert (small.cost_usd, small.seconds) == (Decimal("10.0"), 600)
    assert (both.lane, both.jobs, both.unable) == ("both", 120, 0)
    assert (both.cost_usd, both.seconds) == (Decimal("28.0"), 720)


def test_submits_per_minute_and_per_day_are_waited_for():
    often = forecast(orders(21), [lane("one", "1", submits_per_minute=10)])
    daily = forecast(orders(21), [lane("one", "1", submits_per_day=10)])

    assert often.seconds == 2 * RATE_WINDOW_S + 60
    assert daily.seconds == 2 * DAY + 60


def test_an_owners_cap_of_a_days_money_is_kept():
    capped = lane("capped", "0.10", usd_per_day=Decimal(1))

    alone = forecast(orders(21), [capped])
    pressed = forecast(
        orders(30), [capped, lane("dear", "9")], policy="cheapest", within_s=3600
    )

    assert alone.seconds == 2 * DAY + 60
    assert jobs(pressed) == {"capped": 10, "dear": 20}


def test_lanes_of_one_account_do_not_have_its_slots_twice():
    first = lane("first", "0.10")
    second = lane("second", {LARGE: "0.20"}, like=first)
    batch = [*orders(100), *orders(100, resolution="720p")]

    told = {
        policy: forecast(batch, [first, second], policy=policy, within_s=600)
        for policy in ("cheapest", "fastest", "balanced")
    }

    assert {policy: each.seconds for policy, each in told.items()} == dict.fromkeys(
        told, 1200
    )
    assert {each.late for each in told.values()} == {100}
    assert [alone.seconds for alone in told["balanced"].alone] == [600, 600]


def test_forecast_waits_for_an_off_peak_lane_if_cheapest():
    night = lane("night", "0.05", hours_utc=(22 * 60, 6 * 60))
    lanes = [night, lane("day", "0.10")]
    noon = 12 * 3600.0

    patient = forecast(orders(10), lanes, policy="cheapest", at=noon)
    pressed = forecast(orders(10), lanes, policy="cheapest", at=noon, within_s=3600)
    balanced = forecast(orders(10), lanes, at=noon)

    assert (patient.seconds, jobs(patient)) == (10 * 3600 + 60, {"night": 10, "day": 0})
    assert jobs(pressed) == jobs(balanced) == {"night": 0, "day": 10}


@given(
    count=st.integers(1, 500),
    slots=st.integers(1, 40),
    submits_per_minute=st.integers(1, 100),
    submits_per_day=st.one_of(st.none(), st.integers(1, 200)),
    typical_s=st.integers(1, 900),
)
def test_forecast_of_a_lane_ends_when_its_capacity_suffices(count, typical_s, **limits):
    """A lane's forecast ends at the first moment at which its capacity suffices."""
    told = forecast(
        orders(count), [lane("one", "1", **limits)], typical_s={"one": typical_s}
    )

    at_the_end = capacity(Limits(**limits), typical_s, told.seconds + 0.001)
    before = capacity(Limits(**limits), typical_s, told.seconds - 0.001)
    assert before < count <= at_the_end


def test_latest_clips_of_a_lane_predict_the_next_latency():
    """The latest clips of a lane predict how long the next one takes."""
    took = {"one": [900.0, *(40.0 + n for n in range(49))], "two": [7.0]}

    assert typical(took) == {"one": 64.5, "two": 7.0}


def test_lane_without_history_uses_its_routes_latency():
    """A lane without history takes the latency that its route states."""
    told = forecast(orders(1), [lane("one", "1")], typical_s={"another": 5.0})

    assert told.seconds == 60


def test_orders_are_not_kept():
    alive, most = 0, 0

    class Counted(Order):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def stream():
        nonlocal alive, most
        job = orders(1)[0].job
        for _ in range(500):
            alive += 1
            most = max(most, alive)
            yield Counted(job=job, still="")

    for policy in ("cheapest", "fastest", "balanced"):
        forecast(stream(), [lane("one", "1")], policy=policy, within_s=math.inf)

    assert most < 5
