"""Writes the files of a checkpoint: each is created once, and never changed."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from storage import checksum, layout
from storage.ledger import checkpoint
from storage.ledger.checkpoint import KEYS, Checkpoint, File, Kind
from storage.ledger.codec import LedgerError
from storage.objects import DamagedError, ExistsError, Objects

_ROWS = 20_000
"""Rows that are compared at once."""


async def create(objects: Objects, epoch: int, folder: Path) -> Mapping[Kind, File]:
    """Put the files of a folder; returns the files that are under their keys now.

    Raises:
        LedgerError: other rows are there.
    """
    found: dict[Kind, File] = {}
    for kind, key in KEYS.items():
        found[kind] = await _create(objects, key(epoch), folder / kind)
    return found


async def prove(objects: Objects, checkpoint_: Checkpoint) -> None:
    """Put the list of the files. From now on the epoch is read from them.

    Raises:
        LedgerError: another list is there.
    """
    key = layout.checkpoint(checkpoint_.epoch)
    try:
        await objects.create(key, checkpoint_.dump())
    except ExistsError:
        # Another process compacted the same epoch at the same time.
        uri = objects.uri(key)
        there = Checkpoint.load(await objects.get(key), uri)
        if replace(there, latencies={}) != replace(checkpoint_, latencies={}):
            raise LedgerError(f"{uri}: {_OTHER}") from None


async def discard(objects: Objects, epoch: int) -> None:
    """Delete a damaged checkpoint; its list first, so that nobody takes it for whole."""
    await objects.delete(layout.checkpoint(epoch))
    for key in KEYS.values():
        await objects.delete(key(epoch))


async def _create(objects: Objects, key: str, path: Path) -> File:
    try:
        await objects.create_file(key, path)
    except ExistsError:
        # An earlier run, or another release, may have written the same rows as other
        # bytes. Other rows belong to another epoch: accepting them would lose ours.
        return await _same_rows(objects, key, path)
    return await asyncio.to_thread(_file, path)


async def _same_rows(objects: Objects, key: str, path: Path) -> File:
    uri = objects.uri(key)
    with TemporaryDirectory() as folder:
        there = Path(folder) / "there.parquet"
        await objects.get_file(key, there)
        try:
            same = await asyncio.to_thread(_are_same, there, path, uri)
        except DamagedError as error:
            raise LedgerError(f"{error}; {_CURE}") from error
        if not same:
            raise LedgerError(f"{uri}: {_OTHER}")
        return await asyncio.to_thread(_file, there)


_CURE = "move it away: the next run writes it anew from the segments"
_OTHER = f"holds other rows than the segments of its epoch: {_CURE}"


def _are_same(there: Path, path: Path, uri: str) -> bool:
    pairs = zip_longest(_slices(there, uri), _slices(path, str(path)))
    return all(
        one is not None and other is not None and one.equals(other)
        for one, other in pairs
    )


def _slices(path: Path, uri: str) -> Iterator[pl.DataFrame]:
    """A file's rows in slices of one size, whatever its row groups are."""
    held: pl.DataFrame | None = None
    for rows in checkpoint.groups(path, uri):
        held = rows if held is None else pl.concat([held, rows])
        while held.height > _ROWS:
            yield held.head(_ROWS)
            held = held.slice(_ROWS)
    if held is not None:
        yield held


def _file(path: Path) -> File:
    return File(path.stat().st_size, checksum.of_file(path))
