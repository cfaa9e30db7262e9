"""A thousand rows over four lanes with different prices, limits and faults.

Nothing is lost, nothing is paid twice, and the tables match the bill to the cent.
"""

from collections import Counter
from decimal import Decimal

import polars as pl
import pytest

from tasks.emulator import Emulator, Fault, running
from tasks.engine.engine import Rules

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(900)]

LANES = {
    "replicate/wan-2.2": {"slots": 6},
    "wavespeed/wan-2.2": {"slots": 12},
    "atlas/wan-2.2-spicy": {"slots": 10},
    "fal/wan-2.2": {"slots": 8},
}
FAULTS = {
    "replicate": {Fault.LOSE_ANSWER: 0.02, Fault.FAIL: 0.02},
    "wavespeed": {Fault.FAIL: 0.05, Fault.REFUSE_CONTENT: 0.01, Fault.CUT_CLIP: 0.02},
    "atlas": {Fault.REJECT_INPUT: 0.01, Fault.LOSE_ANSWER_MID: 0.01},
    "fal": {Fault.FAIL: 0.03, Fault.UNKNOWN_STATUS: 0.03, Fault.ERROR_AFTER: 0.01},
}
ROWS = [
    # All four lanes can make these.
    *({"model": "wan-2.2,wan-2.2-spicy"[: 7 + 14 * (n % 2)]} for n in range(600)),
    *({"model": "standard"} for _ in range(200)),
    *({"content": "general"} for _ in range(100)),
    # Only the cheapest lane is cheap enough; only two lanes offer 8 s.
    *({"model": "wan-2.2", "max_usd": 0.10} for _ in range(50)),
    *({"model": "wan-2.2", "duration_s": 8} for _ in range(50)),
]


async def test_thousand_rows_on_four_lanes_cost_the_prices_listed(worlds, clip):
    """All 1000 rows on four lanes end, and the bill matches the price tables."""
    slots = {name.partition("/")[0]: each["slots"] for name, each in LANES.items()}
    emulator = Emulator(
        latency_s=0.4, jitter=0.3, slots=slots, chances=FAULTS, clip=clip, seed=7
    )
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[*LANES])
        world.rules = Rules(settle_s=0.0)
        stills = [world.still(f"{n}.jpg") for n in range(20)]
        rows = [
            {"image": stills[n % 20], "prompt": f"pan {n}", **row}
            for n, row in enumerate(ROWS)
        ]
        lanes = [world.lane(name, **limits) for name, limits in LANES.items()]

        summary = await world.run(world.manifest(rows), lanes=lanes)

    bill, clips = emulator.bill, world.table("clips")
    attempts = world.table("attempts")

    # Every row ends published, rejected, or in a doubt that no provider can resolve.
    assert clips.height == summary.rows == len(ROWS) == 1000
    assert summary.pending == 0
    assert summary.published + summary.rejected + summary.in_doubt == 1000
    assert summary.published >= 960

    # Each job has at most one accepted submit that was not refunded.
    kept = Counter(line.prompt for line in bill if not line.refunded)
    assert max(kept.values()) == 1

    # All sums agree to the cent.
    assert summary.spent_usd == emulator.total_usd
    assert attempts["charged_usd"].sum() == emulator.total_usd
    assert clips["spent_usd"].sum() == emulator.total_usd
    assert emulator.total_usd == sum(
        Decimal(line.price_usd) for line in bill if not line.refunded
    )

    # By the provider's count no quota is exceeded, and the cheapest lane is full.
    for account in emulator.stats()["accounts"]:
        assert account["running"] <= slots[account["dialect"]]
        assert account["throttled"] == 0
    shares = Counter(line.dialect for line in bill)
    assert shares["replicate"] >= 0.8 * 1000 * slots["replicate"] / sum(slots.values())
    cheap = clips.filter(pl.col("max_usd") == 0.10)
    assert set(cheap["lane"].drop_nulls()) == {"replicate"}
