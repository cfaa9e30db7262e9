"""Bills above the price: what the run buys after them, and how it tells its owner."""

from dataclasses import replace
from decimal import Decimal

import polars as pl
import pytest

from manifests.catalogue import loader as catalogue
from tasks.emulator import running

pytestmark = pytest.mark.anyio

RUNWAY = "runway/gen4-turbo"
SLOTS = 2
PRICE = next(iter(catalogue.load().route(RUNWAY).prices_usd.values()))


@pytest.fixture
def dear(worlds, dear_emulator):
    """A world whose Runway charges four times the price in the catalogue."""
    emulator = dear_emulator(latency_s=0.1)
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=[RUNWAY], slots=SLOTS)


@pytest.mark.parametrize("clips", [4, 10])
async def test_budget_holds_but_for_what_was_under_way(dear, clips):
    """After the first dearer bill, only submits that were under way exceed the budget."""
    budget = clips * PRICE

    lanes = [dear.lane(RUNWAY, queues=False)]

    summary = await dear.run(30, budget_usd=budget, lanes=lanes)

    under_way = SLOTS * 4 * PRICE
    assert dear.owed <= max(budget, under_way)
    assert summary.spent_usd == dear.owed
    assert summary.short_of == "budget"
    assert f"charged {4 * PRICE:.2f} USD" in summary.lanes_dearer["runway"]


async def test_what_is_under_way_is_reserved_at_the_dearer_price(dear):
    """A price that rises takes the money for the submits under way from the budget at once."""
    summary = await dear.run(30, budget_usd=12 * PRICE)

    assert dear.owed == summary.spent_usd == 12 * PRICE
    assert dear.batch_runs[0].engine.tally.budget.held_usd == 0


async def test_lane_closes_after_a_dearer_bill_if_its_owner_says_so(dear):
    """With `on_dearer = "close"`, nothing is bought after the first bill above its price."""
    lane = dear.lane(RUNWAY)
    lane.on_dearer = "close"

    summary = await dear.run(30, lanes=[lane])

    assert summary.bought <= 2 * SLOTS
    assert summary.short_of == "lanes"
    assert "charged" in summary.lanes_closed["runway"]


async def test_row_whose_max_usd_is_below_the_new_price_waits(dear):
    """A lane that has become dearer than a row's `max_usd` does not make the row."""
    rows = [{"prompt": f"pan {n}", "max_usd": float(PRICE)} for n in range(12)]

    summary = await dear.run(rows)

    assert summary.bought <= 2 * SLOTS
    assert summary.pending == 12 - summary.published


async def test_daily_cap_counts_what_was_charged(dear):
    """A cap in dollars counts the bill, in this run and in the next one."""
    lane, again = (
        replace(dear.lane(RUNWAY, queues=False), usd_per_day=20 * PRICE, shared=None)
        for _ in range(2)
    )

    first = await dear.run(30, lanes=[lane])
    second = await dear.run(30, lanes=[again])

    assert first.spent_usd == dear.owed == 20 * PRICE
    assert second.bought == 0
    assert second.spent_usd == Decimal(0)
    charged = dear.table("attempts")["charged_usd"]
    assert pl.Series(charged).sum() == 0
