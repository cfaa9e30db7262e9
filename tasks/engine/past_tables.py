"""Reads and updates the tables of batches that are over."""

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
)
from contextlib import asynccontextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import polars as pl

from manifests.accounting.attempts import attempts
from manifests.lifecycle import History
from manifests.output import Outcomes, retold_attempts, retold_clips
from manifests.parquet import readable
from storage import layout
from storage.ledger import read
from storage.objects import DamagedError, Objects, StorageError
from tasks.alongside import background

log = logging.getLogger(__name__)

ASKED: Final = (
    "image",
    "prompt",
    "negative_prompt",
    "resolution",
    "duration_s",
    "aspect_ratio",
    "take",
)
"""The fields of a sidecar that repeat what was asked for, by their manifest names."""

Asked = Callable[[str], Awaitable[Mapping[str, Any]]]
"""Returns the known fields of `ASKED` for a job."""

_Answers = dict[str, asyncio.Future[Mapping[str, Any]]]


@asynccontextmanager
async def asking(
    objects: Objects, jobs: Collection[str], *, within_s: float
) -> AsyncGenerator[Asked]:
    """Look up in the tables of earlier batches what was asked for, by job.

    The tables are read while the block lasts. A call waits for them until `within_s` seconds
    after the block began, and no longer.
    """
    loop = asyncio.get_running_loop()
    answers: _Answers = {job: loop.create_future() for job in jobs}
    until = loop.time() + within_s

    async def asked(job: str) -> Mapping[str, Any]:
        one = answers[job]
        await asyncio.wait({one}, timeout=max(0.0, until - loop.time()))
        return one.result() if one.done() else {}

    async with background(_read(objects, answers)):
        yield asked


async def _read(objects: Objects, answers: _Answers) -> None:
    """Resolve each job with what a table says; resolve the rest with nothing at the end."""
    left = {*answers}
    try:
        async for found in _found(objects, left):
            for job, asked in found.items():
                answers[job].set_result(asked)
            # In place: the reader stops when none are left.
            left.difference_update(found)
    # A shorter sidecar is no reason to end a batch, whatever the error.
    except Exception as exc:  # noqa: BLE001
        log.warning("tables.not_searched sidecars of older clips say less: %r", exc)
    finally:
        for job in left:
            answers[job].set_result({})


async def _found(
    objects: Objects, jobs: Collection[str]
) -> AsyncIterator[dict[str, dict[str, Any]]]:
    """Yield what each table says of these jobs, until none of them are left."""
    tables = [x.key async for x in objects.list(layout.tables("clips"))] if jobs else []
    unread = 0
    # Newest first: a job that is under way was seldom asked for long ago.
    for key in filter(layout.TABLE.fullmatch, reversed(tables)):
        if not jobs:
            return
        try:
            table, uri = await objects.get(key), objects.uri(key)
            yield await asyncio.to_thread(_asked, table, uri, jobs)
        except StorageError as exc:
            # Its clips are still fetched, with shorter sidecars. One warning is enough for
            # an archive in which no table can be read.
            unread += 1
            level = logging.WARNING if unread == 1 else logging.DEBUG
            log.log(
                level,
                "table.unreadable file=%s it is skipped: %s",
                objects.uri(key),
                exc,
            )


def _asked(table: bytes, uri: str, clips: Collection[str]) -> dict[str, dict[str, Any]]:
    with readable(uri, DamagedError):
        rows = pl.scan_parquet(BytesIO(table)).filter(pl.col("job").is_in([*clips]))
        names = rows.collect_schema().names()
        known = [name for name in ASKED if name in names]
        found = rows.select("job", *known).collect()
    return {
        row["job"]: {name: row[name] for name in known if row[name] is not None}
        for row in found.iter_rows(named=True)
    }


async def retell(
    objects: Objects,
    folder: Path,
    histories: Mapping[str, History],
    jobs: Collection[str],
) -> None:
    """Update every table that names one of these jobs to what is on record now."""
    wanted = {*jobs}
    some = [entry for entry in await read(objects) if entry.job in wanted]
    rows = [*attempts(some)]
    outcomes = Outcomes(histories=histories, reasons={})
    before, after = folder / "before.parquet", folder / "after.parquet"
    for key in [stored.key async for stored in objects.list(layout.TABLES)]:
        found = layout.TABLE.fullmatch(key)
        match found and found["table"]:
            case "clips":
                change = partial(retold_clips, before, after, outcomes, jobs)
            case "attempts":
                change = partial(retold_attempts, before, after, rows)
            case _:
                continue
        before.write_bytes(await objects.get(key))
        try:
            with readable(objects.uri(key), DamagedError):
                changed = await asyncio.to_thread(change)
        except DamagedError as exc:
            log.warning(
                "table.not_updated file=%s its rows keep what they said: %s",
                objects.uri(key),
                exc,
            )
            continue
        if changed:
            await objects.put(key, after.read_bytes())
