"""Reading a manifest: its plan, its complaints and its jobs, in slices.

However long the manifest, only a slice of its rows is in memory as more than a few
numbers (see `plan`). Slices end with the file's row groups where possible. A row group is
decoded once for the check, and once for every shard that has rows in it.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from decimal import Decimal
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Final

import polars as pl

from manifests.catalogue import Route
from manifests.input import embedded_images, validation
from manifests.input.columns import (
    COLUMNS,
    ManifestError,
    light,
    meant,
    reading,
    refuse_near_names,
    scan,
)
from manifests.input.first_pass import surveyed
from manifests.input.job_ids import DECISIVE, keyed
from manifests.input.plan import Plan, Rows, todo
from manifests.input.validation import Complaint, Refused
from manifests.jobs import Job, Order
from manifests.parquet import MONEY, spans
from manifests.uris import absolute, unsigned

__all__ = ["Complaint", "ManifestError", "Plan", "check", "demand", "orders", "todo"]

Keep = Callable[[str, bytes], str]
"""Stores a still's bytes under the hex of their SHA-256; returns the URI to read them."""

DECIDING: Final = (
    "model",
    "content",
    "resolution",
    "duration_s",
    "aspect_ratio",
)
"""The columns that decide which lanes can make a job.

Two other facts decide too: whether there is a negative prompt, and the highest price.
"""

_SHARD: Final = 5_000
_CHECKED: Final = tuple(n for n in COLUMNS if n not in {"id", embedded_images.COLUMN})


def check(
    path: Path,
    uri: str,
    routes: Sequence[Route],
    carry: Collection[str] = (),
    refused: Refused = lambda _: None,
) -> Plan:
    """Read every row of a manifest once, and plan its jobs.

    `path` is the file on this machine, `uri` the place that it is from, and `routes` are
    those in use: a row that none of them serves is a complaint. Columns in `carry` are
    the user's own, although their names resemble one of ours. `refused` says why a
    manifest may not name a URI.

    Raises:
        ManifestError: it cannot be read at all.
    """
    frame = scan(path, uri)
    refuse_near_names(frame, uri, carry)
    survey = surveyed(frame, path, uri)
    good, wrong = Rows(survey), [validation.none()]
    rows = complaints = 0
    for some in _slices(frame, path, uri):
        found = validation.about(some, routes)
        if (odd := validation.places(some, uri, refused)).height:
            found = pl.concat([found, odd]).sort("row", "column", maintain_order=True)
        if (twice := _among(survey.again, rows, some.height)).height:
            found = pl.concat([found, _duplicates(frame, uri, twice)])
            found = found.sort("row", "column", maintain_order=True)
        good.add(_keyed(some, found, uri))
        tell = validation.told if complaints < validation.TOLD else validation.brief
        wrong.append(tell(found))
        rows, complaints = rows + some.height, complaints + found.height
    weight = embedded_images.weight(path, uri)
    return Plan(unsigned(uri), rows, good.planned(), pl.concat(wrong), weight)


def orders(path: Path, uri: str, shard: pl.DataFrame, keep: Keep) -> Iterator[Order]:
    """The jobs of a plan, or of a slice of one, in its order.

    A shard's rows may be all over the file, in any order: each row group is decoded once
    for it, and once more for each further 5,000 rows. Embedded stills go to `keep` one by
    one as their orders are taken, if the rows ascend; otherwise all go before the first
    order.

    Raises:
        ManifestError: the file is not what it was when it was checked.
    """
    for some in shard.iter_slices(_SHARD):
        firsts = some.filter("first").select("row", "priority", "max_usd")
        if found := [*picked(path, uri, firsts["row"].sort(), DECISIVE)]:
            full = meant(pl.concat(found), DECISIVE)
            rows = firsts.join(full, on="row", how="left", maintain_order="left")
            yield from _ordered(path, uri, rows, keep)


def demand(path: Path, uri: str, wanted: pl.DataFrame) -> pl.DataFrame:
    """The number of jobs of each kind in a plan, or in a part of one.

    Columns: DECIDING, whether there is a negative prompt, max_usd, count.
    """
    asked = (*DECIDING, "negative_prompt")
    kinds = (*asked, "max_usd")
    counted: list[pl.DataFrame] = []
    frame = scan(path, uri)
    for first, rows in _spans(path, uri):
        some = _among(wanted, first, rows).filter("first").select("row", "max_usd")
        if some.height:
            with reading(uri):
                full = meant(light(frame, first, rows, asked).collect(), asked)
            few = full.with_columns(negative_prompt=pl.col("negative_prompt") != "")
            counted.append(few.join(some, "row").group_by(kinds).agg(count=pl.len()))
    if not counted:
        return pl.DataFrame()
    every = pl.concat(counted).group_by(kinds).agg(pl.col("count").sum())
    usd = [_usd(most) for most in every["max_usd"]]
    return every.with_columns(pl.Series("max_usd", usd, MONEY))


def stills(path: Path, uri: str, rows: Collection[int]) -> dict[int, str]:
    """The URIs of the stills of these rows, without any signature, by row.

    Stills embedded in the manifest are left out.
    """
    ascending = pl.Series("row", sorted(rows), pl.UInt32)
    found: dict[int, str] = {}
    for some in picked(path, uri, ascending, ["image"]):
        for row, image in meant(some, ["image"]).select("row", "image").iter_rows():
            if image is not None:
                found[row] = unsigned(absolute(image, uri))
    return found


def _spans(path: Path, uri: str) -> list[tuple[int, int]]:
    with reading(uri):
        return spans(path)


def _among(rows: pl.DataFrame, first: int, count: int) -> pl.DataFrame:
    """The rows that are among the `count` rows of the file from `first`."""
    return rows.filter(pl.col("row").is_between(first, first + count - 1))


def _slices(frame: pl.LazyFrame, path: Path, uri: str) -> Iterator[pl.DataFrame]:
    """Every row in full, a slice at a time, with the digest of its still's bytes."""
    stills: Iterator[str | None] = repeat(None)
    if embedded_images.COLUMN in frame.collect_schema():
        stills = map(embedded_images.digest, embedded_images.contents(path, uri))
    for first, count in _spans(path, uri):
        with reading(uri):
            rows = meant(light(frame, first, count, _CHECKED).collect(), _CHECKED)
        some = [*islice(stills, rows.height)]
        yield rows.with_columns(pl.Series("still", some, pl.String))


def _keyed(rows: pl.DataFrame, wrong: pl.DataFrame, uri: str) -> pl.DataFrame:
    """The keys and limits of the good rows, in the form that `Rows` takes."""
    good = rows
    if wrong.height:
        good = rows.filter(~pl.col("row").is_in(wrong["row"].implode()))
    return good.select("row", "priority", "max_usd").hstack(keyed(good, uri))


def _duplicates(frame: pl.LazyFrame, uri: str, again: pl.DataFrame) -> pl.DataFrame:
    first, last = again["row"][0], again["row"][-1]
    with reading(uri):
        ids = light(frame, first, last - first + 1, ["id"]).collect()
    return validation.duplicates(again.join(ids, "row", maintain_order="left"))


def picked(
    path: Path, uri: str, rows: pl.Series, names: Sequence[str]
) -> Iterator[pl.DataFrame]:
    """Those of these columns that exist, for these rows in ascending order."""
    frame = scan(path, uri)
    for first, count in _spans(path, uri):
        wanted = rows[rows.search_sorted(first) : rows.search_sorted(first + count)]
        if wanted.len():
            start, end = wanted[0], wanted[-1] + 1
            with reading(uri):
                some = light(frame, start, end - start, names).collect()
            yield some.filter(pl.col("row").is_in(wanted.implode()))


def _ordered(path: Path, uri: str, rows: pl.DataFrame, keep: Keep) -> Iterator[Order]:
    stills = _kept(path, uri, rows, keep)
    decisive: Iterator[dict[str, Any]] = rows.select(DECISIVE).iter_rows(named=True)
    more = rows.select("priority", "max_usd").iter_rows()
    for values, (priority, max_usd) in zip(decisive, more, strict=True):
        if values["image"] is None:
            still, place = next(stills)
            image = f"sha256:{still}"
        else:
            place = absolute(values["image"], uri)
            image = unsigned(place)
        values["image"] = image
        job = Job(**values)
        yield Order(job=job, still=place, priority=priority, max_usd=_usd(max_usd))


def _kept(
    path: Path, uri: str, rows: pl.DataFrame, keep: Keep
) -> Iterator[tuple[str, str]]:
    """The digests of these rows' embedded stills, and the URI of each kept still."""
    bare = rows.filter(pl.col("image").is_null())["row"]
    if bare.is_empty():
        return
    ascending = bare.sort().to_list()

    def kept(row: int, content: bytes | None) -> tuple[str, str]:
        if not content or not (sha256 := embedded_images.digest(content)):
            raise ManifestError(f"{unsigned(uri)}: row {row} has lost its image_bytes")
        return sha256, keep(sha256, content)

    stills = map(kept, ascending, embedded_images.contents(path, uri, ascending))
    if ascending == bare.to_list():
        yield from stills
    else:
        by_row = dict(zip(ascending, stills, strict=True))
        yield from map(by_row.__getitem__, bare)


def _usd(millionths: int) -> Decimal | None:
    return Decimal(millionths).scaleb(-6) if millionths else None
