"""A clip is accepted only if each of its frames was decoded."""

import io
import random

import av
import pytest
from PIL import Image

from storage.media import BrokenClipError, Probe
from storage.media.mp4 import check

pytestmark = pytest.mark.core


def encoded(*, moov_first: bool, frames: int = 24) -> bytes:
    out = io.BytesIO()
    options = {"moov_size": "65536"} if moov_first else {}
    with av.open(out, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        noise = random.Random(7)
        for n in range(frames):
            pixels = noise.randbytes(160 * 96 * 3)
            image = Image.frombytes("RGB", (160, 96), pixels)
            frame = av.VideoFrame.from_image(image)
            frame.pts = n
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


@pytest.fixture(scope="module")
def fast_start() -> bytes:
    return encoded(moov_first=True)


@pytest.fixture(scope="module")
def moov_last() -> bytes:
    return encoded(moov_first=False)


def test_a_whole_clip_says_what_it_is(fast_start: bytes, moov_last: bytes):
    expected = Probe(
        seconds=1.5, fps=16.0, width=160, height=96, codec="h264", frames=24
    )

    assert check(fast_start) == check(moov_last) == expected
    assert check(fast_start, decode=False) == expected


@pytest.mark.parametrize("kept", [0.999, 0.9, 0.5, 0.01])
def test_a_clip_that_is_cut_short_is_not_whole(fast_start, moov_last, kept: float):
    for clip in (fast_start, moov_last):
        with pytest.raises(
            BrokenClipError, match=r"cut short|not a whole MP4"
        ) as caught:
            check(clip[: int(len(clip) * kept)], decode=False)
        assert not caught.value.whole


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "0 bytes"),
        (b"\0\0", "cut short at byte 0"),
        (b"<!DOCTYPE html><html><body>503 Service Unavailable", "begins.*<!DOCTYPE"),
        (b'{"error": "expired"}', "not an MP4"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not an MP4"),
    ],
)
def test_other_file_than_mp4_is_quoted(data: bytes, complaint: str):
    """The message about a file that is no MP4 quotes its first bytes."""
    with pytest.raises(BrokenClipError, match=complaint) as caught:
        check(data)
    assert not caught.value.whole


def test_only_decoding_finds_bytes_damaged_in_place(fast_start: bytes):
    middle = fast_start.index(b"mdat") + len(fast_start) // 2
    damaged = fast_start[:middle] + bytes(2048) + fast_start[middle + 2048 :]

    assert check(damaged, decode=False).frames == 24
    with pytest.raises(BrokenClipError, match="damaged") as caught:
        check(damaged)
    # Another download has the same bytes: the provider's file is broken.
    assert caught.value.whole


def test_sound_alone_is_no_clip():
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
        frame.sample_rate, frame.pts = 44100, 0
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode())

    with pytest.raises(BrokenClipError, match="no video"):
        check(out.getvalue())


def test_a_fragmented_mp4_is_taken():
    out = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov"}
    with (
        av.open(io.BytesIO(encoded(moov_first=True))) as source,
        av.open(out, "w", format="mp4", options=options) as container,
    ):
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                container.mux(packet)

    assert check(out.getvalue()).frames == 24
