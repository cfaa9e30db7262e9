"""An emulated clip is a real MP4 of its still and describes itself."""

import io

import av
import httpx
import pytest
from PIL import Image, ImageStat

from tasks.emulator import Emulator
from tasks.emulator.clips import ClipFormat, Clips, render
from tasks.emulator.uploads import Still


def cut(**differences):
    usual = {
        "resolution": "480p",
        "aspect_ratio": "auto",
        "frames": 5,
        "fps": 16,
        "move": 0,
    }
    return ClipFormat(**(usual | differences))


def frames(clip):
    with av.open(io.BytesIO(clip)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def probe(clip):
    with av.open(io.BytesIO(clip)) as container:
        video = container.streams.video[0]
        return {
            "codec": video.codec_context.name,
            "size": (video.width, video.height),
            "fps": video.average_rate,
            "frames": video.frames,
            "seconds": float(video.duration * video.time_base),
        }


def difference(one, other):
    pairs = zip(one.convert("L").tobytes(), other.convert("L").tobytes(), strict=True)
    return sum(abs(a - b) for a, b in pairs) / (one.width * one.height)


def test_a_clip_has_the_length_and_rate_that_were_bought(emulate):
    shop = emulate(Emulator(latency_s=0))
    url = shop.clip_url("wavespeed", shop.buy("wavespeed"))

    answer = httpx.get(url)

    assert answer.headers["content-type"] == "video/mp4"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert probe(answer.content) == {
        "codec": "h264",
        "size": (832, 480),
        "fps": 16,
        "frames": 81,
        "seconds": 81 / 16,
    }


def test_every_frame_decodes_and_the_camera_moves(still):
    seen = frames(render(Still.of(still), cut(frames=17)))

    assert len(seen) == 17
    assert difference(seen[0], seen[1]) < difference(seen[0], seen[-1])
    assert difference(seen[0], seen[-1]) > 2


@pytest.mark.parametrize(
    ("photograph", "resolution", "aspect_ratio", "size"),
    [
        ((640, 360), "480p", "auto", (832, 480)),
        ((600, 400), "720p", "auto", (1280, 720)),
        ((360, 640), "480p", "auto", (480, 832)),
        ((400, 600), "720p", "auto", (720, 1280)),
        ((500, 480), "480p", "auto", (624, 624)),
        ((480, 500), "720p", "auto", (960, 960)),
        ((640, 360), "480p", "9:16", (480, 832)),
        ((360, 640), "480p", "1:1", (624, 624)),
    ],
)
def test_clip_has_the_shape_of_its_still_or_the_ordered_one(
    take_photograph, photograph, resolution, aspect_ratio, size
):
    still = Still.of(take_photograph(*photograph))

    clip = render(still, cut(resolution=resolution, aspect_ratio=aspect_ratio))

    assert probe(clip)["size"] == size


def test_a_still_is_seen_the_right_way_up(take_photograph):
    sideways = Image.open(io.BytesIO(take_photograph(640, 360)))
    exif = sideways.getexif()
    exif[0x0112] = 6  # turn right to see it
    file = io.BytesIO()
    sideways.save(file, "JPEG", exif=exif)

    assert probe(render(Still.of(file.getvalue()), cut()))["size"] == (480, 832)


@pytest.mark.parametrize("photograph", [(640, 360), (360, 640), (480, 480)])
def test_every_frame_is_marked_as_emulated(photograph):
    white = Image.new("RGB", photograph, "white")
    file = io.BytesIO()
    white.save(file, "PNG")

    for frame in frames(render(Still.of(file.getvalue()), cut())):
        badge = frame.crop((15, 15, 115, 40)).convert("L")
        beside = frame.crop((200, 15, 300, 40)).convert("L")
        assert ImageStat.Stat(badge).mean[0] < 110
        assert badge.getextrema()[1] > 200
        assert beside.getextrema()[0] > 200


def test_file_is_marked_as_emulated(still):
    with av.open(io.BytesIO(render(Still.of(still), cut()))) as container:
        assert container.metadata["title"] == "Emulated clip"
        assert "No model made this" in container.metadata["comment"]


def test_a_clip_can_be_played_while_it_downloads(still):
    clip = render(Still.of(still), cut())

    assert clip.index(b"moov") < clip.index(b"mdat")


def test_seeds_differ_and_the_same_seed_does_not(still):
    def last(move):
        return frames(render(Still.of(still), cut(move=move)))[-1]

    assert difference(last(0), last(0)) == 0
    assert difference(last(0), last(6)) > 2


@pytest.mark.anyio
async def test_a_clip_is_made_once(still):
    clips = Clips()
    one = Still.of(still)

    first = await clips.clip(one, cut())
    again = await clips.clip(Still.of(still), cut())
    clips.close()

    assert first is again


def test_fal_interpolates_frames_by_default(emulate):
    shop = emulate(Emulator(latency_s=0))
    asked = {"num_frames": 17, "frames_per_second": 16}

    usual = httpx.get(shop.clip_url("fal", shop.buy("fal", **asked)))
    plain = httpx.get(
        shop.clip_url("fal", shop.buy("fal", num_interpolated_frames=0, **asked))
    )

    assert (probe(usual.content)["fps"], probe(usual.content)["frames"]) == (32, 33)
    assert (probe(plain.content)["fps"], probe(plain.content)["frames"]) == (16, 17)
