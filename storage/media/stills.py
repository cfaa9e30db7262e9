"""Checks stills before any money is spent: no provider refuses a still that passes.

A still goes as it is if every provider takes it. Otherwise it is turned upright, or
converted to PNG or JPEG (see `still_formats`).
"""

import hashlib
import io
import struct
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Condition, Semaphore
from typing import Final

from PIL import Image, ImageOps

from storage.media.still_formats import (
    PLAIN,
    SENT,
    UnknownFormatError,
    encoded,
    fitted,
    format_of,
    plain,
)

LARGEST: Final = 10_000_000
"""Bytes that every provider takes."""
LARGEST_READ: Final = 64_000_000
"""Bytes of a still that is converted, such as an uncompressed TIFF."""
MOST_PIXELS: Final = 64_000_000
"""More than any model sees; a small file can claim far more."""

LARGE: Final = Semaphore(2)
"""Held while a still of more than LARGEST bytes is read and converted: each is in memory
twice while it is read."""

_MANY_PIXELS: Final = 2_000_000
_FEW_THREADS: Final = ThreadPoolExecutor(4, "large-still")
"""Decode stills of many pixels: glibc keeps freed memory for each thread, so as many threads
as stills would take gigabytes, even one after the other."""

_PIXELS_AT_ONCE: Final = 16_000_000
"""Pixels being decoded and encoded at once: a conversion takes up to 15 bytes for each."""

_ORIENTATION: Final = 0x0112
_TURNED: Final = range(2, 9)
"""The EXIF orientations of a still that is not upright; cameras write others too."""
_PNG_END: Final = b"IEND\xaeB`\x82"


class BadStillError(ValueError):
    """No provider would take this still."""


class _Room:
    """Room for a number of pixels; a still with more waits until it is alone."""

    def __init__(self, pixels: int) -> None:
        self._free = self._all = pixels
        self._changed = Condition()

    @contextmanager
    def of(self, pixels: int) -> Generator[None]:
        taken = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken
        try:
            yield
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()


_ROOM: Final = _Room(_PIXELS_AT_ONCE)


@dataclass(frozen=True, slots=True)
class Still:
    """A still's bytes, checked, with the name and media type to upload them under."""

    content: bytes
    filename: str
    media_type: str
    """`image/jpeg` or `image/png`."""
    width: int
    height: int
    changes: tuple[str, ...] = ()
    """The changes to the bytes that were given, such as `turned upright`."""

    @property
    def changed(self) -> bool:
        """Whether these are other bytes than were given: their URL is of no use then."""
        return bool(self.changes)


def look(content: bytes, *, name: str, min_px: int, convert: bool = True) -> Still:
    """Decode a still, turn it upright, and check it.

    A still that providers do not take is converted, or refused if `convert` is false.

    Raises:
        BadStillError: no provider would take it.
    """
    try:
        kind = format_of(content)
    except UnknownFormatError as error:
        raise BadStillError(f"{name}: {error}") from None
    if kind in SENT:
        _weigh(content, name)
    with _decoding(name):
        image = _opened(content, kind)
    _suits(image, name, min_px)
    pixels = image.width * image.height
    check = partial(_checked, image, content, kind, name, convert=convert)
    with _ROOM.of(pixels):
        if pixels > _MANY_PIXELS:
            return _FEW_THREADS.submit(check).result()
        return check()


def _checked(
    image: Image.Image, content: bytes, kind: str, name: str, *, convert: bool
) -> Still:
    if kind in SENT and image.mode in PLAIN:
        return _as_it_is(image, content, kind, name)
    if not convert:
        what = kind if kind not in SENT else f"{kind} in {image.mode} colours"
        raise BadStillError(f"{name}: {what}, and [manifest] convert_stills is off")
    return _converted(image, content, kind, name)


def _as_it_is(image: Image.Image, content: bytes, kind: str, name: str) -> Still:
    size = image.size
    with _decoding(name):
        turned = _turned(image, content)
    if turned is None:
        return _still(content, kind, size, ())
    content = encoded(turned, kind)
    _weigh(content, f"{name}, turned upright")
    return _still(content, kind, turned.size, ("turned upright",))


def _converted(image: Image.Image, content: bytes, kind: str, name: str) -> Still:
    mode = image.mode
    with _decoding(name):
        if kind == "PNG":
            _verify(content)
        image.load()
        upright = plain(ImageOps.exif_transpose(image))
        sent, sent_kind = fitted(upright, LARGEST)
    _weigh(sent, f"{name}, converted to {sent_kind}")
    changes = [f"converted from {kind} ({mode}) to {sent_kind} ({upright.mode})"]
    if image.getexif().get(_ORIENTATION) in _TURNED:
        changes.append("turned upright")
    return _still(sent, sent_kind, upright.size, tuple(changes))


def _still(
    content: bytes, kind: str, size: tuple[int, int], changes: tuple[str, ...]
) -> Still:
    media_type, suffix = SENT[kind]
    return Still(
        content=content,
        filename=f"{hashlib.sha256(content).hexdigest()[:16]}.{suffix}",
        media_type=media_type,
        width=size[0],
        height=size[1],
        changes=changes,
    )


def _weigh(content: bytes, name: str) -> None:
    if len(content) > LARGEST:
        raise BadStillError(f"{name}: {len(content)} bytes, more than {LARGEST}")


@contextmanager
def _decoding(name: str) -> Generator[None]:
    try:
        yield
    # Pillow's parsers raise any error; the row's message quotes it.
    except Exception as error:
        raise BadStillError(f"{name}: cannot be decoded: {error}") from error


def _opened(content: bytes, kind: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=[kind.upper()])
    except ValueError:
        # Pillow refuses a PNG whose colour profile is over 1 MiB; providers take it.
        if kind != "PNG" or (bare := _without_profile(content)) == content:
            raise
        return Image.open(io.BytesIO(bare), formats=["PNG"])


def _without_profile(png: bytes) -> bytes:
    kept, at = [png[:8]], 8
    while at + 12 <= len(png):
        length, name = struct.unpack_from(">I4s", png, at)
        if name != b"iCCP":
            kept.append(png[at : at + 12 + length])
        at += 12 + length
    return b"".join([*kept, png[at:]])


def _suits(image: Image.Image, name: str, min_px: int) -> None:
    """Check the size by the header, before anything is decoded."""
    size = f"{image.width}x{image.height}"
    if image.width * image.height > MOST_PIXELS:
        raise BadStillError(f"{name}: {size} px is too large")
    if min(image.size) < min_px:
        raise BadStillError(f"{name}: {size}, shortest side under {min_px} px")


def _verify(png: bytes) -> None:
    # Pillow's decoding stops at the last pixel, and checks no checksums.
    _opened(png, "PNG").verify()
    if _PNG_END not in png:
        raise ValueError("it has no end")


def _turned(image: Image.Image, content: bytes) -> Image.Image | None:
    """The still turned upright; None if it is upright. Reads every byte."""
    if image.format == "PNG":
        _verify(content)
    if image.getexif().get(_ORIENTATION) in _TURNED:
        return ImageOps.exif_transpose(image)
    # A JPEG at an eighth of its size is read whole, for two thirds of the time.
    image.draft(image.mode, (1, 1))
    image.load()
    return None
