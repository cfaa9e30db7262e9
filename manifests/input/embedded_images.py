"""Embedded stills: the `image_bytes` of a manifest's rows, a few rows at a time.

A Parquet row group of stills can be gigabytes, so none is ever loaded whole. Every reader
loads at least a page or two. pyarrow writes pages of 1024 rows, and a dictionary of the
first rows: with stills of 300 KB such a page is 300 MB, and reading the file takes 1.3 GB.
Write with `row_group_size=64`: reading then takes 150 MB, for a file of any length.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from manifests.input.columns import reading
from manifests.parquet import groups, opened

COLUMN: Final = "image_bytes"
_EVERY: Final = range(2**32)
_AT_ONCE: Final = 64


def contents(
    path: Path, uri: str, rows: Sequence[int] = _EVERY
) -> Iterator[bytes | None]:
    """The bytes in each of these rows, given in ascending order; None without bytes."""
    with reading(uri), opened(path) as file:
        for group, first, end in groups(file):
            in_group = rows[bisect_left(rows, first) : bisect_left(rows, end)]
            yield from _picked(file, group, first, in_group)


def weight(path: Path, uri: str) -> int:
    """The bytes of stills in the row group with the most, before compression."""
    with reading(uri), opened(path) as file:
        every = file.metadata
        columns = [every.schema.column(n).path for n in range(every.num_columns)]
        if COLUMN not in columns:
            return 0
        place = columns.index(COLUMN)
        sizes = (
            every.row_group(group).column(place).total_uncompressed_size
            for group in range(every.num_row_groups)
        )
        return max(sizes, default=0)


def digest(content: bytes | None) -> str | None:
    """The SHA-256 of a still in hex, "" if it is empty, None if there is none."""
    if not content:
        return None if content is None else ""
    return hashlib.sha256(content).hexdigest()


def _picked(
    file: Any, group: int, start: int, rows: Sequence[int]
) -> Iterator[bytes | None]:
    if not rows:
        return
    for batch in file.iter_batches(_AT_ONCE, row_groups=[group], columns=[COLUMN]):
        end = start + batch.num_rows
        for row in rows[bisect_left(rows, start) : bisect_left(rows, end)]:
            yield batch.column(0)[row - start].as_py()
        if rows[-1] < end:
            return
        start = end
