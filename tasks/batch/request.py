"""What a batch is asked for: its manifest, checked before any money moves."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Final

import polars as pl

from manifests.input import reader
from manifests.input.reader import ManifestError, Plan
from manifests.jobs import Order
from manifests.uris import unsigned
from storage import sources
from storage.media.stills import BadStillError
from storage.sources import OpeningError
from tasks.dispatch.eligibility import Policy
from tasks.dispatch.lanes import Lane
from tasks.engine import send_still

MANIFEST: Final = "manifest.parquet"
"""What a manifest's copy is called, in the folder that a batch works in."""

LOOKED_AT: Final = 500
"""Stills looked at before the next ones are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the owner of a batch asks for."""

    manifest: str
    root: str
    budget_usd: Decimal | None = None
    limit: int | None = None
    """Only the first rows of the manifest."""
    strict: bool = False
    """Whether one bad row refuses the lot."""
    policy: Policy = "balanced"
    finish_at: float | None = None
    """When all of it is to be done, in Unix seconds."""
    shard_rows: int = 500
    take_over: bool = False
    """Whether a run that seems to be at work on the same root is shut out."""


def public(uri: str) -> str:
    """The URI, as long as it carries no secret: Prefect keeps parameters in clear text.

    Raises:
        ManifestError: it does.
    """
    if uri != (bare := unsigned(uri)):
        said = "is named with a key or a signature, which would be kept in clear text"
        raise ManifestError(f"{bare}: {said}: bring it here, or name it without")
    return uri


def planned(wanted: Wanted, folder: Path, lanes: Sequence[Lane]) -> Plan:
    """What the manifest asks for, from a copy of it that stays in the folder.

    Raises:
        ManifestError: it cannot be read, or `strict` and a row of it is bad.
        OpeningError: it is out of reach.
    """
    copy = folder / MANIFEST
    sources.fetch_to(wanted.manifest, copy)
    plan = reader.check(copy, wanted.manifest, [lane.route for lane in lanes])
    if wanted.limit is not None:
        plan = plan.head(wanted.limit)
    if wanted.strict:
        refuse(plan)
    return plan


async def looked_at(
    plan: Plan, uri: str, folder: Path, lanes: Sequence[Lane], *, at_once: int = 16
) -> Plan:
    """The plan less the rows whose still cannot be read or will not do.

    `folder` is where `planned` left the manifest.

    Raises:
        OpeningError: a still is out of reach for now, and nobody knows how good it is.
    """
    min_px = min((lane.route.min_still_px for lane in lanes), default=1)
    bad: dict[str, tuple[str, str]] = {}
    away: list[OpeningError] = []
    free = asyncio.Semaphore(at_once)

    async def look(order: Order) -> None:
        async with free:
            try:
                await send_still.check(order, min_px=min_px)
            except (OpeningError, BadStillError) as exc:
                bad[order.job.id] = (order.job.image, str(exc))
                if isinstance(exc, OpeningError) and exc.passing:
                    away.append(exc)

    for shard in plan.shards(LOOKED_AT):
        with tempfile.TemporaryDirectory(dir=folder) as spool:
            every = ordered(folder / MANIFEST, uri, shard, Path(spool))
            orders = await asyncio.to_thread(list, every)
            await asyncio.gather(*map(look, orders))
        if away:
            raise away[0]
    return plan.without(bad)


def ordered(
    manifest: Path, uri: str, shard: pl.DataFrame, spool: Path
) -> Iterator[Order]:
    """A shard's orders; embedded stills wait on this machine's disk for their turn."""

    def keep(sha256: str, content: bytes) -> str:
        path = spool / sha256
        path.write_bytes(content)
        return path.as_uri()

    return reader.orders(manifest, uri, shard, keep)


class BadRowsError(ManifestError):
    """A manifest that is refused for its bad rows."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(refusal(plan))
        self.plan = plan


def refuse(plan: Plan) -> None:
    """Raises BadRowsError if a row is bad."""
    if plan.bad_rows:
        raise BadRowsError(plan)


def refusal(plan: Plan, shown: int = 20) -> str:
    """Why a manifest with bad rows is refused, row by row."""
    some = [str(complaint) for complaint in islice(plan.faults, shown)]
    more = plan.complaints.height - len(some)
    rest = [f"and {more:,} more"] if more else []
    said = f"{plan.uri}: {plan.bad_rows:,} of {plan.rows:,} rows are bad"
    return "\n  ".join([said, *some, *rest])
