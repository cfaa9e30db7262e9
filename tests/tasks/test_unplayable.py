"""Files of providers that are no MP4 and are the same each time, over real HTTP."""

import io
import json
from pathlib import Path
from urllib.parse import urlsplit

import av
import pytest
from PIL import Image

from tasks.emulator import Emulator, Fault, running
from tasks.engine.engine import Rules

pytestmark = pytest.mark.anyio

PAGE = b"<!doctype html><title>Your clip is on its way</title>"
ATLAS = "atlas/wan-2.2-spicy"


def webm():
    out = io.BytesIO()
    with av.open(out, "w", format="webm") as file:
        stream = file.add_stream("libvpx-vp9", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(0, 160, 10):
            image = Image.new("RGB", (64, 48), (shade, 90, 90))
            file.mux(stream.encode(av.VideoFrame.from_image(image)))
        file.mux(stream.encode())
    return out.getvalue()


@pytest.fixture
def world_of(worlds):
    """A world whose provider sends these bytes as each clip."""
    stack = []

    def make(clip, route=ATLAS):
        emulator = Emulator(
            latency_s=0.1, slots=1000, submits_per_minute=100000, clip=clip
        )
        server = running(emulator)
        stack.append(server)
        world = worlds(emulator=emulator, url=server.__enter__(), routes=[route])
        world.rules = Rules(settle_s=0.0, refused_s=0.0)
        return world

    yield make
    for server in stack:
        server.__exit__(None, None, None)


def local(uri):
    return Path(urlsplit(uri).path)


async def test_video_of_another_container_is_a_clip(world_of):
    """A WebM is published as an MP4, and its sidecar says what it was."""
    world = world_of(webm())

    summary = await world.run(1)

    [uri] = world.table("clips")["uri"]
    sidecar = json.loads(local(uri).with_suffix(".json").read_bytes())
    assert (summary.published, summary.bought) == (1, 1)
    assert (sidecar["converted_from"], sidecar["frames"]) == ("matroska", 16)
    with av.open(str(local(uri))) as file:
        assert "mp4" in file.format.name


async def test_same_page_each_time_is_kept_and_ends_the_row(world_of):
    """The bytes lie beside the clips, the row is unplayable, and nothing is bought again."""
    world = world_of(PAGE)
    manifest = world.manifest(1)

    first = await world.run(manifest)
    [row] = world.table("clips").rows(named=True)
    again = await world.run(manifest)

    [kept] = (world.folder / "root" / "clips").rglob("*.bin")
    assert (first.unplayable, first.pending, first.exit_code) == (1, 0, 0)
    assert (again.unplayable, again.bought, again.exit_code) == (1, 0, 0)
    assert {*world.bought.values()} == {1}
    assert kept.read_bytes() == PAGE
    assert row["state"] == "unplayable"
    assert kept.name in row["reason"]
    assert first.spent_usd == world.owed
    downloads = world.emulator.stats()["requests"]["atlas"]["download"]
    assert downloads == 3
    # The record of a bad file is dropped when its row ends.
    assert not world.batch_runs[0].engine.deps.publisher.checker.bad_files


async def test_bad_file_of_an_own_gpu_is_made_again(world_of):
    """On an own GPU another clip costs nothing, so no row ends for a bad file."""
    world = world_of(PAGE, "sglang/wan-2.2")

    summary = await world.run(1)

    assert (summary.unplayable, summary.published) == (0, 0)
    assert summary.pending == 1


@pytest.mark.slow
async def test_page_that_passes_does_not_end_the_row(world_of, clip):
    """A page that stands in for the clip for less than a minute loses nothing."""
    world = world_of(clip)
    world.emulator.faults["pan"] = [Fault.PAGE_CLIP]
    world.rules = Rules(settle_s=0.0)

    summary = await world.run(1)

    assert (summary.published, summary.unplayable, summary.bought) == (1, 0, 1)
