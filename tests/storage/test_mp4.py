"""A clip is accepted only if each of its frames was decoded."""

import io
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from PIL import Image

from storage.media import BrokenClipError, Probe
from storage.media.mp4 import check
from storage.media.mp4_tables import MOST_FRAMES

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


def fragmented() -> bytes:
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

    return out.getvalue()


def test_a_fragmented_mp4_is_taken():
    assert check(fragmented()).frames == 24


# -- tables that state more than the file has

ROOT = Path(__file__).parents[2]
STBL = b"moov/trak/mdia/minf/stbl/"
MANY = 40_000_000


def fields(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def edited(mp4: bytes, path: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The MP4 with another body in each box at this path."""
    first, _, below = path.partition(b"/")
    out, at = b"", 0
    while at < len(mp4):
        size, kind = struct.unpack_from(">I4s", mp4, at)
        body = mp4[at + 8 : at + size]
        if kind == first:
            body = edited(body, below, change) if below else change(body)
        out += struct.pack(">I4s", len(body) + 8, kind) + body
        at += size
    return out


def constant(mp4: bytes) -> bytes:
    """An MP4 whose tables of 60 bytes state many samples of one byte."""
    mp4 = edited(mp4, STBL + b"stsz", lambda _: fields(0, 1, MANY))
    mp4 = edited(mp4, STBL + b"stsc", lambda _: fields(0, 1, 1, MANY, 1))
    return edited(mp4, STBL + b"stts", lambda _: fields(0, 1, MANY, 1024))


def in_fragments(_: bytes) -> bytes:
    """A fragmented MP4 whose runs of 8 bytes state many samples without fields."""
    return edited(fragmented(), b"moof/traf/trun", lambda _: fields(0, MANY))


def entries(kind: bytes) -> Callable[[bytes], bytes]:
    """A table of this kind that states many entries, and has as many as before."""

    def change(mp4: bytes) -> bytes:
        at = 8 if kind == b"stsz" else 4
        return edited(
            mp4, STBL + kind, lambda body: body[:at] + fields(MANY) + body[at + 4 :]
        )

    return change


LITTLE_MEMORY = """
import resource, sys, time
from pathlib import Path
from storage.media import BrokenClipError
from storage.media.mp4 import check

clip = Path(sys.argv[1]).read_bytes()
now = int(Path("/proc/self/statm").read_text().split()[5]) * 4096
resource.setrlimit(resource.RLIMIT_DATA, (now + (100 << 20),) * 2)
try:
    check(clip)
except BrokenClipError as error:
    print(error.whole, error)
"""


@pytest.mark.parametrize(
    ("craft", "complaint"),
    [
        (constant, "states 40,000,000 samples in"),
        (in_fragments, "trun states 40,000,000 samples in a file"),
        (entries(b"stsz"), "stsz states 40,000,000 entries in 96 bytes"),
        (entries(b"stts"), "stts states 40,000,000 entries in 8 bytes"),
        (entries(b"stco"), "stco states 40,000,000 entries in 4 bytes"),
    ],
    ids=["constant", "fragments", "stsz", "stts", "stco"],
)
def test_a_small_file_with_huge_tables_takes_no_memory(
    moov_last: bytes, tmp_path: Path, craft, complaint: str
):
    """Tables that state more than the file has are refused before FFmpeg reads them."""
    (tmp_path / "clip.mp4").write_bytes(craft(moov_last))

    ran = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY, tmp_path / "clip.mp4"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.startswith("True damaged: its table ")
    assert complaint in ran.stdout


def test_a_padded_file_with_millions_of_frames_is_refused(moov_last: bytes):
    """A file that is as large as its tables state takes no minute of FFmpeg's."""
    many = MOST_FRAMES + 1
    mp4 = edited(moov_last, STBL + b"stsz", lambda _: fields(0, 1, many))
    mp4 = edited(mp4, STBL + b"stsc", lambda _: fields(0, 1, 1, many, 1))
    mp4 = edited(mp4, STBL + b"stts", lambda _: fields(0, 1, many, 1024))
    padding = struct.pack(">I4s", many + 8, b"free") + bytes(many)

    with pytest.raises(
        BrokenClipError, match="stsz states 100,001 frames, 100,000 are"
    ):
        check(mp4 + padding)


@pytest.mark.parametrize(
    ("container_format", "codec", "samples", "layout"),
    [("mp4", "aac", "fltp", "stereo"), ("mov", "pcm_s16le", "s16", "mono")],
)
def test_a_clip_with_sound_is_taken(
    container_format: str, codec: str, samples: str, layout: str
):
    """The tables of sound are right, though raw samples have no entries in them."""
    out = io.BytesIO()
    with av.open(out, "w", format=container_format) as container:
        video = container.add_stream("libx264", rate=16)
        video.width, video.height, video.pix_fmt = 160, 96, "yuv420p"
        sound = container.add_stream(codec, rate=44100, layout=layout)
        for _ in range(8):
            image = Image.new("RGB", (160, 96))
            container.mux(video.encode(av.VideoFrame.from_image(image)))
            frame = av.AudioFrame(format=samples, layout=layout, samples=1024)
            frame.sample_rate = 44100
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            container.mux(sound.encode(frame))
        container.mux(video.encode())
        container.mux(sound.encode())

    assert check(out.getvalue()).frames == 8
