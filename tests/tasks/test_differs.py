"""A clip that is not as ordered is published, and the record says how it differs."""

import io
import json
from fractions import Fraction

import av
import pytest
from PIL import Image

from storage.media import Probe, mp4
from tasks.emulator import Emulator, running
from tasks.engine.clip_check import differs

pytestmark = pytest.mark.anyio

ORDER = {"duration_s": 5, "resolution": "480p", "aspect_ratio": "16:9"}
WIDE = {**ORDER, "aspect_ratio": "auto", "still_size": [640, 360]}


def probe(
    seconds: float = 5.06, width: int = 832, height: int = 480, repeats: int = 0
) -> Probe:
    return Probe(
        seconds=seconds,
        fps=16.0,
        width=width,
        height=height,
        codec="h264",
        frames=81,
        repeats=repeats,
    )


@pytest.mark.parametrize(
    ("order", "clip", "told"),
    [
        (ORDER, probe(), ""),
        (ORDER, probe(2.06), "2.1 of 5 s"),
        (ORDER, probe(width=320, height=180), "320x180 for 480p"),
        (ORDER, probe(width=1280, height=720), "1280x720 for 480p"),
        (ORDER, probe(width=480, height=832), "portrait for landscape"),
        (WIDE, probe(width=480, height=832), "portrait for landscape"),
        (WIDE, probe(), ""),
        ({**ORDER, "aspect_ratio": "9:16"}, probe(), "landscape for portrait"),
        ({**ORDER, "aspect_ratio": "1:1"}, probe(width=624, height=624), ""),
        (ORDER, probe(repeats=40), "40 of 81 frames repeat the one before"),
        (ORDER, probe(repeats=20), ""),
        (ORDER, probe(2.06, 320, 180), "2.1 of 5 s, 320x180 for 480p"),
        ({}, probe(1.0, 64, 48), ""),
    ],
)
def test_difference_is_told(order, clip, told):
    """Each difference has its words; what is not known of the order is not compared."""
    assert differs(order, clip) == told


def made(*, doubled: bool = False, turned: int = 0, sar: Fraction | None = None):
    """A clip of 16 frames of 64x48 in which a bar moves."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if sar is not None:
            stream.sample_aspect_ratio = sar
        for n in range(16):
            image = Image.new("RGB", (64, 48), (10, 90, 90))
            place = (n // 2 if doubled else n) * 3
            image.paste((250, 250, 250), (place, 0, place + 12, 48))
            file.mux(stream.encode(av.VideoFrame.from_image(image)))
        file.mux(stream.encode())
    return turn(out.getvalue(), turned)


def turn(data: bytes, degrees: int) -> bytes:
    """Write the matrix of the only track, as a phone that was turned does."""
    across, down = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    parts = (across, down, 0, -down, across, 0)
    matrix = b"".join((part * 65536).to_bytes(4, "big", signed=True) for part in parts)
    at = data.index(b"tkhd") + 4 + 40
    return data[:at] + matrix + data[at + len(matrix) :]


@pytest.mark.parametrize(
    ("turned", "size"),
    [(0, (64, 48)), (90, (48, 64)), (180, (64, 48)), (270, (48, 64))],
)
def test_size_is_as_a_player_shows_it(turned, size):
    """The matrix of the track turns the frames."""
    found = mp4.check(made(turned=turned))

    assert (found.rotation, (found.width, found.height)) == (turned, size)


def test_pixels_that_are_not_square_are_stretched():
    assert mp4.check(made(sar=Fraction(2, 1))).width == 128


def test_doubled_frames_are_counted():
    """Every second frame shows the same as the one before; in a moving clip, none does."""
    assert mp4.check(made(doubled=True)).repeats == 8
    assert mp4.check(made()).repeats == 0


async def test_clip_that_differs_is_published_and_told(worlds):
    """A clip of one second in 64x48 is in the sidecar, the table and the last line."""
    emulator = Emulator(latency_s=0.1, slots=10, submits_per_minute=6000, clip=made())
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["wavespeed/wan-2.2-spicy"])
        summary = await world.run(2)

    told = "1.0 of 5 s, 64x48 for 480p"
    assert (summary.published, summary.differing) == (2, 2)
    assert str(summary).endswith("USD; 2 not as ordered")
    assert world.table("clips")["differs"].to_list() == [told, told]
    sidecars = [*(world.folder / "root" / "clips").rglob("*.json")]
    assert [json.loads(one.read_bytes())["differs"] for one in sidecars] == [told, told]
