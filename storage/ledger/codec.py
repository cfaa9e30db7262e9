"""Records: the ledger's entries as lines of JSON, and lines as segments.

One line is one entry: the job, the time, the event's kind and its fields. Amounts are
strings, so that no reader makes a float of them. A segment is one zstd frame with a
checksum; segments put one after the other read as one.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, cast, get_args, get_origin

import orjson
import zstandard

from manifests.lifecycle import Entry, Event, Facts, Ticket
from storage.objects.errors import DamagedError, StorageError

KINDS: Final[Mapping[str, type[Any]]] = {
    kind.__name__.lower(): kind for kind in get_args(Event)
}
_NAMES: Final[Mapping[type[Any], str]] = {kind: name for name, kind in KINDS.items()}
_FIELDS: Final[Mapping[type[Any], Mapping[str, Any]]] = {
    kind: {field.name: field.type for field in fields(kind)}
    for kind in (*KINDS.values(), Ticket, Facts)
}
_AT_ONCE: Final = 1 << 16


class _Ours(threading.local):
    """This thread's own: to make them takes longer than to press most segments."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(write_checksum=True)
        self.decompressor = zstandard.ZstdDecompressor()


_OURS: Final = _Ours()


class LedgerError(StorageError):
    """The ledger cannot be read, or written to any more."""


@dataclass(frozen=True, slots=True)
class Open:
    """The first record of a shard's stream: whoever has put it may write what follows."""

    by: str
    """Makes any two of them different bytes."""
    at: float


@dataclass(frozen=True, slots=True)
class Seal:
    """The last record of a stream: nothing is ever written after it."""

    by: int
    """The epoch that set it: its own when it ended well, or a successor's."""
    at: float


Record = Entry | Open | Seal


def pack(records: Iterable[Record]) -> bytes:
    """A segment: one line a record, compressed."""
    return packed(map(dump, records))


def packed(lines: Iterable[bytes]) -> bytes:
    """The same, from its lines."""
    return _OURS.compressor.compress(b"".join(lines))


def unpack(blob: bytes, key: str, *, frames: int | None = None) -> list[Record]:
    """The records of a segment, or of several one after the other.

    Raises:
        DamagedError: it is not what was written.
        LedgerError: it is from a Nightreel with other events.
    """
    return records(plain(blob, key, frames=frames), key)


def records(lines: bytes, key: str) -> list[Record]:
    """The records of these lines.

    Raises:
        LedgerError: they are from a Nightreel with other events.
    """
    numbered = enumerate(lines.splitlines(), 1)
    return [read(line, f"{key} line {n}") for n, line in numbered]


def plain(blob: bytes, key: str, *, frames: int | None = None) -> bytes:
    """The lines of a segment, or of several one after the other: of so many `frames`.

    Raises:
        DamagedError: it is not what was written.
    """
    lines, view, at, count = bytearray(), memoryview(blob), 0, 0
    try:
        while at < len(blob):
            # Frame by frame: a reader across frames takes half of one for its end.
            frame = _OURS.decompressor.decompressobj()
            while not frame.eof:
                some = view[at : at + _AT_ONCE]
                if not some:
                    raise DamagedError(f"{key}: damaged: breaks off after {at} bytes")
                lines += frame.decompress(some)
                at += len(some) - len(frame.unused_data)
            count += 1
    except zstandard.ZstdError as error:
        raise DamagedError(f"{key}: damaged: {error}") from error
    # A file that a full or failing disk cut off between two frames is not the whole part.
    if not count or frames not in {None, count}:
        said = f"{count} segments, not {frames or 'one or more'}"
        raise DamagedError(f"{key}: damaged: it has {said}")
    return bytes(lines)


def dump(record: Record) -> bytes:
    """A record as its line."""
    match record:
        case Entry(job, at, event):
            kind = type(event)
            said = {"job": job, "at": at, "kind": _NAMES[kind]}
            said |= {name: getattr(event, name) for name in _FIELDS[kind]}
        case Open(by, at):
            said = {"kind": "open", "by": by, "at": at}
        case Seal(by, at):
            said = {"kind": "seal", "by": by, "at": at}
    return orjson.dumps(said, default=_plain, option=orjson.OPT_APPEND_NEWLINE)


def load(said: Any, place: str) -> Record:
    """A record from its line's JSON.

    Raises:
        LedgerError: it is not a record, or not one that we know.
    """
    try:
        match said:
            case {"kind": "open", "by": str(by), "at": float() | int() as at}:
                return Open(by, at)
            case {"kind": "seal", "by": int(by), "at": float() | int() as at}:
                return Seal(by, at)
            case {
                "job": str(job),
                "at": float() | int() as at,
                "kind": str(kind),
                **rest,
            }:
                return Entry(job, at, _made(KINDS[kind], rest))
            case _:
                raise LedgerError(f"{place}: not a record: {str(said)[:200]}")
    except (KeyError, TypeError, InvalidOperation) as error:
        raise LedgerError(f"{place}: {error!r} in {str(said)[:200]}") from error


def read(line: bytes | str, place: str) -> Record:
    """A record from its line.

    Raises:
        LedgerError: it is not a record, or not one that we know.
    """
    try:
        return load(orjson.loads(line), place)
    except orjson.JSONDecodeError as error:
        raise LedgerError(f"{place}: {error!r} in {line[:200]!r}") from error


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{value!r} has no JSON")


def _made(kind: type[Any], said: Mapping[str, Any]) -> Any:
    wanted = _FIELDS[kind]
    # A field that we do not know could be the one that says it was paid.
    return kind(**{name: _value(wanted[name], value) for name, value in said.items()})


def _value(wanted: Any, value: Any) -> Any:
    if wanted in (Decimal, Decimal | None) and isinstance(value, str):
        return Decimal(value)
    if wanted in _FIELDS and isinstance(value, dict):
        return _made(wanted, cast("dict[str, Any]", value))
    if wanted == Mapping[str, str]:
        return dict[str, str](value)
    if get_origin(wanted) is Literal:
        if value in get_args(wanted):
            return value
    elif isinstance(value, wanted):
        return value
    raise TypeError(f"{value!r} is not {wanted}")
