"""Posters: a few frames of a clip as a small animated WebP, for the contact sheet.

posters/ab/abcd….webp    beside clips/, and only of some clips: nothing depends on them
"""
# pyright: reportUnknownMemberType=false
# PyAV's type stubs do not give the type of a frame's image.

import io
from collections.abc import Sequence
from typing import Final, cast

import av
from av.container import InputContainer
from PIL import Image

from storage import layout
from storage.objects import ExistsError, Objects

EDGE: Final = 160
"""Pixels of the longer edge."""

FRAMES: Final = 12

LOOP_MS: Final = 2400
"""The length of the animation, whatever the length of the clip."""

MOST: Final = 24_000
"""Bytes that a poster should have: 45 of them are shown on one page of 1.5 MB."""

_TRIES: Final = ((50, 1), (30, 1), (20, 2), (5, 3))
"""Quality and frame step of each try, until the poster is small enough."""


class Posters:
    """The posters below a root."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def keep(self, job_id: str, webp: bytes) -> None:
        """Keep the poster of a job's clip, unless it has one.

        Raises:
            StorageError: the store is out of reach.
        """
        try:
            await self._objects.create(layout.poster(job_id), webp)
        except ExistsError:
            return


def poster(mp4: bytes) -> bytes:
    """An animated WebP of a clip that plays.

    It takes 100 to 260 ms of CPU for 5 s of 480p or 720p (PyAV 18.1, Pillow 13), as long
    as checking the clip does: call it in a thread, and not for each of a hundred thousand.
    """
    with av.open(io.BytesIO(mp4), "r") as container:
        frames = _frames(container)
    tries = (_encoded(frames[::every], quality) for quality, every in _TRIES)
    small = (webp for webp in tries if len(webp) <= MOST)
    return next(small, None) or _encoded(frames[:1], 1)


def _frames(container: InputContainer) -> list[Image.Image]:
    """`FRAMES` small frames, spread evenly over the clip."""
    video = container.streams.video[0]
    video.codec_context.thread_count = 1
    # A fragmented MP4 announces no frame count: then its first frames are used.
    last = max(video.frames, FRAMES) - 1
    wanted = {round(n * last / (FRAMES - 1)) for n in range(FRAMES)}
    scale = EDGE / max(video.width, video.height)
    width, height = (max(2, round(x * scale)) for x in (video.width, video.height))
    return [
        cast(
            "Image.Image",
            frame.reformat(width, height, "rgb24", interpolation="AREA").to_image(),
        )
        for number, frame in enumerate(container.decode(video))
        if number in wanted
    ]


def _encoded(frames: Sequence[Image.Image], quality: int) -> bytes:
    out = io.BytesIO()
    first, *rest = frames
    first.save(
        out,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=LOOP_MS // len(frames),
        loop=0,
        quality=quality,
        method=2,
    )
    return out.getvalue()
