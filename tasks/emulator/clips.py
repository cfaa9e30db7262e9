"""The emulated clips: a camera move over the still, with a badge that says EMULATED."""
# pyright: reportUnknownMemberType=false
# PyAV does not declare the types of its packets and images.

import asyncio
import io
import math
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, cast

import av
import av.filter
from PIL import Image, ImageDraw, ImageFont, ImageOps

from tasks.emulator.uploads import Still

BADGE: Final = "EMULATED"
TITLE: Final = "Emulated clip"
COMMENT: Final = "Emulated: a camera move over the still. No model made this."

MOVES: Final = 16
"""The camera's moves: eight directions, each zooming in or out."""

KEPT: Final = 256
"""The most clips in memory; an older one is made again on request."""

SIZES: Final = {
    "480p": ((832, 480), (624, 624), (480, 832)),
    "720p": ((1280, 720), (960, 960), (720, 1280)),
    "1080p": ((1920, 1080), (1440, 1440), (1080, 1920)),
}
ASPECTS: Final = {"16:9": 16 / 9, "1:1": 1.0, "9:16": 9 / 16}


def clip_size(still: Still, resolution: str, aspect_ratio: str) -> tuple[int, int]:
    """Return width and height, as near as possible to the aspect ratio or to the still's."""
    aspect = ASPECTS.get(aspect_ratio)
    if aspect is None:
        with Image.open(io.BytesIO(still.content)) as image:
            width, height = ImageOps.exif_transpose(image).size
        aspect = width / height
    target = math.log(aspect)
    return min(SIZES[resolution], key=lambda wh: abs(math.log(wh[0] / wh[1]) - target))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFormat:
    """The settings that, with the still, decide a clip's bytes."""

    resolution: str
    aspect_ratio: str
    frames: int
    fps: float
    move: int


def render(still: Still, form: ClipFormat) -> bytes:
    """Return the clip as H.264 in MP4, with the moov first."""
    width, height = clip_size(still, form.resolution, form.aspect_ratio)
    rate = Fraction(form.fps).limit_denominator(1001)
    out = io.BytesIO()
    # movflags=+faststart would reopen the output, which a buffer cannot do. Reserving
    # space for the moov at the front has the same effect.
    with av.open(out, "w", format="mp4", options={"moov_size": "65536"}) as container:
        container.metadata["title"] = TITLE
        container.metadata["comment"] = COMMENT
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "superfast", "crf": "24"}
        stream.codec_context.thread_count = 1
        start = _enlarged(still, width, height)
        for frame in _frames(start, width, height, rate, form):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def _enlarged(still: Still, width: int, height: int) -> av.VideoFrame:
    """Return the upright still at twice the clip's size.

    The camera moves by whole pixels, which would be visible at the clip's own size.
    """
    with Image.open(io.BytesIO(still.content)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return _frame(ImageOps.fit(upright, (width * 2, height * 2)))


def _frame(image: Image.Image) -> av.VideoFrame:
    return cast("av.VideoFrame", av.VideoFrame.from_image(image))


def _badge(height: int) -> av.VideoFrame:
    size = max(16, height // 24)
    font = ImageFont.load_default(size)
    width = round(font.getlength(BADGE)) + size
    plate = Image.new("RGB", (width // 2 * 2, size * 8 // 5 // 2 * 2), "black")
    middle = (plate.width / 2, plate.height / 2)
    ImageDraw.Draw(plate).text(middle, BADGE, "white", font=font, anchor="mm")
    return _frame(plate)


def _frames(
    frame: av.VideoFrame, width: int, height: int, rate: Fraction, form: ClipFormat
) -> Iterator[av.VideoFrame]:
    """Yield the frames of a camera move over the still, with the badge on top."""
    graph = av.filter.Graph()
    inputs = [frame, _badge(min(width, height))]
    sources = [
        graph.add_buffer(
            width=each.width,
            height=each.height,
            format=each.format,
            time_base=1 / rate,
        )
        for each in inputs
    ]
    planar = graph.add("format", "yuv420p")
    camera = graph.add("zoompan", _camera(form, width, height, rate))
    margin = min(width, height) // 32
    marked = graph.add("overlay", f"x={margin}:y={margin}")
    square = graph.add("setsar", "1")
    flat = graph.add("format", "yuv420p")
    sink = graph.add("buffersink")
    sources[0].link_to(planar)
    planar.link_to(camera)
    camera.link_to(marked, 0, 0)
    sources[1].link_to(marked, 0, 1)
    marked.link_to(square)
    square.link_to(flat)
    flat.link_to(sink)
    graph.configure()
    for source, each in zip(sources, inputs, strict=True):
        each.pts, each.time_base = 0, 1 / rate
        source.push(each)
        source.push(None)
    for number in range(form.frames):
        frame_out = sink.pull()
        if not isinstance(frame_out, av.VideoFrame):
            raise TypeError(f"frame {number}: the filters gave {frame_out!r}")
        frame_out.pts, frame_out.time_base = number, 1 / rate
        yield frame_out


def _camera(form: ClipFormat, width: int, height: int, rate: Fraction) -> str:
    """Return the filter that zooms by a quarter and moves in one of eight directions."""
    angle = math.tau * (form.move // 2) / (MOVES // 2)
    done = f"on/{max(1, form.frames - 1)}"
    zoom = f"1.25-0.25*{done}" if form.move % 2 else f"1+0.25*{done}"
    across = f"0.5+{0.5 * math.cos(angle):.4f}*{done}"
    down = f"0.5+{0.5 * math.sin(angle):.4f}*{done}"
    return (
        f"z='{zoom}':x='(iw-iw/zoom)*({across})':y='(ih-ih/zoom)*({down})'"
        f":d={form.frames}:s={width}x{height}:fps={rate}"
    )


class Clips:
    """Makes each clip once, in a thread, and keeps the latest ones."""

    def __init__(self, clip: bytes | None = None) -> None:
        self._same = clip
        """The clip that every job gets instead, if there is one."""
        self._made: OrderedDict[tuple[str, ClipFormat], Future[bytes]] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None

    async def clip(self, still: Still, form: ClipFormat) -> bytes:
        if self._same is not None:
            return self._same
        key = still.sha256, form
        if key not in self._made:
            self._made[key] = self._pool().submit(render, still, form)
        self._made.move_to_end(key)
        made = self._made[key]
        if len(self._made) > KEPT:
            self._made.popitem(last=False)
        return await asyncio.wrap_future(made)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(2, "emulator-clips")
        return self._threads
