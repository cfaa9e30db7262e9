"""A root that lost something, or whose records are damaged, is never bought into."""

import pytest

from storage import layout
from storage.ledger.codec import LedgerError
from tasks.emulator import running

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(worlds, emulator):
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=["wavespeed/wan-2.2-spicy"])


async def test_claim_missing_buys_nothing(world):
    """Twelve rows are done, their claim is lost, and another manifest has the same rows."""
    await world.run(12)
    (world.folder / "root" / layout.claim(1)).unlink()
    again = world.manifest(12, name="again")

    with pytest.raises(LedgerError, match=r"000001.json: missing, but ledger/000001-m"):
        await world.run(again)

    assert len(world.emulator.bill) == 12
