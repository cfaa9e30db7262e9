"""Checks stills before any money is spent: no provider refuses a still that passes."""

import hashlib
import io
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageOps

LARGEST: Final = 10_000_000
"""Bytes that every provider takes."""
MOST_PIXELS: Final = 64_000_000
"""More than any model sees; a small file can claim far more."""

_MEDIA_TYPES: Final = {
    b"\xff\xd8\xff": ("image/jpeg", "jpg"),
    b"\x89PNG\r\n\x1a\n": ("image/png", "png"),
}
_ORIENTATION: Final = 0x0112
_TURNED: Final = range(2, 9)
"""The EXIF orientations of a still that is not upright; cameras write others too."""
_PNG_END: Final = b"IEND\xaeB`\x82"

_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
# Decoders disagree on the colours of other modes, and a wrong clip would be paid for.
_ODD_MODES: Final = {
    "CMYK": "CMYK, the colours of print: save it as RGB",
    "I;16": "16-bit grey, which most decoders turn white: save it as 8-bit",
}


class BadStillError(ValueError):
    """No provider would take this still."""


@dataclass(frozen=True, slots=True)
class Still:
    """A still's bytes, checked, with the name and media type to upload them under."""

    content: bytes
    filename: str
    media_type: str
    """`image/jpeg` or `image/png`."""
    width: int
    height: int
    changed: bool = False
    """Whether these are other bytes than were given: their URL is of no use then."""


def look(content: bytes, *, name: str, min_px: int) -> Still:
    """Decode a still, turn it upright, and check it.

    Raises:
        BadStillError: no provider would take it.
    """
    _weigh(content, name)
    media_type, suffix = _kind(content, name)
    with _decoding(name):
        image = Image.open(io.BytesIO(content), formats=["JPEG", "PNG"])
    size = image.size
    _suits(image, name, min_px)
    with _decoding(name):
        turned = _turned(image, content)
    if turned is not None:
        size = turned.size
        content = _encoded(turned, media_type)
        _weigh(content, f"{name}, turned upright")
    return Still(
        content=content,
        filename=f"{hashlib.sha256(content).hexdigest()[:16]}.{suffix}",
        media_type=media_type,
        width=size[0],
        height=size[1],
        changed=turned is not None,
    )


def _weigh(content: bytes, name: str) -> None:
    if len(content) > LARGEST:
        raise BadStillError(f"{name}: {len(content)} bytes, more than {LARGEST}")


def _kind(content: bytes, name: str) -> tuple[str, str]:
    for start, kind in _MEDIA_TYPES.items():
        if content.startswith(start):
            return kind
    # Its bytes are not shown: the file may be no picture but a secret.
    raise BadStillError(f"{name}: neither JPEG nor PNG, by its first bytes")


@contextmanager
def _decoding(name: str) -> Generator[None]:
    try:
        yield
    # Pillow's parsers raise any error; the row's message quotes it.
    except Exception as error:
        raise BadStillError(f"{name}: cannot be decoded: {error}") from error


def _suits(image: Image.Image, name: str, min_px: int) -> None:
    """Check size and colours by the header, before anything is decoded."""
    size = f"{image.width}x{image.height}"
    if image.width * image.height > MOST_PIXELS:
        raise BadStillError(f"{name}: {size} px is too large")
    if min(image.size) < min_px:
        raise BadStillError(f"{name}: {size}, shortest side under {min_px} px")
    if image.mode not in _MODES:
        why = _ODD_MODES.get(
            image.mode, f"{image.mode} colours, which few decoders know"
        )
        raise BadStillError(f"{name}: {why}")


def _turned(image: Image.Image, content: bytes) -> Image.Image | None:
    """The still turned upright; None if it is upright. Reads every byte."""
    if image.format == "PNG":
        # Pillow's decoding stops at the last pixel, and checks no checksums.
        Image.open(io.BytesIO(content), formats=["PNG"]).verify()
        if _PNG_END not in content:
            raise ValueError("it has no end")
    if image.getexif().get(_ORIENTATION) in _TURNED:
        return ImageOps.exif_transpose(image)
    # A JPEG at an eighth of its size is read whole, for two thirds of the time.
    image.draft(image.mode, (1, 1))
    image.load()
    return None


def _encoded(image: Image.Image, media_type: str) -> bytes:
    out = io.BytesIO()
    match media_type:
        case "image/jpeg":
            profile = image.info.get("icc_profile")
            image.save(out, "JPEG", quality=92, icc_profile=profile)
        case _:
            image.save(out, "PNG")
    return out.getvalue()
