"""Checksums: JSON objects that prove themselves when they are read.

Disks, memory and networks flip bits. A digit that flips in a claim, a message or a list
of files is still good JSON, and would lead to another folder, or another sum of money.
So the last field of such an object is the SHA-256 of all its other bytes.
"""

import re
from collections.abc import Callable, Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Final

import orjson

from storage.objects import DamagedError

FIELD: Final = "checksum"

_BLANK: Final = b"0" * 64
_FOUND: Final = re.compile(rb'"checksum": ?"([0-9a-f]{64})"\s*\}\s*\Z')


def dump(
    fields: Mapping[str, Any],
    *,
    default: Callable[[Any], Any] | None = None,
    option: int = orjson.OPT_INDENT_2,
) -> bytes:
    """An object as JSON, with its checksum."""
    blank = orjson.dumps({**fields, FIELD: _BLANK.decode()}, default, option)
    head, _, tail = blank.rpartition(_BLANK)
    return head + sha256(blank).hexdigest().encode() + tail


def of_file(path: Path) -> str:
    """The SHA-256 of a local file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def load(data: bytes, place: str) -> dict[str, Any]:
    """The object, without its checksum.

    Raises:
        DamagedError: it is not what was written.
    """
    found = _FOUND.search(data)
    if found is None:
        raise DamagedError(f"{place}: damaged: it does not end with a checksum")
    blank = data[: found.start(1)] + _BLANK + data[found.end(1) :]
    if sha256(blank).hexdigest().encode() != found[1]:
        raise DamagedError(f"{place}: damaged: its content does not match its checksum")
    fields: dict[str, Any] = orjson.loads(data)
    del fields[FIELD]
    return fields
