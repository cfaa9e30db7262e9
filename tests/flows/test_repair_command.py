"""`nightreel repair`: a damaged root is explained, repaired, and used again."""

import json

import pytest

from storage import layout
from storage.ledger import Ledger
from storage.objects import Objects
from tests.storage.lives import job
from tests.storage.test_missing import without_checkpoints
from tests.storage.test_repair import MADE

pytestmark = pytest.mark.anyio


async def damaged(bench) -> str:
    """A root whose killed run lost its second segment; the segment's key."""
    (bench.folder / "root").mkdir()
    objects = Objects.open((bench.folder / "root").as_uri())
    ledger = await Ledger.open(objects, name="m")
    for event in MADE:
        await ledger.record(job("a"), event)
    await ledger.close()
    await without_checkpoints(objects)
    key = layout.segment(layout.stream(ledger.batch, "main"), 2)
    await objects.delete(key)
    return key


async def test_damage_is_shown_and_repaired_when_asked(bench):
    """Without --yes nothing changes; with it, the next commands accept the root."""
    key = await damaged(bench)
    refused = bench.nightreel("status", "root")
    looked = bench.nightreel("repair", "root")
    plain = bench.nightreel("repair", "root", "--json")

    assert (refused.code, looked.code, plain.code) == (1, 1, 1)
    assert "nightreel repair file://" in refused.err
    assert f"{key}: missing" in looked.err
    assert "at most 2,000 submits, 300.00 USD" in looked.err
    told = json.loads(plain.out)
    assert [one["key"] for one in told["damage"]] == [key]
    assert told["gaps"][0]["usd"] == 300.0
    assert not told["repaired"]

    mended = bench.nightreel("repair", "root", "--yes", "--json")
    status = bench.nightreel("status", "root", "--json")
    released = bench.nightreel("repair", "root", "--release")

    assert mended.code == 0
    assert json.loads(mended.out)["repaired"]
    assert json.loads(mended.out)["reconciled"]["doubts"] == []
    assert json.loads(status.out)["published"] == 1
    assert (released.code, "released" in released.err) == (0, True)


async def test_repair_is_refused_during_a_run(bench):
    """A run of another process holds the root: exit code 2, nothing is written."""
    await damaged(bench)
    objects = Objects.open((bench.folder / "root").as_uri())
    for key in (layout.claim(1), layout.stream("000001-m", "main")):
        async for stored in objects.list(key):
            await objects.delete(stored.key)
    ledger = await Ledger.open(objects, name="alive", take_over=True)
    try:
        await objects.delete(layout.claim(1))
        refused = bench.nightreel("repair", "root", "--yes")
    finally:
        await ledger.close()

    assert refused.code == 2
    assert "holds it" in refused.err
    assert not [one async for one in objects.list(layout.REPAIRS)]
