"""A still that no provider would accept is refused before anything is bought."""

import io
import random
import struct
import zlib

import pytest
from PIL import Image

from storage.media import BadStillError
from storage.media.stills import LARGEST, look


def encoded(size=(64, 48), kind="JPEG", **options) -> bytes:
    out = io.BytesIO()
    image = Image.new("RGB", size)
    # The left half is red, so that a rotation shows.
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    image.save(out, kind, **options)
    return out.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(exif=exif)


def chunk(kind: bytes, body: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims to be this large."""
    png = encoded(kind="PNG")
    header = struct.pack(">II", width, height) + png[24:29]
    return png[:8] + chunk(b"IHDR", header) + png[33:]


def claiming_jpeg(width: int, height: int) -> bytes:
    jpeg = encoded()
    size = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:size] + struct.pack(">HH", height, width) + jpeg[size + 4 :]


def deep(colour_type: int, channels: int) -> bytes:
    """A PNG of 16 bits a channel, 64x48, which Pillow reads and does not write."""
    rows = (b"\0" + b"\x9c\x40" * channels * 64) * 48
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, colour_type, 0, 0, 0)),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        )
    )


def noisy(kind: str, mode: str = "RGB", **options) -> bytes:
    """A still in which every byte counts."""
    drawn = random.Random(7)
    pixels = bytes(drawn.randrange(256) for _ in range(64 * 48 * len(mode)))
    out = io.BytesIO()
    Image.frombytes(mode, (64, 48), pixels).save(out, kind, **options)
    return out.getvalue()


STILLS = {
    "JPEG": noisy("JPEG"),
    "progressive JPEG": noisy("JPEG", progressive=True),
    "grey JPEG": noisy("JPEG", "L"),
    "full-colour JPEG": noisy("JPEG", subsampling=0, quality=100),
    "JPEG with restarts": noisy("JPEG", restart_marker_blocks=2),
    "PNG": noisy("PNG"),
    "grey PNG": noisy("PNG", "L"),
    "transparent PNG": noisy("PNG", "RGBA"),
    "16-bit PNG": deep(2, 3),
    "16-bit transparent PNG": deep(6, 4),
}


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


@pytest.mark.parametrize("content", STILLS.values(), ids=STILLS)
def test_unambiguous_still_is_accepted(content: bytes):
    """A still that every decoder reads in the same way is accepted unchanged."""
    still = look(content, name="cat", min_px=48)

    assert (still.content, still.width, still.height) == (content, 64, 48)


@pytest.mark.parametrize("content", STILLS.values(), ids=STILLS)
def test_truncated_still_is_refused_at_any_length(content: bytes):
    """A truncated still is refused, at whatever byte it was cut."""
    few = {*range(0, len(content), len(content) // 40)}
    for kept in few | {*range(len(content) - 30, len(content))}:
        with pytest.raises(BadStillError, match=r"neither|cannot be decoded"):
            look(content[:kept], name="cat", min_px=1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_still_on_its_side_that_was_cut_short_is_refused_too(kind: str):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = noisy(kind, exif=exif)

    for kept in (1, len(content) // 2, len(content) - 1):
        with pytest.raises(BadStillError):
            look(content[:kept], name="cat", min_px=1)


def test_no_byte_of_a_png_is_taken_on_trust():
    content = noisy("PNG")

    for place in range(0, len(content), len(content) // 60):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        with pytest.raises(BadStillError):
            look(bytes(damaged), name="cat", min_px=1)


def test_trailing_bytes_are_accepted():
    """Bytes after the end of a still are accepted."""
    for content in (STILLS["JPEG"], STILLS["PNG"]):
        assert not look(content + b"more", name="cat", min_px=1).changed


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_a_png_lying_on_its_side_is_turned_too(orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation

    still = look(noisy("PNG", exif=exif), name="cat.png", min_px=1)

    assert still.changed
    assert (still.width, still.height) == ((64, 48) if orientation < 5 else (48, 64))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_cameras_notes_that_make_no_sense_do_no_harm():
    notes = b"Exif\0\0MM\0*\xff\xff\xff\xff"

    assert not look(encoded(exif=notes), name="cat", min_px=1).changed


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


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_a_still_that_says_it_is_upright_keeps_its_url(orientation: int):
    assert not look(turned(orientation), name="cat.jpg", min_px=1).changed


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "neither JPEG nor PNG"),
        (b"<html>", "neither JPEG nor PNG"),
        (b"GIF89a" + bytes(20), "neither JPEG nor PNG"),
        (encoded()[:-200], "cannot be decoded"),
        (encoded(kind="PNG")[:-40], "cannot be decoded"),
        (b"\xff\xd8\xff" + bytes(100), "cannot be decoded"),
        (encoded() + bytes(LARGEST), f"more than {LARGEST}"),
        (encoded(size=(64, 31)), "64x31, shortest side under 32 px"),
        (noisy("JPEG", "CMYK"), "CMYK, the colours of print: save it as RGB"),
        (deep(0, 1), "16-bit grey, which most decoders turn white"),
        # It was refused for its size before decoding: it has no pixels at all.
        (claiming(12_000, 6_000), "12000x6000 px is too large"),
        (claiming_jpeg(12_000, 6_000), "12000x6000 px is too large"),
        (claiming(60_000, 60_000), "cannot be decoded: .*decompression bomb"),
        (claiming_jpeg(60_000, 60_000), "cannot be decoded: .*decompression bomb"),
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
