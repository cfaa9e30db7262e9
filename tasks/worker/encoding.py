"""Encodes H.264 in a separate process: raw RGB on stdin, a complete MP4 file at the end.

The process runs this file as a script, once for each clip, so that encoding takes no time
from the process of the GPU.
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from av import VideoFrame

    from tasks.worker.model_protocol import Frames

log = logging.getLogger(__name__)

SOFTWARE: Final = "libx264"
HARDWARE: Final = "h264_nvenc"
"""Followed by `:` and the card's number; without it each worker would use the first card."""

# One thread: with more, the bytes depend on their number. A clip of 81 frames takes 1.4 to
# 3.7 CPU-seconds, while the next one takes eight seconds or more on the GPU.
_OPTIONS: Final = {
    SOFTWARE: {"crf": "18", "preset": "medium"},
    HARDWARE: {"preset": "p5", "rc": "constqp", "qp": "19"},
}
_BT709: Final = 1
_LIMITED: Final = 1


class EncodingError(Exception):
    """The encoder made no MP4."""


def encode(frames: "Frames", fps: int, codec: str, to: Path) -> None:
    """Write an MP4 and sync it; the file `to` is complete or does not exist.

    Raises:
        EncodingError: the encoder made no MP4.
    """
    try:
        _encoded(frames, fps, codec, to)
    except EncodingError as exc:
        # A card has a limited number of sessions, and the model needs its memory, too.
        if codec == SOFTWARE:
            raise
        log.warning(
            "encoder.fell_back codec=%s the clip is encoded in software: %s", codec, exc
        )
        _encoded(frames, fps, SOFTWARE, to)


def _encoded(frames: "Frames", fps: int, codec: str, to: Path) -> None:
    part = to.with_name(f"{to.name}.part")
    shape = frames.shape
    words = [shape.width, shape.height, fps, codec, part]
    # -P keeps this folder off the module search path.
    child = subprocess.run(  # noqa: S603 - this very file
        [sys.executable, "-P", __file__, *map(str, words)],
        input=frames.rgb,
        capture_output=True,
        check=False,
    )
    if child.returncode:
        [*_, last_line] = ["", *child.stderr.decode(errors="replace").splitlines()]
        raise EncodingError(f"the encoder ended with {child.returncode}: {last_line}")
    part.replace(to)
    _sync(to.parent)


def best(device: str) -> str:
    """The card's encoder if a session opens; H100s and similar cards have no encoder."""
    kind, _, place = device.partition(":")
    if kind != "cuda":
        return SOFTWARE
    hardware = f"{HARDWARE}:{place or 0}"
    with tempfile.TemporaryDirectory() as folder:
        words = ["256", "256", "16", hardware, str(Path(folder) / "probe.mp4")]
        child = subprocess.run(  # noqa: S603 - this very file
            [sys.executable, "-P", __file__, *words],
            input=bytes(256 * 256 * 3),
            capture_output=True,
            check=False,
        )
    return SOFTWARE if child.returncode else hardware


def main() -> None:
    """The child process: reads frames as they come, and fails if the last one is short."""
    import av  # noqa: PLC0415 - the parent needs none of it

    width, height, fps = map(int, sys.argv[1:4])
    codec, path = sys.argv[4:]
    name, _, card = codec.partition(":")
    options = _OPTIONS[name] | ({"gpu": card} if card else {})
    # PyAV's types do not say which stream a packet belongs to.
    opened: Any = av.open(path, "w", format="mp4", options={"movflags": "+faststart"})
    with opened as mp4:
        video = mp4.add_stream(name, rate=fps, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        context = video.codec_context
        context.thread_count = 1
        # Set explicitly, because players guess: 601 for small frames, 709 for large ones.
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        for frame in _frames(width, height):
            mp4.mux(video.encode(frame))
        mp4.mux(video.encode(None))
    _sync(Path(path))


def _frames(width: int, height: int) -> "Generator[VideoFrame]":
    import numpy as np  # noqa: PLC0415
    from av import VideoFrame  # noqa: PLC0415
    from av.video.reformatter import ColorRange, Colorspace  # noqa: PLC0415

    a_frame = width * height * 3
    while rgb := sys.stdin.buffer.read(a_frame):
        if len(rgb) < a_frame:
            raise SystemExit("cut short: who sent the frames is gone")
        pixels = np.frombuffer(rgb, np.uint8).reshape(height, width, 3)
        yield VideoFrame.from_ndarray(pixels, "rgb24").reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


if __name__ == "__main__":
    main()
