"""A still that no provider would accept is refused before anything is bought."""

import io
import random
import struct
import subprocess
import sys
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


def bytes_of(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
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
        with pytest.raises(BadStillError, match=r"first bytes|cannot be decoded"):
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
        (b"", "is not JPEG or PNG or WebP"),
        (b"<html>", "is not JPEG or PNG or WebP"),
        (b"GIF89a" + bytes(20), "by its first bytes"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is HEIC, which is not read here"),
        (noisy("WEBP")[:-200], "cannot be decoded"),
        (noisy("TIFF")[:-200], "cannot be decoded"),
        (bytes_of(Image.new("F", (64, 48)), "TIFF"), "F colours: save it as RGB"),
        (encoded()[:-200], "cannot be decoded"),
        (encoded(kind="PNG")[:-40], "cannot be decoded"),
        (b"\xff\xd8\xff" + bytes(100), "cannot be decoded"),
        (encoded() + bytes(LARGEST), f"more than {LARGEST}"),
        (encoded(size=(64, 31)), "64x31, shortest side under 32 px"),
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


# -- conversion

LOSSLESS = {
    "WebP": (noisy("WEBP", lossless=True), "RGB"),
    "transparent WebP": (noisy("WEBP", "RGBA", lossless=True, exact=True), "RGBA"),
    "TIFF": (noisy("TIFF"), "RGB"),
    "compressed TIFF": (noisy("TIFF", compression="tiff_lzw"), "RGB"),
    "grey TIFF": (noisy("TIFF", "L"), "L"),
    "BMP": (noisy("BMP"), "RGB"),
}


@pytest.mark.parametrize(("content", "mode"), LOSSLESS.values(), ids=LOSSLESS)
def test_other_format_becomes_png_with_the_same_pixels(content: bytes, mode: str):
    """Formats that providers do not take are converted without loss."""
    still = look(content, name="cat", min_px=48)

    assert (still.media_type, still.filename[-4:]) == ("image/png", ".png")
    given, sent = Image.open(io.BytesIO(content)), Image.open(io.BytesIO(still.content))
    assert sent.mode == mode
    assert sent.tobytes() == given.tobytes()
    assert still.changed
    assert len(still.changes) == 1


def test_avif_becomes_png():
    """AVIF is read, and its red half stays on the left."""
    still = look(encoded(kind="AVIF", quality=100), name="cat", min_px=48)

    sent = Image.open(io.BytesIO(still.content)).convert("RGB")
    assert still.media_type == "image/png"
    assert sent.getpixel((4, 24))[0] > 200
    assert sent.getpixel((60, 24))[0] < 50


def test_deep_grey_keeps_its_tones():
    """16-bit grey is scaled to 8 bits; most decoders would turn it white."""
    still = look(deep(0, 1), name="cat", min_px=48)

    sent = Image.open(io.BytesIO(still.content))
    assert (sent.mode, sent.getpixel((5, 5))) == ("L", 0x9C)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_print_colours_become_screen_colours(kind: str):
    """CMYK is converted by us, because decoders disagree on it."""
    cyan = Image.new("CMYK", (64, 48), (255, 0, 0, 0))

    still = look(bytes_of(cyan, kind), name="cat", min_px=48)

    sent = Image.open(io.BytesIO(still.content))
    red, green, blue = sent.getpixel((30, 20))
    assert (sent.mode, red < 40, green > 140, blue > 200) == ("RGB", True, True, True)


def test_converted_still_is_turned_upright_too():
    """The orientation of a WebP from a phone is obeyed, and said."""
    exif = Image.Exif()
    exif[0x0112] = 6

    still = look(encoded(kind="WEBP", exif=exif), name="cat", min_px=48)

    assert (still.width, still.height) == (48, 64)
    assert still.changes[-1] == "turned upright"


def test_conversion_too_large_as_png_becomes_jpeg():
    """A converted still never has more bytes than providers take."""
    noise = Image.effect_noise((3600, 3600), 90)

    still = look(bytes_of(noise, "TIFF"), name="cat", min_px=48)

    assert still.media_type == "image/jpeg"
    assert len(still.content) <= LARGEST


def test_conversion_may_be_switched_off():
    """Without conversion the message names the setting."""
    with pytest.raises(BadStillError, match="convert_stills is off"):
        look(encoded(kind="WEBP"), name="cat", min_px=48, convert=False)


def test_png_with_a_large_colour_profile_goes_as_it_is():
    """Pillow refuses a profile over 1 MiB; the providers take it."""
    png = encoded(kind="PNG")
    profile = b"wide\0\0" + zlib.compress(bytes(3_000_000))
    content = png[:33] + chunk(b"iCCP", profile) + png[33:]

    still = look(content, name="cat", min_px=48)

    assert still.content is content


@pytest.mark.parametrize(("kind", "side"), [("PNG", 4000), ("WEBP", 2800)])
def test_large_stills_are_decoded_a_few_at_a_time(kind: str, side: int):
    """The memory of a batch of large stills is that of a few, not of all at once."""
    large = bytes_of(Image.new("RGB", (side, side)), kind)
    command = (
        "import resource, sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from storage.media.stills import look\n"
        "content = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with ThreadPoolExecutor(24) as pool:\n"
        "    list(pool.map(lambda n: look(content, name='x', min_px=1), range(24)))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", command], input=large, capture_output=True, check=True
    )

    at_once = 16_000_000 * 4 / 1024  # KB
    assert int(ran.stdout) < 7 * at_once
