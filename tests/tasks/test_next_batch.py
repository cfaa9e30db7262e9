"""The next night takes up rows without a clip and results that expired."""

import asyncio
import time
from decimal import Decimal

import pytest

from tasks.emulator import Emulator, running
from tests.tasks.conftest import BILLED

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("route", BILLED, indirect=True)
async def test_rest_of_a_batch_is_run_and_nothing_is_bought_twice(world):
    """The next run does the rows that are left and buys no clip twice."""
    price = next(iter(world.lane(world.routes[0]).route.prices_usd.values()))
    first = await world.run(6, budget_usd=price * 2)
    batch = world.batch_runs[-1].batch
    left = world.folder / "root" / "tables" / "left" / f"batch={batch}"

    second = await world.run((left / "part-0.parquet").as_uri())

    assert (first.published, first.pending) == (2, 4)
    assert (second.rows, second.published, second.bought) == (4, 4, 4)
    assert set(world.bought.values()) == {1}
    assert first.spent_usd + second.spent_usd == world.owed


@pytest.mark.parametrize(
    ("route", "after_s", "submits"),
    [
        # Replicate deletes a clip after an hour: it was paid for and is lost.
        ("replicate/wan-2.2", 2 * 3600, 2),
        # Runway's links expire after a day, and a poll returns fresh ones.
        pytest.param("runway/gen4-turbo", 25 * 3600, 1, marks=pytest.mark.slow),
        pytest.param(
            "kling/kling-2.5-turbo", 20 * 24 * 3600, 1, marks=pytest.mark.slow
        ),
    ],
)
async def test_clip_that_expired_is_bought_again_only_where_it_is_gone(
    worlds, clip, route, after_s, submits
):
    """A clip that waited too long is bought again only if the provider deleted it."""
    later = [0.0]
    emulator = Emulator(
        latency_s=0.5, clip=clip, clock=lambda: time.monotonic() + later[0]
    )
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[route])

        def stopped(batch_run):
            asyncio.get_running_loop().call_later(0.4, batch_run.engine.stop, "killed")

        first = await world.run(1, during=stopped)
        later[0] = float(after_s)
        second = await world.run(1)

    assert (first.published, first.bought) == (0, 1)
    assert second.published == 1
    assert len(emulator.bill) == submits
    clips = world.table("clips")
    assert clips["spent_usd"].sum() == emulator.total_usd
    assert emulator.total_usd == Decimal(submits) * clips["price_usd"][0]
