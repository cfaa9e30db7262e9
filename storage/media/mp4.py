"""Checks MP4s: whether a clip is whole and plays; and reads its size, rate and codec."""

import io
import struct
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import av
from av import VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from storage.media.mp4_tables import impossible, rotation

if TYPE_CHECKING:
    Packets = Iterable[Packet[VideoStream]]

_SAMPLES: Final = 2_000
"""Pixels of each frame that are compared with the frame before: 10 ms of CPU for 5 s."""
_NOISE: Final = 0.3
"""Steps of brightness of 255, on average, by which two frames of the same may differ."""


class BrokenClipError(ValueError):
    """The file is not a clip that plays.

    `whole`: all bytes that the file announces are there, so the fault is the provider's
    and another download would bring the same bytes.
    """

    def __init__(self, message: str, *, whole: bool = False) -> None:
        super().__init__(message)
        self.whole = whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The properties of a clip, counted from its packets."""

    seconds: float
    fps: float
    width: int
    height: int
    codec: str
    frames: int
    rotation: int = 0
    repeats: int = 0
    """The frames that show the same as the one before; 0 if none was decoded."""


def check(data: bytes, *, decode: bool = True) -> Probe:
    """Check a clip: its boxes, their tables, its packets and, if `decode`, every frame.

    Only decoding finds bytes that were damaged in place. It takes 70 to 150 ms of CPU
    for 5 s of 480p or 720p, so call this in a thread.

    Raises:
        BrokenClipError: it is cut short, something else than an MP4, or damaged.
    """
    _walk(data)
    if why := impossible(data):
        raise BrokenClipError(f"damaged: {why}", whole=True)
    with _opened(data) as container:
        if not container.streams.video:
            raise BrokenClipError("no video in it", whole=True)
        video = container.streams.video[0]
        packets = [*container.demux(video)]
        probe = _counted(video, packets, rotation(data))
        if decode:
            repeats = _decode(video, packets, probe.frames)
            return replace(probe, repeats=repeats)
    return probe


def _walk(data: bytes) -> None:
    """Follow the boxes to the end of the file: a header alone hides a missing end."""
    kinds: list[bytes] = []
    at = 0
    while at < len(data):
        size, kind = _box(data, at)
        if not kinds and kind not in {b"ftyp", b"moov", b"free", b"skip", b"wide"}:
            raise BrokenClipError(f"not an MP4: it begins with {data[:16]!r}")
        if at + size > len(data):
            missing = at + size - len(data)
            raise BrokenClipError(f"cut short: {missing} bytes of {kind!r} are missing")
        kinds.append(kind)
        at += size
    if b"moov" not in kinds or b"mdat" not in kinds:
        raise BrokenClipError(f"not a whole MP4: {len(data)} bytes, boxes {kinds}")


def _box(data: bytes, at: int) -> tuple[int, bytes]:
    try:
        size, kind = struct.unpack_from(">I4s", data, at)
        if size == 1:
            size = struct.unpack_from(">Q", data, at + 8)[0]
    except struct.error:
        raise BrokenClipError(f"cut short at byte {at}: {data[at:][:16]!r}") from None
    if size == 0:
        return len(data) - at, kind
    if size < 8:
        raise BrokenClipError(f"not an MP4: byte {at} is {data[at:][:16]!r}")
    return size, kind


@contextmanager
def _opened(data: bytes) -> Generator[InputContainer]:
    # An MP4 declares its streams, so FFmpeg need not decode frames to detect them. That is
    # most of the cost of opening (9 ms of CPU against 0.5 at 480p).
    # `options` is the only way to set this in both PyAV 18 and 19. It applies while streams
    # are detected, and not to the decoding below.
    try:
        with av.open(io.BytesIO(data), "r", options={"skip_frame": "all"}) as container:
            yield container
    except FFmpegError as error:
        raise BrokenClipError(f"damaged: {error.strerror}", whole=True) from error


def _counted(video: VideoStream, packets: "Packets", turned: int) -> Probe:
    frames = 0
    for packet in packets:
        if packet.is_corrupt:
            raise BrokenClipError(f"damaged: packet {frames}", whole=True)
        frames += bool(packet.size)
    # A fragmented MP4 announces none.
    if not frames or video.frames not in {0, frames}:
        raise BrokenClipError(f"{frames} of {video.frames} frames", whole=True)
    rate = video.average_rate or video.guessed_rate
    if rate is None or not video.width or not video.height:
        raise BrokenClipError("no frame rate or size", whole=True)
    fps = float(rate)
    # A player stretches pixels that are not square, and turns the frames.
    width = round(video.width * (video.sample_aspect_ratio or 1))
    height = video.height
    if turned in {90, 270}:
        width, height = height, width
    return Probe(
        seconds=round(frames / fps, 3),
        fps=round(fps, 3),
        width=width,
        height=height,
        codec=video.codec_context.name,
        frames=frames,
        rotation=turned,
    )


def _decode(video: VideoStream, packets: "Packets", expected: int) -> int:
    """Decode every frame; returns how many show the same as the one before."""
    # Other clips are checked at the same time: one thread each, not all cores for one.
    video.codec_context.thread_count = 1
    good = dropped = repeats = 0
    before = b""
    for packet in packets:
        # An edit list may trim frames that only serve as references for others.
        dropped += packet.is_discard
        for frame in packet.decode():
            good += not frame.is_corrupt
            seen = _sampled(frame)
            repeats += _are_alike(before, seen)
            before = seen
    if good < expected - dropped:
        raise BrokenClipError(f"damaged: {good} of {expected} frames", whole=True)
    return repeats


def _sampled(frame: VideoFrame) -> bytes:
    """Some of the brightness of a frame, spread over its rows and columns."""
    plane = memoryview(frame.planes[0])
    # An odd step, so that the samples are not all in a few columns.
    step = max(1, len(plane) // _SAMPLES) | 1
    return bytes(plane[::step])


def _are_alike(one: bytes, other: bytes) -> bool:
    """Whether two frames show the same, but for what a codec adds."""
    if len(one) != len(other):
        return False
    apart = sum(abs(a - b) for a, b in zip(one, other, strict=True))
    return apart <= _NOISE * len(one)
