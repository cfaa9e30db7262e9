"""Turns a video in another container than MP4, such as WebM, into an MP4.

The container is chosen by its first bytes and named to FFmpeg, because some formats that
FFmpeg would find by itself (playlists) make it open other files and addresses.
"""

# pyright: reportUnknownMemberType=false
# PyAV does not declare the types of its packets.

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError

from storage.media.mp4 import BrokenClipError, check

_MAGIC: Final = {
    b"\x1aE\xdf\xa3": "matroska",
    b"GIF8": "gif",
    b"FLV": "flv",
    b"OggS": "ogg",
}
_COPIED: Final = frozenset({"h264", "hevc", "vp9", "av1"})
"""Codecs whose packets an MP4 holds as they are; the others are encoded again."""
_MOST_PIXELS: Final = 4096 * 4096
_MOST_FRAMES: Final = 100_000
LONGEST_S: Final = 300.0
"""The longest that decoding and encoding may take: a small file may hold hours of video."""
_FEWEST_FRAMES: Final = 2
"""A single frame is a picture."""
_RATE: Final = Fraction(16)
"""The frame rate if the file states none."""


@dataclass(frozen=True, slots=True)
class Converted:
    """The MP4, and the container that its video was in."""

    mp4: bytes
    container: str


def to_mp4(
    data: bytes, *, now: Callable[[], float] = time.monotonic
) -> Converted | None:
    """Return the video as an MP4; None if the file is no other video that plays to its end.

    None, too, if it takes more than `LONGEST_S` seconds by the clock `now`. Takes the CPU time of decoding, and of encoding for some codecs: call it in a thread.
    """
    container = _container(data)
    if container is None:
        return None
    ends_at = now() + LONGEST_S

    def check_time() -> None:
        if now() > ends_at:
            raise BrokenClipError(f"not converted in {LONGEST_S:.0f} s")

    try:
        copied = _decoded(data, container, check_time) in _COPIED
        if not (copied and (mp4 := _checked(_copied, data, container, check_time))):
            mp4 = _checked(_encoded, data, container, check_time)
    except (FFmpegError, BrokenClipError, ValueError, IndexError):
        return None
    return Converted(mp4, container) if mp4 else None


def _checked(
    convert: Callable[[bytes, str, Callable[[], None]], bytes],
    data: bytes,
    container: str,
    check_time: Callable[[], None],
) -> bytes | None:
    try:
        mp4 = convert(data, container, check_time)
        check(mp4)
    except (FFmpegError, BrokenClipError, ValueError):
        return None
    return mp4


def _container(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "avi"
    if len(data) > 188 and data[0] == data[188] == 0x47:
        return "mpegts"
    return next((name for head, name in _MAGIC.items() if data.startswith(head)), None)


def _opened(data: bytes, container: str) -> InputContainer:
    return av.open(io.BytesIO(data), "r", format=container)


def _decoded(data: bytes, container: str, check_time: Callable[[], None]) -> str:
    """Decode every frame; return the codec.

    Raises:
        FFmpegError, BrokenClipError: a frame is damaged, there are too few or many, or it
            takes too long.
    """
    with _opened(data, container) as source:
        video = source.streams.video[0]
        if not 0 < video.width * video.height <= _MOST_PIXELS:
            raise BrokenClipError(f"{video.width} x {video.height} pixels")
        video.codec_context.thread_count = 1
        frames = 0
        for frame in source.decode(video):
            check_time()
            frames += 1
            if frame.is_corrupt or frames > _MOST_FRAMES:
                raise BrokenClipError(f"damaged or endless: frame {frames}")
        if frames < _FEWEST_FRAMES:
            raise BrokenClipError(f"{frames} frames")
        return video.codec_context.name


def _written(out: io.BytesIO) -> OutputContainer:
    return av.open(out, "w", format="mp4", options={"moov_size": "65536"})


def _copied(data: bytes, container: str, check_time: Callable[[], None]) -> bytes:
    out = io.BytesIO()
    with _opened(data, container) as source, _written(out) as target:
        video = source.streams.video[0]
        stream = target.add_stream_from_template(video)
        for packet in source.demux(video):
            check_time()
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return out.getvalue()


def _encoded(data: bytes, container: str, check_time: Callable[[], None]) -> bytes:
    out = io.BytesIO()
    with _opened(data, container) as source, _written(out) as target:
        video = source.streams.video[0]
        rate = video.average_rate or video.guessed_rate or _RATE
        stream = target.add_stream("libx264", rate=rate)
        # H.264 has even sizes only.
        stream.width, stream.height = video.width // 2 * 2, video.height // 2 * 2
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "16"}
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(source.decode(video)):
            check_time()
            resized = frame.reformat(stream.width, stream.height, "yuv420p")
            resized.pts, resized.time_base = number, 1 / rate
            target.mux(stream.encode(resized))
        target.mux(stream.encode(None))
    return out.getvalue()
