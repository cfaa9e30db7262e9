"""The request for a batch: its manifest, checked before any money moves."""

import asyncio
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Final

import polars as pl

from manifests.input import ManifestError, Plan, make_readable, reader, validation
from manifests.jobs import Order
from manifests.uris import scheme, unsigned
from storage.media import BadStillError
from storage.source_policy import TRUSTING, SourcePolicy
from storage.sources import OpeningError, refuse_blank
from tasks.batch.manifest_copy import copy_manifest, manifest_uri
from tasks.dispatch import Lane, Policy
from tasks.engine import send_still

log = logging.getLogger(__name__)

MANIFEST: Final = "manifest.parquet"
"""The name of the manifest's copy in the batch's working folder."""

LOOKED_AT: Final = 500
"""The number of stills checked in one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The owner's request for a batch."""

    manifest: str
    root: str
    budget_usd: Decimal | None = None
    limit: int | None = None
    """If set, use only this many rows from the start of the manifest."""
    carry: Sequence[str] = ()
    """Columns of the user's own whose names resemble one of ours."""
    convert_stills: bool = True
    """Whether stills that providers do not take are converted."""
    sources: SourcePolicy = TRUSTING
    """The places that the manifest may name, beside its own folder."""
    strict: bool = False
    """Whether one bad row refuses the whole manifest."""
    max_rejected: float = 0.2
    """The share of the rows that may be rejected in a batch that counts as a success."""
    policy: Policy = "balanced"
    finish_at: float | None = None
    """The deadline, in Unix seconds."""
    shard_rows: int = 500
    take_over: bool = False
    """Whether to shut out a run that seems to hold the same root."""
    new_root: bool | None = None
    """Whether a new root may be begun; None: unless this machine knows one at its URI."""


def public(uri: str, name: str) -> str:
    """Return the URI of the flow parameter `name`, a URI or an absolute path.

    Prefect keeps parameters in clear text, and each run works in another folder.

    Raises:
        OpeningError: it is blank or relative.
        ManifestError: it carries a secret.
    """
    refuse_blank(uri, name)
    given = uri
    if not scheme(uri):
        uri = _absolute(uri, name)
    if name == "manifest":
        uri = manifest_uri(given, uri)
    if uri != (bare := unsigned(uri)):
        problem = (
            "is named with a key or a signature, which would be kept in clear text"
        )
        raise ManifestError(f"{bare}: {problem}: bring it here, or name it without")
    return uri


def _absolute(path: str, name: str) -> str:
    if not path.startswith("/"):
        problem = "is relative, and the folder that a run works in is not yours"
        raise OpeningError(
            f"{name} = {path!r} {problem}: name it from the top or as a URI"
        )
    # Not `resolve`: it follows links, and a link may lead elsewhere tomorrow.
    return Path(os.path.abspath(path)).as_uri()  # noqa: PTH100


def planned(wanted: Wanted, folder: Path, lanes: Sequence[Lane]) -> Plan:
    """Copy the manifest to the folder, and make the plan from the copy.

    Raises:
        ManifestError: it cannot be read, or `strict` is set and a row is bad.
        OpeningError: the manifest is out of reach.
    """
    copy = folder / MANIFEST
    copy_manifest(wanted.manifest, copy)
    for name, how in make_readable(copy, wanted.manifest).items():
        log.warning("manifest.column_changed column=%r %s", name, how)
    routes = [lane.route for lane in lanes]
    refused = wanted.sources.beside(wanted.manifest).complaint
    plan = reader.check(copy, wanted.manifest, routes, wanted.carry, refused)
    if wanted.limit is not None:
        plan = plan.head(wanted.limit)
    if wanted.strict:
        refuse(plan)
    return plan


async def looked_at(
    plan: Plan,
    wanted: Wanted,
    folder: Path,
    lanes: Sequence[Lane],
    *,
    at_once: int = 16,
) -> "LookedAt":
    """Check all stills; the plan has no rows whose still is bad or out of reach.

    `folder` is where `planned` left the manifest.
    """
    min_px = min((lane.route.min_still_px for lane in lanes), default=1)
    policy = wanted.sources.beside(wanted.manifest)
    bad: dict[str, tuple[str, str]] = {}
    away: dict[str, tuple[str, str]] = {}
    free = asyncio.Semaphore(at_once)

    async def look(order: Order) -> None:
        async with free:
            try:
                await send_still.check(
                    order,
                    min_px=min_px,
                    convert=wanted.convert_stills,
                    policy=policy,
                )
            except (OpeningError, BadStillError) as exc:
                passing = isinstance(exc, OpeningError) and exc.passing
                found = away if passing else bad
                found[order.job.id] = (order.job.image, str(exc))

    for shard in plan.shards(LOOKED_AT):
        with tempfile.TemporaryDirectory(dir=folder) as spool:
            every = ordered(folder / MANIFEST, wanted.manifest, shard, Path(spool))
            orders = await asyncio.to_thread(list, every)
            await asyncio.gather(*map(look, orders))
    unread = replace(plan, complaints=validation.none()).without(away).complaints
    return LookedAt(plan.without(bad), unread)


@dataclass(frozen=True, slots=True)
class LookedAt:
    """A manifest whose stills were checked."""

    plan: Plan
    away: pl.DataFrame
    """Complaints about the rows whose still was out of reach, and so was not checked."""

    @property
    def unread(self) -> str | None:
        """Which rows could not be checked, if any."""
        if self.away.is_empty():
            return None
        rows = self.away["row"].n_unique()
        problem = f"{self.plan.uri}: {rows:,} stills out of reach, not checked"
        return "\n  ".join([problem, *replace(self.plan, complaints=self.away).alike()])


def ordered(
    manifest: Path, uri: str, shard: pl.DataFrame, spool: Path
) -> Iterator[Order]:
    """A shard's orders; embedded stills are written to `spool` on this machine's disk."""

    def keep(sha256: str, content: bytes) -> str:
        path = spool / sha256
        path.write_bytes(content)
        return path.as_uri()

    return reader.orders(manifest, uri, shard, keep)


class BadRowsError(ManifestError):
    """The manifest is refused because of its bad rows."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(refusal(plan))
        self.plan = plan


def refuse(plan: Plan) -> None:
    """Raises BadRowsError if a row is bad."""
    if plan.bad_rows:
        raise BadRowsError(plan)


def refuse_unread(looked: LookedAt) -> None:
    """Refuse a manifest with a bad row, or with a still that could not be checked.

    Raises:
        BadRowsError: a row is bad.
        OpeningError: a still is out of reach for now.
    """
    refuse(looked.plan)
    if looked.unread is not None:
        raise OpeningError(looked.unread, passing=True)


def refusal(plan: Plan, shown: int = 20) -> str:
    """Why a manifest with bad rows is refused, like reasons together."""
    lines = [*plan.alike()]
    rest = [f"and {more:,} more reasons"] if (more := len(lines) - shown) > 0 else []
    problem = f"{plan.uri}: {plan.bad_rows:,} of {plan.rows:,} rows are bad"
    return "\n  ".join([problem, *lines[:shown], *rest])
