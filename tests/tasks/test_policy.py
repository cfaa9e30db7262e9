"""The policies: the lanes they use, for how long, and the cost of a deadline."""

import math
from dataclasses import replace
from decimal import Decimal

import pytest

from manifests.catalogue import load
from manifests.jobs import Job, Order
from tasks.dispatch import Lane, Limits, RateLimiter, Router, SlotRequest
from tasks.providers import PROVIDERS
from tasks.providers.http import Endpoint

CATALOGUE = load()
ORDER = Order(job=Job(image="i", prompt="p", model="wan-2.2-spicy"), still="i")
KIND = ORDER.kind


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def lane(name, route, *, price, typical_s=60.0, shared=None, **limits):
    known = CATALOGUE.route(route)
    priced = replace(
        known, prices_usd={("480p", 5): Decimal(price)}, typical_s=int(typical_s)
    )
    all_limits = {"slots": 10, "submits_per_minute": 6000, **limits}
    return Lane(
        name=name,
        route=priced,
        endpoint=Endpoint(PROVIDERS[known.provider](priced, "key")),
        limits=Limits(**all_limits),
        shared=shared,
    )


@pytest.fixture
def cheap():
    return lane("cheap", "wavespeed/wan-2.2-spicy", price="0.15")


@pytest.fixture
def dear():
    return lane("dear", "atlas/wan-2.2-spicy", price="0.30", typical_s=20.0)


def router(*lanes, policy="cheapest", ends_at=math.inf, clock=None):
    clock = clock or Clock()
    return Router(lanes, policy=policy, now=clock, today=clock, ends_at=ends_at)


def ranked(plan, failed=None):
    return plan.rank(SlotRequest(ORDER, plan.able(ORDER), failed))


def names(lanes):
    return [lane.name for lane in lanes]


def test_balanced_takes_the_cheapest_lane_that_is_free(cheap, dear):
    assert names(ranked(router(cheap, dear, policy="balanced"))) == [
        "cheap",
        "dear",
    ]


def test_of_two_at_one_price_the_one_that_is_idle_goes_first(cheap):
    idle = lane("idle", "atlas/wan-2.2-spicy", price="0.15", slots=1)
    cheap.limiter = RateLimiter(Limits(slots=1, submits_per_minute=60, queues=True))
    cheap.limiter.reserve_slot(0.0)

    assert names(ranked(router(cheap, idle, policy="balanced"))) == [
        "idle",
        "cheap",
    ]


def test_fastest_prefers_the_lane_whose_jobs_take_the_least_time(cheap, dear):
    assert names(ranked(router(cheap, dear, policy="fastest"))) == [
        "dear",
        "cheap",
    ]


def test_cheapest_without_a_deadline_never_pays_for_speed(cheap, dear):
    """Without a deadline, policy `cheapest` never pays more to be quicker."""
    plan = router(cheap, dear)
    plan.add_demand({KIND: 100_000})

    assert names(ranked(plan)) == ["cheap"]
    assert plan.count_late() == 0


def test_a_deadline_that_the_cheap_lane_meets_costs_nothing(cheap, dear):
    plan = router(cheap, dear, ends_at=3600.0)
    plan.add_demand({KIND: 500})

    assert names(ranked(plan)) == ["cheap"]


def test_missed_deadline_brings_in_the_dear_lane(cheap, dear):
    """A deadline that the cheap lane cannot meet brings in the dear lane."""
    plan = router(cheap, dear, ends_at=3600.0)
    plan.add_demand({KIND: 1000})

    assert names(ranked(plan)) == ["cheap", "dear"]
    assert plan.count_late() == 0


def test_dear_lane_is_dropped_once_the_cheap_one_suffices(cheap, dear):
    """The dear lane is dropped as soon as the cheap one can do the rest in time."""
    clock = Clock()
    plan = router(cheap, dear, ends_at=3600.0, clock=clock)
    plan.add_demand({KIND: 1000})
    ranked(plan)

    for _ in range(700):
        plan.bought(ORDER)
    clock.now = 900.0

    assert names(ranked(plan)) == ["cheap"]


def test_a_lane_that_turns_out_slow_brings_in_the_dear_one(cheap, dear):
    clock = Clock()
    plan = router(cheap, dear, ends_at=3600.0, clock=clock)
    plan.add_demand({KIND: 400})
    assert names(ranked(plan)) == ["cheap"]

    cheap.polls.learn([180.0] * 20)
    clock.now = 60.0

    assert names(ranked(plan)) == ["cheap", "dear"]


def test_impossible_deadline_uses_every_lane_and_warns(cheap, dear):
    """A deadline that no lane can meet uses every lane, and a message says so."""
    plan = router(cheap, dear, ends_at=600.0)
    plan.add_demand({KIND: 10_000})

    assert names(ranked(plan)) == ["cheap", "dear"]
    assert plan.count_late() > 9_000


def test_lanes_of_one_account_are_not_counted_on_twice():
    spicy = lane("spicy", "wavespeed/wan-2.2-spicy", price="0.15", slots=1)
    plain = lane(
        "plain", "wavespeed/wan-2.2", price="0.15", slots=1, shared=spicy.limiter
    )
    plan = router(spicy, plain, ends_at=6100.0)
    jobs = [
        Job(image="i", prompt="p", model=each.route.model) for each in (spicy, plain)
    ]

    plan.add_demand({Order(job=job, still="i").kind: 90 for job in jobs})

    # One slot makes some 96 clips of a minute each by then.
    assert plan.count_late() >= 80


def test_a_closed_lane_is_planned_without_at_once(cheap, dear):
    plan = router(cheap, dear)
    plan.add_demand({KIND: 10})
    assert names(ranked(plan)) == ["cheap"]

    cheap.closed = "no credit"

    assert names(ranked(plan)) == ["dear"]


def test_job_with_every_lane_closed_learns_which_and_why(cheap, dear):
    """If every lane is closed, the job's error names each lane and the reason."""
    cheap.closed = dear.closed = "no credit"

    assert names(ranked(router(cheap, dear))) == ["cheap", "dear"]


def test_after_a_failure_the_other_supplier_is_used(cheap, dear):
    """After a failure the other supplier is used, whatever it costs."""
    plan = router(cheap, dear)
    plan.add_demand({KIND: 10})

    assert names(ranked(plan, failed=cheap.route)) == ["dear"]


def test_failed_job_is_planned_again(cheap, dear):
    clock = Clock()
    plan = router(cheap, dear, ends_at=130.0, clock=clock)
    plan.add_demand({KIND: 10})
    for _ in range(10):
        plan.bought(ORDER)
    assert plan.count_late() == 0

    for _ in range(200):
        plan.requeue(ORDER)

    assert plan.count_late() > 0


def test_an_off_peak_lane_is_counted_on_for_its_hours_only(cheap):
    night = lane("night", "atlas/wan-2.2-spicy", price="0.05", slots=1)
    night.route = replace(night.route, kind="off_peak", hours_utc=(22 * 60, 6 * 60))
    clock = Clock()
    clock.now = 12 * 3600.0
    plan = router(night, cheap, ends_at=clock.now + 8 * 3600.0, clock=clock)
    plan.add_demand({KIND: 100})

    assert names(ranked(plan)) == ["cheap"]
    assert night.opens_in_s(clock.now) == 10 * 3600.0
    assert night.opens_in_s(23 * 3600.0) == night.opens_in_s(3600.0) == 0.0
    assert night.open_s(clock.now, 12 * 3600.0) == 2 * 3600.0
    assert night.open_s(23 * 3600.0, 24 * 3600.0) == 8 * 3600.0
