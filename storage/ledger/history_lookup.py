"""Looks up the full histories of many lives, a few thousand at a time.

Checkpoint files are sorted by key and a manifest is not, so the wanted rows are first
copied into a local SQLite database.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import polars as pl

from manifests.checkpoint import JOBS
from manifests.checkpoint import rows as events
from manifests.job_keys import KEY, ids, keys
from manifests.lifecycle import History
from manifests.parquet import MONEY
from storage.ledger import checkpoint
from storage.ledger.compaction import bind
from storage.ledger.earlier_history import histories_before
from storage.ledger.segment_reader import written
from storage.ledger.state_index import StateIndex
from storage.objects import DamagedError, Objects

# A database has no decimals.
_TOLD: Final = pl.Schema(
    {
        "life": pl.String,
        **{
            name: pl.String() if dtype == MONEY else dtype
            for name, dtype in JOBS.items()
            if name not in KEY
        },
    }
)
_MAKE: Final = (
    f"CREATE TABLE told ({', '.join(_TOLD)}, PRIMARY KEY (life)) WITHOUT ROWID"
)
_PUT: Final = f"INSERT OR REPLACE INTO told VALUES ({', '.join('?' * len(_TOLD))})"  # noqa: S608 - question marks
_FIND: Final = "SELECT told.* FROM json_each(?) CROSS JOIN told ON life = value"
_SLICE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Told:
    """Histories in a local database; valid while its folder exists."""

    path: Path

    def histories(self, asked: pl.DataFrame) -> dict[str, History]:
        """The histories of the jobs with these keys."""
        # Sorted as the database is, so that it reads each page once.
        wanted = sorted({*ids(asked)})
        with closing(sqlite3.connect(self.path)) as db:
            found = db.execute(_FIND, (orjson.dumps(wanted).decode(),)).fetchall()
        rows = pl.DataFrame(found, _TOLD, orient="row")
        amounts = pl.col("price_usd", "spent_usd").cast(MONEY)
        return events.histories(rows.hstack(keys(rows["life"])).with_columns(amounts))


async def told(
    objects: Objects, state_index: StateIndex, asked: pl.DataFrame, folder: Path
) -> Told:
    """Copy the histories of these jobs into a local folder, after compacting every epoch
    that has no checkpoint yet.

    Raises:
        LedgerError: it cannot be read.
    """
    await bind(objects, state_index)
    path = folder / "told.sqlite"
    with closing(sqlite3.connect(path, check_same_thread=False)) as db:
        await asyncio.to_thread(_make, db)
        # The oldest first: a later epoch's row of a life replaces an earlier one.
        for epoch in await checkpoint.compacted(objects):
            async for rows in _touched(objects, epoch, asked):
                await asyncio.to_thread(_put, db, rows)
    return Told(path)


async def _touched(
    objects: Objects, epoch: int, asked: pl.DataFrame
) -> AsyncIterator[pl.DataFrame]:
    """Those of these lives that an epoch touched, as they stood after it."""
    known = await checkpoint.load(objects, epoch)
    if known is not None:
        try:
            wanted = pl.DataFrame(schema=KEY)
            async for rows in checkpoint.index(objects, known):
                wanted.vstack(
                    await asyncio.to_thread(_among, rows, asked), in_place=True
                )
            if not wanted.is_empty():
                async for rows in checkpoint.volume(objects, known, "jobs", wanted):
                    yield rows
        except DamagedError as error:
            await checkpoint.fall_back(objects, epoch, known, error)
        else:
            return
    there = {entry.job async for some in written(objects, epoch) for entry in some}
    lives = {*ids(await asyncio.to_thread(_among, keys(there), asked))}
    yield events.job_rows(await histories_before(objects, lives, before=epoch + 1))


def _make(db: sqlite3.Connection) -> None:
    # The database is not used after a crash, so it need not be durable.
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute(_MAKE)


def _among(rows: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """The keys of those rows whose lives are asked for."""
    # In slices, so that only one slice of the keys is hashed at a time.
    slices = asked.select(*KEY).iter_slices(_SLICE)
    found = (rows.join(some, on=[*KEY], how="semi") for some in slices)
    return pl.concat([rows.clear(), *found]).select(*KEY)


def _put(db: sqlite3.Connection, rows: pl.DataFrame) -> None:
    lives = pl.Series("life", ids(rows), pl.String)
    with db:
        db.executemany(
            _PUT, rows.with_columns(lives).select(*_TOLD).cast(_TOLD).iter_rows()
        )
