"""The codec of the write-ahead log: entries as lines of JSON, lines as segments.

One line is one entry: the job, the time, the event's kind and its fields. Amounts are
strings, so that no reader turns one into a float. A segment is one zstd frame with a
checksum; segments put one after the other read as one.

msgspec decodes a block of lines in one call, each into the struct of its kind
(`Line`); a line becomes a `Record` only where its fields are needed.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Union

import msgspec
import zstandard

from manifests.lifecycle import KINDS, Entry, Facts, Ticket
from storage.objects import DamagedError, StorageError

_NAMES: Final[Mapping[type[Any], str]] = {kind: name for name, kind in KINDS.items()}
_FIELDS: Final[Mapping[type[Any], tuple[str, ...]]] = {
    kind: tuple(field.name for field in fields(kind)) for kind in KINDS.values()
}
_AT_ONCE: Final = 1 << 16


class _Ours(threading.local):
    """One pair per thread: making one takes longer than compressing most segments."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(write_checksum=True)
        self.decompressor = zstandard.ZstdDecompressor()


_OURS: Final = _Ours()


class LedgerError(StorageError):
    """The ledger cannot be read, or can no longer be written."""


@dataclass(frozen=True, slots=True)
class Open:
    """The first record of a shard's stream: its creator alone may write what follows."""

    by: str
    """A random token, so that no two of these records have the same bytes."""
    at: float


@dataclass(frozen=True, slots=True)
class Seal:
    """The last record of a stream: nothing is ever written after it."""

    by: int
    """The epoch that set it: the stream's own if it ended normally, or a successor's."""
    at: float


@dataclass(frozen=True, slots=True)
class Repaired:
    """The first record of a segment that a repair put in the place of a lost one."""

    by: str
    """The key of the repair's record."""
    at: float


Record = Entry | Open | Seal | Repaired


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


def records(block: bytes, key: str) -> list[Record]:
    """The records of a block of lines.

    Raises:
        LedgerError: they are from a Nightreel with other events.
    """
    return [record(line, key) for line in lines(block, key)]


def plain(blob: bytes, key: str, *, frames: int | None = None) -> bytes:
    """The lines of a segment, or of several in a row; `frames` is the expected count.

    Raises:
        DamagedError: it is not what was written.
    """
    found, view, at, count = bytearray(), memoryview(blob), 0, 0
    try:
        while at < len(blob):
            # Frame by frame: a reader across frames accepts half a frame as the end.
            frame = _OURS.decompressor.decompressobj()
            while not frame.eof:
                some = view[at : at + _AT_ONCE]
                if not some:
                    raise DamagedError(f"{key}: damaged: breaks off after {at} bytes")
                found += frame.decompress(some)
                at += len(some) - len(frame.unused_data)
            count += 1
    except zstandard.ZstdError as error:
        raise DamagedError(f"{key}: damaged: {error}") from error
    # A full or failing disk may cut a part off exactly between two frames.
    if not count or frames not in {None, count}:
        found_instead = f"{count} segments, not {frames or 'one or more'}"
        raise DamagedError(f"{key}: damaged: it has {found_instead}")
    return bytes(found)


def dump(record: Record) -> bytes:
    """A record as its line, with the line's end."""
    match record:
        case Entry(job, at, event):
            kind = type(event)
            payload: dict[str, Any] = {"job": job, "at": at, "kind": _NAMES[kind]}
            for name in _FIELDS[kind]:
                payload[name] = getattr(event, name)
        case Open(by, at):
            payload = {"kind": "open", "by": by, "at": at}
        case Seal(by, at):
            payload = {"kind": "seal", "by": by, "at": at}
        case Repaired(by, at):
            payload = {"kind": "repaired", "by": by, "at": at}
    return _ENCODER.encode(payload) + b"\n"


def lines(block: bytes, place: str) -> "list[Line]":
    """The decoded lines of a block; errors name `place`.

    Raises:
        LedgerError: a line is not a record, or not one that this version knows.
    """
    try:
        return _DECODER.decode_lines(block)
    except msgspec.MsgspecError:
        numbered = enumerate(block.splitlines(), 1)
        return [_line(line, f"{place} line {number}") for number, line in numbered]


def record(line: "Line", place: str) -> Record:
    """The record that a decoded line stands for.

    Raises:
        LedgerError: an amount in it is not a number.
    """
    try:
        return _MAKERS[type(line)](line)
    except InvalidOperation as error:
        raise LedgerError(f"{place}: {error!r} in {line!r}"[:400]) from error


def load(payload: Any, place: str) -> Record:
    """A record from its line's JSON value.

    Raises:
        LedgerError: it is not a record, or not one that this version knows.
    """
    try:
        line = msgspec.convert(payload, _LINE)
    except msgspec.MsgspecError as error:
        raise LedgerError(f"{place}: {error} in {str(payload)[:200]}") from error
    return record(line, place)


def _line(line: bytes, place: str) -> "Line":
    try:
        return _DECODER.decode(line)
    except msgspec.MsgspecError as error:
        raise LedgerError(f"{place}: {error} in {line[:200]!r}") from error


class Line(msgspec.Struct, gc=False):
    """A decoded line: one struct type for each kind of event.

    Nothing in a line refers back to it, so the garbage collector need not look at it.
    """


class EntryLine(Line, gc=False):
    """An entry: the fields of its event follow in the struct of its kind."""

    job: str
    at: float


class OpenLine(
    Line, tag="open", tag_field="kind", forbid_unknown_fields=True, gc=False
):
    by: str
    at: float


class SealLine(
    Line, tag="seal", tag_field="kind", forbid_unknown_fields=True, gc=False
):
    by: int
    at: float


class RepairedLine(
    Line, tag="repaired", tag_field="kind", forbid_unknown_fields=True, gc=False
):
    by: str
    at: float


def _struct(name: str, kind: type[Any], base: type[msgspec.Struct], **how: Any) -> Any:
    # Unknown fields are refused: one could say that the clip was paid for.
    return msgspec.defstruct(
        name,
        [_field(field) for field in fields(kind)],
        bases=(base,),
        kw_only=True,
        forbid_unknown_fields=True,
        gc=False,
        module=__name__,
        **how,
    )


def _field(field: Field[Any]) -> Any:
    wanted = _WANTED.get(field.type, field.type)
    if field.default is not MISSING:
        return field.name, wanted, field.default
    if field.default_factory is not MISSING:
        return field.name, wanted, msgspec.field(default_factory=dict)
    return field.name, wanted


_WANTED: Final[dict[Any, Any]] = {
    # An amount is a string: a JSON number may have been a float.
    Decimal: str,
    Decimal | None: str | None,
}
_WANTED[Ticket] = _struct("TicketLine", Ticket, msgspec.Struct)
_WANTED[Facts] = _struct("FactsLine", Facts, msgspec.Struct)

LINES: Final[Mapping[type[Any], type[EntryLine]]] = {
    kind: _struct(f"{kind.__name__}Line", kind, EntryLine, tag=name, tag_field="kind")
    for name, kind in KINDS.items()
}
"""The struct of each kind of event."""

_LINE: Final[Any] = Union[(*LINES.values(), OpenLine, SealLine, RepairedLine)]
_DECODER: Final[msgspec.json.Decoder[Line]] = msgspec.json.Decoder(_LINE)
_ENCODER: Final = msgspec.json.Encoder()


def _made(kind: type[Any]) -> Callable[[Any], Any]:
    """A function that makes a value of this dataclass from its struct."""
    names = [field.name for field in fields(kind)]
    makers = {field.name: _maker(field.type) for field in fields(kind)}
    convert = [(name, how) for name, how in makers.items() if how is not None]

    def make(found: Any) -> Any:
        values = {name: getattr(found, name) for name in names}
        for name, how in convert:
            values[name] = how(values[name])
        return kind(**values)

    return make


def _maker(wanted: Any) -> Callable[[Any], Any] | None:
    if wanted in (Decimal, Decimal | None):
        return _amount
    return _made(wanted) if wanted in (Ticket, Facts) else None


def _amount(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _entry(kind: type[Any]) -> Callable[[Any], Entry]:
    make = _made(kind)
    return lambda line: Entry(line.job, line.at, make(line))


_MAKERS: Final[Mapping[type[Any], Callable[[Any], Record]]] = {
    **{line: _entry(kind) for kind, line in LINES.items()},
    OpenLine: lambda line: Open(line.by, line.at),
    SealLine: lambda line: Seal(line.by, line.at),
    RepairedLine: lambda line: Repaired(line.by, line.at),
}
