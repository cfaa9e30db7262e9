"""Laws of allotment: the most jobs in time, and among those ways the cheapest."""

import math
import time
from decimal import Decimal
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from tasks.dispatch import RATE_WINDOW_S, Limits, allot, capacity

LANES = ("a", "b", "c")


def usd(**prices):
    return {lane: Decimal(price) for lane, price in prices.items()}


def best(demand, prices, room):
    """Tries every way: the most jobs done, then the least money."""
    jobs = [kind for kind, count in demand.items() for _ in range(count)]
    ways = product(*([*prices[kind], None] for kind in jobs))
    fitting = (
        way for way in ways if all(way.count(lane) <= room[lane] for lane in room)
    )
    return min(
        (
            way.count(None),
            sum(
                prices[kind][lane]
                for kind, lane in zip(jobs, way, strict=True)
                if lane is not None
            ),
        )
        for way in fitting
    )


prices_of_a_kind = st.dictionaries(
    st.sampled_from(LANES), st.integers(0, 5).map(lambda tenths: Decimal(tenths) / 10)
)
batches = st.integers(1, 3).flatmap(
    lambda kinds: st.tuples(
        st.lists(st.integers(0, 3), min_size=kinds, max_size=kinds),
        st.lists(prices_of_a_kind, min_size=kinds, max_size=kinds),
        st.tuples(*[st.sampled_from([0, 1, 2, 3, math.inf]) for _ in LANES]),
    )
)


@given(batches)
def test_no_other_way_makes_more_or_costs_less(batch):
    counts, asked, room = batch
    demand, prices = dict(enumerate(counts)), dict(enumerate(asked))
    room = dict(zip(LANES, room, strict=True))

    found = allot(demand, prices, room)

    short, cost = best(demand, prices, room)
    assert (sum(found.short.values()), found.cost_usd) == (short, cost)
    for kind, count in demand.items():
        assert sum(found.shares[kind].values()) + found.short.get(kind, 0) == count
    for lane in LANES:
        assert sum(share.get(lane, 0) for share in found.shares.values()) <= room[lane]
    assert found.cost_usd == sum(
        prices[kind][lane] * jobs
        for kind, share in found.shares.items()
        for lane, jobs in share.items()
    )


def test_cheap_lane_goes_to_the_job_with_no_cheap_alternative():
    """A cheap lane goes to the jobs whose other lanes are dear."""
    prices = {
        "480p": usd(cheap="0.10", other="0.11"),
        "720p": usd(cheap="0.20", other="0.90"),
    }

    found = allot({"480p": 10, "720p": 10}, prices, {"cheap": 10, "other": 10})

    # Giving each job the cheapest free lane would have cost 10.00.
    assert found.cost_usd == Decimal("3.10")
    assert found.shares == {"480p": {"other": 10}, "720p": {"cheap": 10}}


def test_a_detour_over_several_lanes_is_found():
    prices = {
        "first": usd(a="0.1", b="0.2"),
        "second": usd(b="0.1", c="0.2"),
        "third": usd(a="0.1"),
    }

    found = allot(dict.fromkeys(prices, 5), prices, dict.fromkeys("abc", 5))

    assert found.short == {}
    assert found.shares == {"first": {"b": 5}, "second": {"c": 5}, "third": {"a": 5}}


def test_a_job_more_is_worth_any_money():
    prices = {"either": usd(a="0.01", b="1000"), "only a": usd(a="0.01")}

    found = allot({"either": 1, "only a": 1}, prices, {"a": 1, "b": 1})

    assert found.short == {}
    assert found.cost_usd == Decimal("1000.01")


def test_cheapest_jobs_are_done_if_not_all_can_be():
    prices = {"dear": usd(a="9"), "cheap": usd(a="1")}

    found = allot({"dear": 5, "cheap": 5}, prices, {"a": 7})

    assert found.shares == {"dear": {"a": 2}, "cheap": {"a": 5}}
    assert found.short == {"dear": 3}


def test_lanes_of_equal_cost_are_filled_by_name():
    """Lanes of equal cost are filled by name, in whatever order they are listed."""
    room = {"c": 3, "a": 3, "b": 3}

    found = allot({"any": 5}, {"any": usd(c="0.2", b="0.2", a="0.2")}, room)

    assert found.shares == {"any": {"a": 3, "b": 2}}


def test_prices_that_floats_cannot_tell_apart_are_told_apart():
    """Prices that binary fractions would confuse are compared exactly."""
    prices = {"any": usd(a="0.300001", b="0.3")}

    found = allot({"any": 10**6}, prices, {"a": math.inf, "b": math.inf})

    assert found.shares == {"any": {"b": 10**6}}
    assert found.cost_usd == 300_000


def test_half_a_job_is_no_job_and_less_than_none_is_none():
    found = allot({"any": 9}, {"any": usd(a="1", b="2")}, {"a": 2.9, "b": -3})

    assert (found.shares, found.short) == ({"any": {"a": 2}}, {"any": 7})


def test_million_jobs_of_fifty_kinds_on_twenty_lanes_are_fast():
    """Allotting a million jobs of fifty kinds to twenty lanes takes almost no time."""
    lanes = [f"lane {n}" for n in range(20)]
    prices = {
        kind: {
            lane: Decimal((kind * 37 + n * 91 + kind * n * 13) % 97 + 3) / 100
            for n, lane in enumerate(lanes)
        }
        for kind in range(50)
    }
    room = {lane: 10_000.0 * (n % 9 + 1) for n, lane in enumerate(lanes)}

    began = time.process_time()
    found = allot(dict.fromkeys(prices, 20_000), prices, room)
    took = time.process_time() - began

    assert sum(found.short.values()) == 10**6 - sum(room.values())
    assert took < 0.25  # 0.015 where nothing else runs


def within(within_s, *, open_s=None, typical_s=60.0, **limits):
    all_limits = {"slots": 10, "submits_per_minute": 1000, **limits}
    return capacity(Limits(**all_limits), typical_s, within_s, open_s)


def test_clip_counts_if_it_starts_its_latency_before_the_end():
    """A clip counts only if it starts at least its latency before the end."""
    assert within(59) == 0
    assert within(60) == 10
    assert within(119) == 10
    assert within(600) == 100


def test_no_more_are_finished_than_may_be_submitted():
    assert within(60 + RATE_WINDOW_S, slots=1000, submits_per_minute=7) == 14
    assert within(7 * 24 * 3600, submits_per_day=50) == 7 * 50


def test_an_off_peak_lane_has_only_its_hours():
    assert within(8 * 3600, open_s=3600.0) == 10 * 60
    assert within(8 * 3600, open_s=0.0) == 0
    assert within(3600, open_s=3600.0) == within(3600)


def test_with_no_deadline_any_number_is_finished():
    assert within(math.inf, open_s=math.inf) == math.inf
    assert within(math.inf, submits_per_day=1) == math.inf
