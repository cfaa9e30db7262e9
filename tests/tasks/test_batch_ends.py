"""At the end of a job, or after a crash, the money counted is the provider's charge."""

import shutil
from dataclasses import replace

import pytest

from storage.ledger import Ledger, read
from storage.objects import Objects
from tasks.emulator import running
from tests.storage.lives import made

pytestmark = pytest.mark.anyio

RUNWAY = "runway/gen4-turbo"


def dear(world):
    """A provider that reports its charge: half of its route's price."""
    lane = world.lane(RUNWAY)
    doubled = {size: 2 * price for size, price in lane.route.prices_usd.items()}
    lane.route = replace(lane.route, prices_usd=doubled)
    return lane


async def cut_off(world, entries):
    """A root that holds only these records, as if the machine died after them."""
    shutil.rmtree(world.folder / "root")
    objects = made((world.folder / "root").as_uri())
    ledger = await Ledger.open(objects, name="cut-off")
    for entry in entries:
        await ledger.record(entry.job, entry.event)
    await ledger.close()


async def test_charge_is_counted_once_after_a_crash_at_any_record(worlds, emulator):
    """A charge is counted once, after whichever record the run crashes."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[RUNWAY])
        whole = await world.run(1, lanes=[dear(world)])
        entries = await read(Objects.open((world.folder / "root").as_uri()))
        counted = []
        for number in range(2, len(entries)):  # once it is accepted
            await cut_off(world, entries[:number])
            summary = await world.run(1, lanes=[dear(world)])
            assert (summary.published, summary.bought) == (1, 0)
            counted.append(world.table("clips")["spent_usd"].sum())

    assert whole.spent_usd == world.owed
    assert counted == [world.owed] * (len(entries) - 2)
