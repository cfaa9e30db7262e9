"""Spending limits hold for concurrent events in any order."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dispatch import DAY_S, Budget
from tasks.dispatch.budget import Day

PRICES = st.sampled_from([Decimal(p) for p in ("0.05", "0.15", "0.2025", "0.3")])
DEEDS = st.lists(st.tuples(st.sampled_from(["reserve", "back", "keep"]), PRICES))


@given(DEEDS, st.decimals(min_value=0, max_value=3, places=4))
def test_budget_is_never_exceeded_in_any_order_of_events(deeds, budget):
    """The budget is not exceeded by a cent, whatever the order of the events."""
    money, held = Budget(budget), []

    for deed, price in deeds:
        if deed == "reserve" and money.reserve(price):
            held.append(price)
        elif deed == "back" and held:
            money.settle(-held.pop())
        assert money.spent_usd <= budget

    assert money.spent_usd == sum(held)


def test_without_a_budget_everything_is_affordable_and_counted():
    money = Budget()

    assert money.reserve(Decimal("1e6"))
    assert money.spent_usd == Decimal("1e6")


def test_bill_above_the_price_is_counted_over_the_budget():
    """A bill above the price counts in full, even if it exceeds the budget."""
    money = Budget(Decimal("0.30"))
    money.reserve(Decimal("0.25"))

    money.settle(Decimal("0.10"))

    assert money.spent_usd == Decimal("0.35")
    assert not money.affords(Decimal("0.01"))


def test_daily_submits_are_counted_over_any_24_hours():
    """The daily cap on submits holds over any 24 hours, not per calendar day."""
    day = Day(submits=2)
    day.reserve(Decimal(1), now=0.0)
    day.reserve(Decimal(1), now=100.0)

    assert not day.reserve(Decimal(1), now=DAY_S - 1)
    assert day.full(Decimal(1), DAY_S - 1) == (
        "its cap of 2 submits in 24 hours is reached"
    )
    assert day.reserve(Decimal(1), now=DAY_S)


def test_daily_money_is_never_exceeded_and_can_be_given_back():
    """Spending keeps to the daily cap, and money given back can be spent again."""
    day = Day(usd=Decimal("0.30"))
    assert day.reserve(Decimal("0.15"), now=0.0)
    assert day.reserve(Decimal("0.15"), now=1.0)
    assert not day.reserve(Decimal("0.01"), now=2.0)

    day.release(Decimal("0.15"))

    assert day.reserve(Decimal("0.15"), now=3.0)


@given(
    st.lists(st.tuples(st.floats(0, 4 * DAY_S), PRICES), max_size=40),
    st.decimals(min_value="0.3", max_value=1, places=2),
)
def test_no_24_hours_ever_hold_more_money_than_their_cap(moments, cap):
    day, taken = Day(usd=cap), []

    for at, price in sorted(moments):
        if day.reserve(price, at):
            taken.append((at, price))
        window = [usd for when, usd in taken if when > at - DAY_S]
        assert sum(window) <= cap


def test_spending_of_earlier_runs_counts():
    day = Day(submits=3)
    day.recall([(50.0, Decimal(1)), (10.0, Decimal(1))])

    assert day.reserve(Decimal(1), now=60.0)
    assert not day.reserve(Decimal(1), now=61.0)
    assert day.reserve(Decimal(1), now=DAY_S + 11.0)


@pytest.mark.parametrize("risk", ["0", "0.14"])
def test_a_risk_that_is_not_allowed_is_not_taken(risk):
    assert not Budget(Decimal(risk)).reserve(Decimal("0.15"))


def test_money_held_for_dearer_bills_cannot_be_reserved():
    """Money held for the dearer bills of submits under way is not spent on another."""
    money = Budget(Decimal("0.30"))
    assert money.reserve(Decimal("0.10"))
    money.held_usd = Decimal("0.15")

    assert not money.reserve(Decimal("0.10"))
    assert money.spent_usd == Decimal("0.10")

    money.held_usd = Decimal(0)

    assert money.reserve(Decimal("0.10"))


def test_dearer_bill_counts_in_the_day_until_it_is_old():
    """A bill above its price takes the difference from the daily cap for 24 hours."""
    day = Day(usd=Decimal("0.30"))
    assert day.reserve(Decimal("0.10"), now=0.0)

    day.correct(Decimal("0.10"), Decimal("0.25"))

    assert day.taken(1.0) == (1, Decimal("0.25"))
    assert not day.reserve(Decimal("0.10"), now=1.0)
    assert day.taken(DAY_S) == (0, 0)
