"""Clips and sidecars that are gone or cut after publication are found."""

import pytest

from storage.objects import Objects
from tasks.emulator import running
from tasks.verify import verified

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(worlds, emulator):
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=["wavespeed/wan-2.2-spicy"])


async def found(world, *, deep: bool = False) -> list[str]:
    root = world.folder / "root"
    told = await verified(Objects.open(str(root)), deep=deep)
    assert told.clips == 2
    return [one.problem for one in told.bad]


def a_clip(world, suffix: str):
    return min((world.folder / "root" / "clips").rglob(f"*.{suffix}"))


async def test_whole_clips_have_no_problem(world):
    await world.run(2)

    assert await found(world, deep=True) == []


@pytest.mark.parametrize("suffix", ["mp4", "json"])
async def test_object_that_is_gone_is_found(world, suffix):
    """One list of the clips shows it, with the provider's id of the clip."""
    await world.run(2)
    a_clip(world, suffix).unlink()

    told = await verified(Objects.open(str(world.folder / "root")), deep=False)

    assert [(one.problem, one.provider) for one in told.bad] == [
        ("missing", "wavespeed")
    ]


async def test_clip_that_is_cut_is_found(world):
    """Its size is not the one on record."""
    await world.run(2)
    clip = a_clip(world, "mp4")
    size = clip.stat().st_size
    clip.write_bytes(clip.read_bytes()[:-10])

    assert await found(world) == [f"{size - 10:,} of {size:,} bytes"]


async def test_flipped_byte_is_found_by_a_deep_look(world):
    """The size is the same: only the digest shows it."""
    await world.run(2)
    clip = a_clip(world, "mp4")
    data = clip.read_bytes()
    clip.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    assert await found(world) == []
    assert await found(world, deep=True) == ["its SHA-256 is not the one on record"]


@pytest.mark.parametrize(
    ("content", "deep", "told"),
    [
        (b"", False, ["empty"]),
        (b"{", True, ["it does not tell of this clip"]),
        (b"{}", True, ["it does not tell of this clip"]),
    ],
)
async def test_sidecar_that_is_cut_is_found(world, content, deep, told):
    """An empty one is found by its size, another one when it is read."""
    await world.run(2)
    a_clip(world, "json").write_bytes(content)

    assert await found(world, deep=deep) == told
