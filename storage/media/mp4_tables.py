"""Bounds for the tables of an MP4: each entry and each sample needs bytes of the file.

FFmpeg allocates memory for the samples that the tables state. A few bytes can state
billions of them, so `impossible` looks at the tables before FFmpeg does.
"""

import math
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_CONTAINERS: Final = frozenset(
    b"moov trak mdia minf stbl edts dinf udta mvex moof traf clip tref wave".split()
)

_ENTRY_BYTES: Final = {
    b"stts": 8,
    b"ctts": 8,
    b"stsc": 12,
    b"stco": 4,
    b"co64": 8,
    b"stss": 4,
    b"stps": 4,
    b"elst": 12,
}
"""The bytes of an entry, for tables that state their entries after version and flags.
An entry of `elst` has more in version 1."""


MOST_FRAMES: Final = 100_000
"""The most samples of a video track: a quarter of an hour at 110 frames a second. FFmpeg
takes 3.6 s for a million of them, however small they are."""
_SIZES: Final = frozenset((b"stsz", b"stz2", b"trun"))


class _Box(NamedTuple):
    kind: bytes
    body: memoryview


class _Stated(NamedTuple):
    """The statement of one table."""

    entries: int
    bytes_each: int
    body: memoryview
    """The bytes that hold the entries."""
    samples: int = 0
    in_a_chunk: int = 0
    """The most samples that one chunk of the track has."""


def impossible(data: bytes) -> str | None:
    """The reason why the file cannot hold what its tables state; None if it can."""
    samples, handler = 0, b"vide"
    for box in _boxes(memoryview(data)):
        if box.kind == b"hdlr":
            handler = bytes(box.body[8:12])
        if box.kind == b"cmov":
            return "its moov box is compressed, which is not read here"
        if (stated := _stated(box)) is None:
            continue
        name, most = box.kind.decode("latin-1"), f"a file of {len(data):,} bytes"
        if stated.entries * stated.bytes_each > len(stated.body):
            room = f"{len(stated.body):,} bytes"
            return f"its table {name} states {stated.entries:,} entries in {room}"
        if stated.in_a_chunk > len(data):
            return f"its table {name} states {stated.in_a_chunk:,} samples in a chunk of {most}"
        # All tracks and fragments share the bytes of the file.
        samples += stated.samples
        if samples > len(data):
            return f"its table {name} states {samples:,} samples in {most}"
        if handler == b"vide" and box.kind in _SIZES and stated.samples > MOST_FRAMES:
            frames = f"{stated.samples:,} frames, {MOST_FRAMES:,} are read at most"
            return f"its table {name} states {frames}"
    return None


def rotation(data: bytes) -> int:
    """The degrees by which the matrix of the video track turns its frames, clockwise."""
    turned = 0
    for box in _boxes(memoryview(data)):
        if box.kind == b"tkhd":
            turned = _turn(box.body)
        if box.kind == b"hdlr" and bytes(box.body[8:12]) == b"vide":
            return turned
    return 0


def _turn(header: memoryview) -> int:
    try:
        # Version 1 has three fields of 8 bytes in place of 4.
        at = 52 if header[0] == 1 else 40
        across, down = struct.unpack_from(">ii", header, at)
    except (struct.error, IndexError):
        return 0
    return round(math.degrees(math.atan2(down, across)) / 90) * 90 % 360


def _boxes(data: memoryview) -> Iterator[_Box]:
    """Every box outside `mdat`, containers followed by the boxes in them."""
    todo = [data]
    while todo:
        rest = todo.pop()
        if len(rest) < 8:
            continue
        size, kind = struct.unpack_from(">I4s", rest)
        head = 8
        if size == 1 and len(rest) >= 16:
            size, head = struct.unpack_from(">Q", rest, 8)[0], 16
        size = min(size or len(rest), len(rest))
        # FFmpeg ends a container at such a box: some muxers close `udta` with four zeros.
        if size < head:
            continue
        todo.append(rest[size:])
        box = _Box(kind, rest[head:size])
        if kind in _CONTAINERS:
            todo.append(box.body)
        yield box


def _stated(box: _Box) -> _Stated | None:
    """The statement of a table; None for another box, or one too short to state any."""
    try:
        match box.kind:
            case b"stsz":
                return _sizes(box.body)
            case b"stz2":
                bits, entries = struct.unpack_from(">xxxxxxxBI", box.body)
                sizes = box.body[12:]
                # Entries of 4 bits share a byte.
                pairs = -(-entries * bits // 8)
                return _Stated(pairs, 1, sizes, samples=entries)
            case b"trun":
                return _run(box.body)
            case kind if kind in _ENTRY_BYTES:
                return _listed(box)
            case _:
                return None
    except struct.error:
        return None


def _sizes(body: memoryview) -> _Stated:
    each, entries = struct.unpack_from(">4xII", body)
    if each:
        # All samples have this size: the file has their bytes, and the table none.
        return _Stated(entries, 0, body[12:], samples=entries)
    return _Stated(entries, 4, body[12:], samples=entries)


def _run(body: memoryview) -> _Stated:
    flags, entries = struct.unpack_from(">II", body)
    # Each of these flags adds a field of 4 bytes: to the head, or to each sample.
    head = 8 + 4 * (flags & 0x5).bit_count()
    fields = (flags & 0xF00).bit_count()
    return _Stated(entries, 4 * fields, body[head:], samples=entries)


def _listed(box: _Box) -> _Stated:
    (entries,) = struct.unpack_from(">4xI", box.body)
    each, rest = _ENTRY_BYTES[box.kind], box.body[8:]
    if box.kind != b"stsc":
        return _Stated(entries, each, rest)
    whole = rest[: min(entries, len(rest) // each) * each]
    most = max((row[1] for row in struct.iter_unpack(">III", whole)), default=0)
    return _Stated(entries, each, rest, in_a_chunk=most)
