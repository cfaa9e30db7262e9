"""Formats of stills that providers do not take, converted to PNG or JPEG.

A conversion keeps every pixel if the result is small enough as a PNG. Otherwise it is the
best JPEG that is. CMYK is converted with the still's own colour profile if it has one.
"""

import io
from typing import Any, Final

from PIL import Image, ImageCms

SENT: Final = {"JPEG": ("image/jpeg", "jpg"), "PNG": ("image/png", "png")}
"""The formats that every provider takes, with media type and suffix."""
READ: Final = ("JPEG", "PNG", "WebP", "AVIF", "TIFF", "BMP")
"""The formats that are read."""
PLAIN: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
"""Pillow's modes that all decoders show alike."""

_STARTS: Final = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
}
_HEIC: Final = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"})
_DEEP_GREY: Final = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_TRANSPARENT: Final = frozenset({"LA", "RGBA", "PA", "La", "RGBa"})
_QUALITIES: Final = (95, 85, 70)
_AS_RGB: Final = frozenset({"RGBX", "YCbCr", "HSV"})


class UnknownFormatError(ValueError):
    """The bytes are in no format that is read here."""


def format_of(content: bytes) -> str:
    """The format by the first bytes, one of `READ`.

    Raises:
        UnknownFormatError: it is none of them.
    """
    for start, name in _STARTS.items():
        if content.startswith(start):
            return name
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WebP"
    if content[4:8] == b"ftyp":
        length = int.from_bytes(content[:4], "big")
        brands = {content[at : at + 4] for at in range(8, min(length, 256), 4)}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIC:
            raise UnknownFormatError("is HEIC, which is not read here: save it as JPEG")
    # The bytes are not shown: the file may be no picture but a secret.
    raise UnknownFormatError(f"is not {' or '.join(READ)}, by its first bytes")


def plain(image: Image.Image) -> Image.Image:
    """The decoded image in one of the modes `PLAIN`.

    Raises:
        ValueError: its colours cannot be converted without a guess.
    """
    if image.mode in PLAIN:
        return image
    if image.mode in _DEEP_GREY:
        # `convert` would cut off everything above 255.
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode == "CMYK":
        return _from_print(image)
    if image.mode in _TRANSPARENT:
        return image.convert("RGBA")
    if image.mode in _AS_RGB:
        return image.convert("RGB")
    raise ValueError(f"{image.mode} colours: save it as RGB with 8 bits a channel")


def _from_print(image: Image.Image) -> Image.Image:
    if not (profile := image.info.get("icc_profile")):
        return image.convert("RGB")
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    cms: Any = ImageCms  # partly without types
    screen = cms.createProfile("sRGB")
    converted = cms.profileToProfile(image, own, screen, outputMode="RGB")
    if converted is None:
        raise ValueError("CMYK with a colour profile that cannot be used")
    converted.info.pop("icc_profile", None)
    return converted


def encoded(image: Image.Image, name: str, quality: int = 95) -> bytes:
    """The image as PNG or JPEG, with its colour profile."""
    out = io.BytesIO()
    profile = image.info.get("icc_profile")
    if name == "JPEG":
        flat = image.convert("RGB") if image.mode == "P" else image
        flat.save(out, "JPEG", quality=quality, icc_profile=profile)
    else:
        image.save(out, "PNG", icc_profile=profile)
    return out.getvalue()


def fitted(image: Image.Image, limit: int) -> tuple[bytes, str]:
    """The image as PNG or JPEG of at most `limit` bytes, as good as possible.

    It has more bytes if there is no such encoding.
    """
    content, name = encoded(image, "PNG"), "PNG"
    opaque = image.mode not in _TRANSPARENT and "transparency" not in image.info
    if opaque:
        for quality in _QUALITIES:
            if len(content) <= limit:
                break
            content, name = encoded(image, "JPEG", quality), "JPEG"
    return content, name
