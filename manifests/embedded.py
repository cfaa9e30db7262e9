"""Embedded stills: the `image_bytes` of a manifest's rows, a few rows at a time.

A Parquet row group of stills can be gigabytes, so none is ever loaded whole.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from manifests.columns import reading

# pyarrow ships no types; `Any` says so once, here and in tables.py.
_open: Final[Any] = import_module("pyarrow.parquet").ParquetFile

COLUMN: Final = "image_bytes"
_AT_ONCE: Final = 64


def contents(path: Path, uri: str, rows: Sequence[int]) -> Iterator[bytes | None]:
    """The bytes in each of these rows, which ascend; None where there are none."""
    start = 0
    # Without pre_buffer=False pyarrow holds every byte of the file that it has read.
    with reading(uri), _open(path, pre_buffer=False, buffer_size=1 << 20) as file:
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            mine = rows[bisect_left(rows, start) : bisect_left(rows, end)]
            yield from _picked(file, group, [row - start for row in mine])
            start = end


def digest(content: bytes | None) -> str | None:
    """The SHA-256 of a still in hex, "" if it is empty, None if there is none."""
    if not content:
        return None if content is None else ""
    return hashlib.sha256(content).hexdigest()


def _picked(file: Any, group: int, rows: Sequence[int]) -> Iterator[bytes | None]:
    if not rows:
        return
    start = 0
    for batch in file.iter_batches(_AT_ONCE, row_groups=[group], columns=[COLUMN]):
        end = start + batch.num_rows
        for row in rows[bisect_left(rows, start) : bisect_left(rows, end)]:
            yield batch.column(0)[row - start].as_py()
        if rows[-1] < end:
            return
        start = end
