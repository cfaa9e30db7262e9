"""Parquet in slices: files are read and written in less memory than their size."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from sys import maxsize
from typing import Any, Final, cast

import polars as pl

# pyarrow ships no types, so its modules are `Any` here and in output/remaining.py.
_parquet: Final[Any] = import_module("pyarrow.parquet")
_arrow: Final[Any] = import_module("pyarrow.lib")

SLICE: Final = 20_000
"""Rows of a table that are in memory at once, with the outcomes of their jobs."""
MONEY: Final = pl.Decimal(18, 6)
"""US dollars in every table that we write."""
_SPAN: Final = 50_000


@contextmanager
def readable(uri: str, error: type[Exception]) -> Generator[None]:
    """Raise `error`, with the file's name, if a library cannot read it as Parquet.

    On a truncated file polars panics; a panic is not an Exception.
    """
    try:
        yield
    except (
        _arrow.ArrowException,
        OSError,
        pl.exceptions.PanicException,
        pl.exceptions.PolarsError,
    ) as caught:
        why = str(caught).partition("\n")[0]
        raise error(f"{uri}: damaged: not readable as Parquet: {why}") from caught


def opened(path: Path) -> Any:
    """Open a file that is read in small parts."""
    # Without pre_buffer=False pyarrow holds every byte of the file that it has read.
    return _parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def groups(file: Any) -> Iterator[tuple[int, int, int]]:
    """The row groups of an open file: their number, first row, and the row after them."""
    end = 0
    for group in range(file.num_row_groups):
        first, end = end, end + file.metadata.row_group(group).num_rows
        yield group, first, end


def spans(path: Path) -> list[tuple[int, int]]:
    """A file's rows in slices that end with row groups: the first row and the count."""
    with opened(path) as file:
        ends = [end for _, _, end in groups(file)]
    found, first = list[tuple[int, int]](), 0
    for end, following in pairwise([*ends, maxsize]):
        if following - first > _SPAN:
            starts = range(first, end, _SPAN)
            found += [(start, min(_SPAN, end - start)) for start in starts]
            first = end
    return found


@contextmanager
def written(path: Path) -> Generator[Callable[[pl.DataFrame], None]]:
    """A function that appends frames of one schema to a Parquet file."""
    with ExitStack() as stack:
        writer: Any = None

        def write(frame: pl.DataFrame) -> None:
            nonlocal writer
            table = cast("Any", frame).to_arrow(compat_level=pl.CompatLevel.oldest())
            if writer is None:
                made = _parquet.ParquetWriter(path, table.schema, compression="zstd")
                writer = stack.enter_context(made)
            writer.write_table(table)

        yield write


def rewritten(
    table: Path, out: Path, change: Callable[[pl.DataFrame], pl.DataFrame]
) -> bool:
    """Write a table to `out` with its rows changed; return whether any row differs."""
    frame = pl.scan_parquet(table, glob=False, hive_partitioning=False)
    height = int(frame.select(pl.len()).collect().item())
    changed = False
    with written(out) as write:
        for first in range(0, max(height, 1), SLICE):
            rows = frame.slice(first, SLICE).collect()
            anew = change(rows)
            changed = changed or not anew.equals(rows)
            write(anew)
    return changed
