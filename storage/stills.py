"""Stills, looked at before any money moves: no provider refuses what passes here."""

import hashlib
import io
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
_UPRIGHT: Final = {None, 1}
_ORIENTATION: Final = 0x0112


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
    """Decode a still, turn it upright, and see whether it will do.

    Raises:
        BadStillError: it will not.
    """
    _weigh(content, name)
    media_type, suffix = _kind(content, name)
    image = _decoded(content, name)
    changed = image.getexif().get(_ORIENTATION) not in _UPRIGHT
    if changed:
        image = ImageOps.exif_transpose(image)
        content = _encoded(image, media_type)
        _weigh(content, f"{name}, turned upright")
    if min(image.size) < min_px:
        size = f"{image.width}x{image.height}"
        raise BadStillError(f"{name}: {size}, shortest side under {min_px} px")
    return Still(
        content=content,
        filename=f"{hashlib.sha256(content).hexdigest()[:16]}.{suffix}",
        media_type=media_type,
        width=image.width,
        height=image.height,
        changed=changed,
    )


def _weigh(content: bytes, name: str) -> None:
    if len(content) > LARGEST:
        raise BadStillError(f"{name}: {len(content)} bytes, more than {LARGEST}")


def _kind(content: bytes, name: str) -> tuple[str, str]:
    for start, kind in _MEDIA_TYPES.items():
        if content.startswith(start):
            return kind
    raise BadStillError(f"{name}: neither JPEG nor PNG: begins {content[:16]!r}")


def _decoded(content: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=["JPEG", "PNG"])
        if image.width * image.height <= MOST_PIXELS:
            image.load()
    # Pillow raises whatever its parsers trip over; the row's complaint says so.
    except Exception as error:
        raise BadStillError(f"{name}: cannot be decoded: {error}") from error
    if image.width * image.height > MOST_PIXELS:
        raise BadStillError(f"{name}: {image.width}x{image.height} px is too large")
    return image


def _encoded(image: Image.Image, media_type: str) -> bytes:
    out = io.BytesIO()
    match media_type:
        case "image/jpeg":
            profile = image.info.get("icc_profile")
            image.save(out, "JPEG", quality=92, icc_profile=profile)
        case _:
            image.save(out, "PNG")
    return out.getvalue()
