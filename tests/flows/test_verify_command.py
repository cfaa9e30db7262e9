"""`nightreel verify`: a clip that is gone is named, with 1."""

import json

import pytest

from storage.ledger import Ledger
from storage.objects import Objects
from tests.storage.lives import job
from tests.storage.test_repair import MADE

pytestmark = pytest.mark.anyio


async def test_clip_that_is_gone_ends_with_1(bench):
    """A job is published on record, and nothing is below the root."""
    (bench.folder / "root").mkdir()
    objects = Objects.open((bench.folder / "root").as_uri())
    ledger = await Ledger.open(objects, name="m")
    sound = bench.nightreel("verify", "root", "--json")
    for event in MADE:
        await ledger.record(job("a"), event)
    await ledger.close()

    gone = bench.nightreel("verify", "root")

    assert (sound.code, json.loads(sound.out)) == (0, {"clips": 0, "bad": []})
    assert gone.code == 1
    assert f"{job('a')}.mp4: missing; at wavespeed it is remote-1" in gone.err
    assert "1 clips published, 1 of them gone" in gone.err
