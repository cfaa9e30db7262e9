"""Videos in other containers than MP4."""

import io
from itertools import count

import av
import pytest
from PIL import Image

from storage.media import mp4
from storage.media.foreign import LONGEST_S, to_mp4


def video(container, codec, *, frames=8, size=(64, 48), pixels="yuv420p"):
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=16)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        for shade in range(frames):
            image = Image.new("RGB", size, (shade * 20, 90, 90))
            file.mux(stream.encode(av.VideoFrame.from_image(image)))
        file.mux(stream.encode())
    return out.getvalue()


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("webm", "libvpx"),
        ("webm", "libvpx-vp9"),
        ("matroska", "libx264"),
        ("avi", "mpeg4"),
        ("mpegts", "libx264"),
    ],
)
def test_video_of_another_container_becomes_an_mp4(container, codec):
    """The MP4 passes the check of clips, with every frame and the same size."""
    made = to_mp4(video(container, codec))

    probe = mp4.check(made.mp4, decode=True)
    assert (probe.frames, probe.width, probe.height) == (8, 64, 48)
    assert probe.fps == pytest.approx(16, rel=0.1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!doctype html><title>One moment</title>",
        b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n",
        b"\x1aE\xdf\xa3" + b"\0" * 500,
        b"GIF89a",
        video("matroska", "libx264")[:900],
        video("mp4", "libx264"),
    ],
)
def test_file_that_is_no_other_video_stays_none(data):
    """Pages, playlists, broken videos and MP4s are not converted."""
    assert to_mp4(data) is None


@pytest.mark.parametrize(
    ("container", "codec", "looks"),
    [("webm", "libvpx", 1), ("webm", "libvpx", 16), ("matroska", "libx264", 12)],
    ids=["decoding", "encoding", "copying"],
)
def test_conversion_that_takes_too_long_is_given_up(container, codec, looks):
    """It ends at the next frame or packet; `looks` are those at the clock before."""
    data, clock = video(container, codec), count()

    assert to_mp4(data, now=lambda: LONGEST_S * (next(clock) >= looks) * 2) is None
