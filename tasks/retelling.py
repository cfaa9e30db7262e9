"""The tables of batches that are over, read again and told anew."""

import asyncio
import logging
import re
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import polars as pl

from manifests.lifecycle import HEDGE, History
from manifests.settling import retold_attempts, retold_clips
from manifests.tables import Outcomes
from storage.ledger import read
from storage.objects import Objects

log = logging.getLogger(__name__)

TABLES: Final = "tables"
_CLIPS: Final = re.compile(r"tables/clips/batch=[^/]+/[^/]+\.parquet")
_ATTEMPTS: Final = re.compile(r"tables/attempts/batch=[^/]+/[^/]+\.parquet")

ASKED: Final = (
    "image",
    "prompt",
    "negative_prompt",
    "resolution",
    "duration_s",
    "aspect_ratio",
    "take",
)
"""What a sidecar says of what was asked for, as manifests call it."""


async def asked_of(
    objects: Objects, jobs: Collection[str]
) -> dict[str, dict[str, Any]]:
    """What the tables of earlier batches say was asked for, by job; what they know of it."""
    clips = {job.removesuffix(HEDGE) for job in jobs}
    found: dict[str, dict[str, Any]] = {}
    tables = [x.key async for x in objects.list(f"{TABLES}/clips")] if clips else []
    # What is under way was seldom asked for long ago.
    for key in filter(_CLIPS.fullmatch, reversed(tables)):
        table = await objects.get(key)
        try:
            found |= await asyncio.to_thread(_asked, table, clips - found.keys())
        except pl.exceptions.PolarsError as exc:
            # Its clips are fetched all the same: their sidecars say less.
            log.warning("table.unreadable %s: %s", objects.uri(key), exc)
        if clips <= found.keys():
            break
    return {job: found.get(job.removesuffix(HEDGE), {}) for job in jobs}


def _asked(table: bytes, clips: Collection[str]) -> dict[str, dict[str, Any]]:
    rows = pl.scan_parquet(BytesIO(table)).filter(pl.col("job").is_in([*clips]))
    names = rows.collect_schema().names()
    known = [name for name in ASKED if name in names]
    return {
        row["job"]: {name: row[name] for name in known if row[name] is not None}
        for row in rows.select("job", *known).collect().iter_rows(named=True)
    }


async def retell(
    objects: Objects,
    folder: Path,
    histories: Mapping[str, History],
    jobs: Collection[str],
) -> None:
    """Have every table that names one of these jobs say what is on record of it now."""
    entries = await read(objects)
    outcomes = Outcomes(histories=histories, reasons={})
    before, after = folder / "before.parquet", folder / "after.parquet"
    for key in [stored.key async for stored in objects.list(TABLES)]:
        if _CLIPS.fullmatch(key):
            before.write_bytes(await objects.get(key))
            changed = await asyncio.to_thread(
                retold_clips, before, after, outcomes, jobs
            )
        elif _ATTEMPTS.fullmatch(key):
            before.write_bytes(await objects.get(key))
            changed = await asyncio.to_thread(
                retold_attempts, before, after, entries, jobs
            )
        else:
            continue
        if changed:
            await objects.put(key, after.read_bytes())
