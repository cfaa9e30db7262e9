"""Records: the ledger's entries as lines of JSON, and lines as segments.

One line is one entry: the job, the time, the event's kind and its fields. Amounts are
strings, so that no reader makes a float of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, cast, get_args, get_origin

import orjson
import zstandard

from manifests.lifecycle import Entry, Event, Facts, Ticket
from storage.errors import StorageError

KINDS: Final[Mapping[str, type[Any]]] = {
    kind.__name__.lower(): kind for kind in get_args(Event)
}
_FIELDS: Final[Mapping[type[Any], Mapping[str, Any]]] = {
    kind: {field.name: field.type for field in fields(kind)}
    for kind in (*KINDS.values(), Ticket, Facts)
}


class LedgerError(StorageError):
    """The ledger cannot be read, or written to any more."""


@dataclass(frozen=True, slots=True)
class Seal:
    """The last record of an epoch: nothing is ever written after it."""

    by: int
    """The epoch that set it: its own when it ended well, or a successor's."""
    at: float


def pack(records: Iterable[Entry | Seal]) -> bytes:
    """A segment: one line a record, compressed."""
    return zstandard.compress(b"".join(map(_line, records)))


def unpack(segment: bytes, key: str) -> list[Entry | Seal]:
    """The records of a segment.

    Raises:
        LedgerError: it is damaged, or from a Nightreel with other events.
    """
    try:
        lines = zstandard.decompress(segment).splitlines()
    except zstandard.ZstdError as error:
        raise LedgerError(f"{key}: {error}") from error
    return [_record(line, f"{key} line {n}") for n, line in enumerate(lines, 1)]


def _line(record: Entry | Seal) -> bytes:
    match record:
        case Seal(by, at):
            said = {"kind": "seal", "by": by, "at": at}
        case Entry(job, at, event):
            said = {"job": job, "at": at, "kind": type(event).__name__.lower()}
            said |= {name: getattr(event, name) for name in _FIELDS[type(event)]}
    return orjson.dumps(said, default=_plain, option=orjson.OPT_APPEND_NEWLINE)


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{value!r} has no JSON")


def _record(line: bytes, place: str) -> Entry | Seal:
    try:
        match orjson.loads(line):
            case {"kind": "seal", "by": int(by), "at": float() | int() as at}:
                return Seal(by, at)
            case {
                "job": str(job),
                "at": float() | int() as at,
                "kind": str(kind),
                **said,
            }:
                return Entry(job, at, _made(KINDS[kind], said))
            case _:
                raise LedgerError(f"{place}: not a record: {line[:200]!r}")
    except (KeyError, TypeError, InvalidOperation, orjson.JSONDecodeError) as error:
        raise LedgerError(f"{place}: {error!r} in {line[:200]!r}") from error


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
