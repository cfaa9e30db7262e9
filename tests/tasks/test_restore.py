"""Published clips that are gone or cut come back from their providers, and cost nothing."""

from dataclasses import replace

import orjson
import pytest

from storage.objects import Objects
from tasks.batch import gone
from tasks.emulator import running
from tasks.engine.environment import REAL
from tasks.restore import Restored, restored
from tasks.verify import verified

pytestmark = pytest.mark.anyio

MONTH_S = 31 * 24 * 3600.0


@pytest.fixture
async def world(worlds, emulator):
    """Two published clips, at a provider that still has them."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["wavespeed/wan-2.2-spicy"])
        await world.run(2)
        yield world
        assert len(emulator.bill) == 2


def a_clip(world, suffix: str):
    return min((world.folder / "root" / "clips").rglob(f"*.{suffix}"))


async def fetched(world, *, later_s: float = 0.0, lanes: bool = True) -> Restored:
    objects = Objects.open(str(world.folder / "root"))
    told = await verified(objects, deep=True)
    on = [world.lane(route) for route in world.routes] if lanes else []
    outside = replace(REAL, today=lambda: REAL.today() + later_s)
    again = await restored(objects, told.lives, on, outside)
    left = await verified(objects, deep=True)
    assert left.lives.keys() == again.lost.keys()
    return again


@pytest.mark.parametrize("left", [None, b"", b"first"])
async def test_clip_that_is_gone_or_cut_comes_back(world, left):
    """The bytes on record are put in its place, whatever is left of it."""
    clip = a_clip(world, "mp4")
    whole = clip.read_bytes()
    clip.unlink()
    if left is not None:
        clip.write_bytes(left and whole[:100])

    again = await fetched(world)

    assert ([*again.restored], again.lost) == ([clip.stem], {})
    assert clip.read_bytes() == whole


async def test_sidecar_comes_back_without_its_provider(world):
    """The ledger and the tables have what it says, and the clip is there."""
    sidecar = a_clip(world, "json")
    before = orjson.loads(sidecar.read_bytes())
    sidecar.unlink()

    again = await fetched(world, lanes=False)

    assert [*again.restored] == [sidecar.stem]
    after = orjson.loads(sidecar.read_bytes())
    assert {name: after[name] for name in ("sha256", "prompt", "remote_id")} == {
        name: before[name] for name in ("sha256", "prompt", "remote_id")
    }


async def test_file_of_another_hand_is_not_overwritten(world):
    """Its owner may have put it there."""
    clip = a_clip(world, "mp4")
    clip.write_bytes(b"shorter, and no part of the clip")

    again = await fetched(world)

    assert list(again.lost.values()) == [
        "another file is in its place: delete that one first"
    ]
    assert clip.read_bytes() == b"shorter, and no part of the clip"


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"lanes": False}, "no lane in use asks wavespeed"),
        ({"later_s": MONTH_S}, "wavespeed does not keep it any more"),
    ],
)
async def test_clip_that_cannot_be_fetched_is_lost(world, how, why):
    """The reason is named, and nothing is bought."""
    a_clip(world, "mp4").unlink()

    again = await fetched(world, **how)

    assert (list(again.lost.values()), again.restored) == ([why], set())


@pytest.mark.parametrize("few", [0, 4], ids=["by lists", "by heads"])
async def test_next_run_brings_a_clip_back(world, monkeypatch, few):
    """It says so in its last line, and buys nothing."""
    monkeypatch.setattr(gone, "FEW", few)
    a_clip(world, "mp4").unlink()

    summary = await world.run(2)

    assert (summary.published, summary.bought) == (2, 0)
    assert (summary.restored, summary.gone, int(summary.exit_code)) == (1, 0, 0)
    assert "1 gone from the store and fetched again" in str(summary)


async def test_next_run_counts_a_clip_that_is_lost(world):
    """Its row stays published: only its owner buys it again."""
    clip = a_clip(world, "mp4")
    clip.write_bytes(b"short")

    summary = await world.run(2)

    assert (summary.published, summary.bought) == (2, 0)
    assert (summary.restored, summary.gone) == (0, 1)
    assert str(summary).endswith("; 1 gone from the store")


async def test_longer_file_is_left_alone_by_a_run(world):
    """Somebody put it there: it is no clip that was cut."""
    clip = a_clip(world, "mp4")
    clip.write_bytes(clip.read_bytes() + b"more")

    summary = await world.run(2)

    assert (summary.restored, summary.gone) == (0, 0)
