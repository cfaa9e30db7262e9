"""A still that no provider would take is refused before money moves."""

import io
import struct
import zlib

import pytest
from PIL import Image

from storage.stills import LARGEST, BadStillError, look


def encoded(size=(64, 48), kind="JPEG", **options) -> bytes:
    out = io.BytesIO()
    image = Image.new("RGB", size)
    # Left half red, so that a turn shows.
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    image.save(out, kind, **options)
    return out.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(exif=exif)


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims to be this large."""
    png = encoded(kind="PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@pytest.mark.parametrize(
    ("kind", "media_type", "suffix"),
    [("JPEG", "image/jpeg", ".jpg"), ("PNG", "image/png", ".png")],
)
def test_a_good_still_goes_as_it_is(kind: str, media_type: str, suffix: str):
    content = encoded(kind=kind)

    still = look(content, name="cat", min_px=48)

    assert still.content is content
    assert (still.media_type, still.width, still.height) == (media_type, 64, 48)
    assert still.filename.endswith(suffix)
    assert not still.changed


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_still_lying_on_its_side_is_turned(orientation: int):
    still = look(turned(orientation), name="cat.jpg", min_px=1)

    assert still.changed
    upright = Image.open(io.BytesIO(still.content))
    assert upright.size == (still.width, still.height)
    assert upright.size == ((64, 48) if orientation == 3 else (48, 64))
    assert upright.getexif().get(0x0112, 1) == 1
    red = {3: (60, 24), 6: (24, 4), 8: (24, 60)}[orientation]
    assert upright.getpixel(red)[0] > 200


def test_a_still_that_says_it_is_upright_keeps_its_url():
    assert not look(turned(1), name="cat.jpg", min_px=1).changed


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "neither JPEG nor PNG: begins b''"),
        (b"<html>", "neither JPEG nor PNG: begins b'<html>'"),
        (b"GIF89a" + bytes(20), "neither JPEG nor PNG"),
        (encoded()[:-200], "cannot be decoded"),
        (encoded(kind="PNG")[:-40], "cannot be decoded"),
        (b"\xff\xd8\xff" + bytes(100), "cannot be decoded"),
        (encoded() + bytes(LARGEST), f"more than {LARGEST}"),
        (encoded(size=(64, 31)), "64x31, shortest side under 32 px"),
        (claiming(12_000, 6_000), "12000x6000 px is too large"),
        (claiming(60_000, 60_000), "cannot be decoded: .*decompression bomb"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_still_is_named_with_what_is_wrong(content: bytes, complaint: str):
    with pytest.raises(BadStillError, match=complaint) as caught:
        look(content, name="cats/1.jpg", min_px=32)
    assert str(caught.value).startswith("cats/1.jpg: ")


def test_a_phones_jpeg_with_a_second_picture_in_it_is_a_jpeg():
    out = io.BytesIO()
    first, second = Image.new("RGB", (64, 48)), Image.new("RGB", (8, 8))
    first.save(out, "MPO", save_all=True, append_images=[second])

    assert look(out.getvalue(), name="cat.jpg", min_px=1).media_type == "image/jpeg"
