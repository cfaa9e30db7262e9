"""The emulated clips: a camera move over the still, and a badge that says what it is."""
# pyright: reportUnknownMemberType=false
# PyAV's own types leave what its packets and images are unsaid.

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
"""Directions of the camera, each of them both inwards and outwards."""

KEPT: Final = 256
"""Clips kept ready; an older one is made again when somebody asks."""

SIZES: Final = {
    "480p": ((832, 480), (624, 624), (480, 832)),
    "720p": ((1280, 720), (960, 960), (720, 1280)),
    "1080p": ((1920, 1080), (1440, 1440), (1080, 1920)),
}
ASPECTS: Final = {"16:9": 16 / 9, "1:1": 1.0, "9:16": 9 / 16}


def clip_size(still: Still, resolution: str, aspect_ratio: str) -> tuple[int, int]:
    """The clip's width and height: the nearest to the aspect wanted, or to the still's."""
    aspect = ASPECTS.get(aspect_ratio)
    if aspect is None:
        with Image.open(io.BytesIO(still.content)) as image:
            width, height = ImageOps.exif_transpose(image).size
        aspect = width / height
    wanted = math.log(aspect)
    return min(SIZES[resolution], key=lambda wh: abs(math.log(wh[0] / wh[1]) - wanted))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What decides a clip's bytes, with the still."""

    resolution: str
    aspect_ratio: str
    frames: int
    fps: float
    move: int


def render(still: Still, cut: Cut) -> bytes:
    """The clip: H.264 in MP4, moov first."""
    width, height = clip_size(still, cut.resolution, cut.aspect_ratio)
    rate = Fraction(cut.fps).limit_denominator(1001)
    out = io.BytesIO()
    # The muxer cannot reopen a buffer to move the moov forward afterwards, as
    # movflags=+faststart would; room kept for it in front does as well.
    with av.open(out, "w", format="mp4", options={"moov_size": "65536"}) as container:
        container.metadata["title"] = TITLE
        container.metadata["comment"] = COMMENT
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "superfast", "crf": "24"}
        stream.codec_context.thread_count = 1
        start = _opened(still, width, height)
        for frame in _film(start, width, height, rate, cut):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def _opened(still: Still, width: int, height: int) -> av.VideoFrame:
    """The still the right way up, at twice the clip's size.

    The camera moves by whole pixels of it, so at the clip's own size it would tremble.
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


def _film(
    frame: av.VideoFrame, width: int, height: int, rate: Fraction, cut: Cut
) -> Iterator[av.VideoFrame]:
    """A camera move over the still with the badge on top."""
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
    camera = graph.add("zoompan", _camera(cut, width, height, rate))
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
    for number in range(cut.frames):
        filmed = sink.pull()
        if not isinstance(filmed, av.VideoFrame):
            raise TypeError(f"frame {number}: the filters gave {filmed!r}")
        filmed.pts, filmed.time_base = number, 1 / rate
        yield filmed


def _camera(cut: Cut, width: int, height: int, rate: Fraction) -> str:
    """Zoom in or out by a quarter while drifting in one of eight directions."""
    angle = math.tau * (cut.move // 2) / (MOVES // 2)
    done = f"on/{max(1, cut.frames - 1)}"
    zoom = f"1.25-0.25*{done}" if cut.move % 2 else f"1+0.25*{done}"
    across = f"0.5+{0.5 * math.cos(angle):.4f}*{done}"
    down = f"0.5+{0.5 * math.sin(angle):.4f}*{done}"
    return (
        f"z='{zoom}':x='(iw-iw/zoom)*({across})':y='(ih-ih/zoom)*({down})'"
        f":d={cut.frames}:s={width}x{height}:fps={rate}"
    )


class Clips:
    """Makes each clip once, away from the event loop, and keeps the latest."""

    def __init__(self, clip: bytes | None = None) -> None:
        self._same = clip
        """What every job gets instead, if it is given."""
        self._made: OrderedDict[tuple[str, Cut], Future[bytes]] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None

    async def film(self, still: Still, cut: Cut) -> bytes:
        if self._same is not None:
            return self._same
        key = still.sha256, cut
        if key not in self._made:
            self._made[key] = self._pool().submit(render, still, cut)
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
