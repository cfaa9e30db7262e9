"""`nightreel verify`: a clip that is gone is named, with 1, and fetched on request."""

import json

import pytest

from storage.ledger import Ledger
from storage.objects import Objects
from tests.storage.lives import job
from tests.storage.test_repair import MADE

pytestmark = pytest.mark.anyio

NOTHING = {"clips": 0, "bad": [], "restored": None, "lost": None}


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

    assert (sound.code, json.loads(sound.out)) == (0, NOTHING)
    assert gone.code == 1
    assert f"{job('a')}.mp4: missing; at wavespeed it is remote-1" in gone.err
    assert "1 clips published, 1 of them gone" in gone.err


@pytest.mark.slow
def test_clip_that_is_gone_is_fetched_on_request(bench):
    """The command ends with 0 once all is whole again; a run names the cure if it is not."""
    bench.config()
    bench.manifest(2)
    assert bench.run().code == 0
    clip = min((bench.folder / "root" / "clips").rglob("*.mp4"))
    clip.unlink()

    fetched = bench.nightreel("verify", "root", "--fetch")
    clip.write_bytes(b"short")
    told = bench.run()

    assert (fetched.code, told.code) == (0, 0)
    assert "1 fetched again, at no cost" in fetched.err
    assert "--fetch` says why; another `take` of a row buys it again" in told.err
    assert sum(bench.bought.values()) == 2
