"""Reading a manifest: what it asks for, what is wrong with it, and its jobs, in slices.

However long the manifest, only a slice of its rows is in memory as more than a few
numbers: the job it wants, its priority, and what may be paid for it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import polars as pl

from manifests import complaints, embedded
from manifests.catalogue import Route
from manifests.columns import MONEY, ManifestError, light, meant, reading, scan
from manifests.complaints import Complaint
from manifests.jobs import Job, Order, unsigned
from manifests.places import absolute

__all__ = ["Complaint", "ManifestError", "Plan", "check", "orders"]

Keep = Callable[[str, bytes], str]
"""Stores a still's bytes under the hex of their SHA-256; where they can be read now."""

DECIDING: Final = (
    "model",
    "content",
    "resolution",
    "duration_s",
    "aspect_ratio",
)
"""The columns that decide which lanes can make a job, besides a negative prompt's being
there and the most that may be paid."""

_SLICE: Final = 50_000
_WANTED: Final = pl.Schema(
    {"row": pl.UInt32, "job": pl.String, "priority": pl.Int64, "max_usd": MONEY}
)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a manifest asks for."""

    uri: str
    """Where it is, without any signature."""
    rows: int
    wanted: pl.DataFrame
    """The good rows, most urgent first: row, job, first, priority, max_usd.

    Rows that want the same clip are one job: it goes by the highest priority and the
    most generous limit among them, and only one of them is `first`.
    """
    complaints: pl.DataFrame
    """row, column, value, reason: see `complaints.Complaint`."""

    @property
    def jobs(self) -> int:
        """How many different clips are wanted."""
        return int(self.wanted["first"].sum())

    @property
    def bad_rows(self) -> int:
        return self.rows - self.wanted.height

    @property
    def faults(self) -> Iterator[Complaint]:
        """The complaints, by row."""
        return (Complaint(*row) for row in self.complaints.iter_rows())

    def head(self, rows: int) -> "Plan":
        """The plan of the manifest's first rows alone."""
        few = pl.col("row") < rows
        return Plan(
            self.uri,
            min(self.rows, rows),
            self.wanted.filter(few),
            self.complaints.filter(few),
        )

    def without(self, bad: Mapping[str, tuple[str, str]]) -> "Plan":
        """The plan less these jobs: what of their image is wrong, by id, is complained of."""
        struck = pl.DataFrame(
            [(job, *said) for job, said in bad.items()],
            schema={"job": pl.String, "value": pl.String, "reason": pl.String},
            orient="row",
        )
        wrong = self.wanted.select("row", "job").join(struck, "job")
        also = wrong.select("row", pl.lit("image").alias("column"), "value", "reason")
        return Plan(
            self.uri,
            self.rows,
            self.wanted.join(struck, "job", how="anti", maintain_order="left"),
            self.complaints.vstack(also).sort("row", "column"),
        )

    def shards(self, jobs: int) -> Iterator[pl.DataFrame]:
        """The plan in slices of so many jobs, most urgent first, each for `orders`."""
        return self.wanted.filter("first").iter_slices(jobs)


def check(path: Path, uri: str, routes: Sequence[Route]) -> Plan:
    """Read a manifest once, through and through.

    `path` is where its bytes are on this machine, `uri` the place it is from, and
    `routes` those in use: a row that none of them serves is a complaint.

    Raises:
        ManifestError: it cannot be read at all.
    """
    frame = scan(path, uri)
    count = 0
    wanted, wrong = pl.DataFrame(schema=_WANTED), complaints.none()
    hashes = pl.DataFrame(schema={"row": pl.UInt32, "hash": pl.UInt64})
    for rows in _slices(frame, path, uri):
        count += rows.height
        good, bad = _sort_out(rows, uri, routes)
        wanted, wrong = wanted.vstack(good), wrong.vstack(bad)
        ids = rows.drop_nulls("id").select("row", hash=pl.col("id").hash())
        hashes = hashes.vstack(ids)
    again = _same_ids(frame, hashes)
    good = wanted.filter(~pl.col("row").is_in(again["row"].implode()))
    wrong = wrong.vstack(again).sort("row", "column")
    return Plan(unsigned(uri), count, _planned(good), wrong)


def orders(path: Path, uri: str, shard: pl.DataFrame, keep: Keep) -> Iterator[Order]:
    """The jobs of a plan, or of a slice of one, in its order.

    Embedded stills are handed to `keep` one by one, as their orders are taken.

    Raises:
        ManifestError: the file is not what it was when it was checked.
    """
    firsts = shard.filter("first").select("row", "priority", "max_usd")
    if firsts.is_empty():
        return
    span = firsts["row"].sort()
    with reading(uri):
        few = light(scan(path, uri), span[0], span[-1] - span[0] + 1)
        said = few.filter(pl.col("row").is_in(span.implode())).collect()
    full = meant(said).drop("priority", "max_usd")
    rows = firsts.join(full, on="row", how="left", maintain_order="left")
    # Stills are read in row order, and rows of one priority are in row order.
    for _, alike in rows.group_by("priority", maintain_order=True):
        yield from _ordered(path, uri, alike, keep)


def demand(path: Path, uri: str, wanted: pl.DataFrame) -> pl.DataFrame:
    """How many jobs of each kind a plan, or a part of one, asks for.

    Columns: DECIDING, whether there is a negative prompt, max_usd, count.
    """
    firsts = wanted.filter("first").select("row", "max_usd").sort("row")
    kinds = (*DECIDING, "negative_prompt", "max_usd")
    counted: list[pl.DataFrame] = []
    frame = scan(path, uri)
    for some in firsts.iter_slices(_SLICE):
        rows = some["row"]
        with reading(uri):
            few = light(frame, rows[0], rows[-1] - rows[0] + 1).collect()
        full = meant(few).drop("max_usd").join(some, on="row")
        asked = full.with_columns(negative_prompt=pl.col("negative_prompt") != "")
        counted.append(asked.group_by(kinds).agg(count=pl.len()))
    if not counted:
        return pl.DataFrame()
    return pl.concat(counted).group_by(kinds).agg(pl.col("count").sum())


def _ordered(path: Path, uri: str, rows: pl.DataFrame, keep: Keep) -> Iterator[Order]:
    bare = rows.filter(pl.col("image").is_null())["row"].to_list()
    stills = embedded.contents(path, uri, bare)
    columns = rows.select(*_DECISIVE, "priority", "max_usd")
    for image, *said, priority, max_usd in columns.iter_rows():
        if image is None:
            content = next(stills) or b""
            still = embedded.digest(content) or ""
            place = keep(still, content)
        else:
            still, place = None, absolute(image, uri)
        job = _job((image, *said), still, uri)
        yield Order(job=job, still=place, priority=priority, max_usd=max_usd)


def _slices(frame: pl.LazyFrame, path: Path, uri: str) -> Iterator[pl.DataFrame]:
    """Every row in full, so many at a time, with the digest of its still's bytes."""
    with reading(uri):
        count = _count(frame)
        stills: Iterator[str | None] = iter(())
        if embedded.COLUMN in frame.collect_schema():
            stills = map(embedded.digest, embedded.contents(path, uri, range(count)))
        for first in range(0, count, _SLICE):
            rows = meant(light(frame, first, _SLICE).collect())
            some = [*islice(stills, rows.height)] or [None] * rows.height
            yield rows.with_columns(pl.Series("still", some, pl.String))


def _sort_out(
    rows: pl.DataFrame, uri: str, routes: Sequence[Route]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What the good rows want, and what is wrong with the others."""
    wrong = complaints.about(rows, routes)
    good = rows.join(wrong, on="row", how="anti", maintain_order="left")
    columns = good.select(*_DECISIVE, "still").iter_rows()
    ids = [_job(said, still, uri).id for *said, still in columns]
    jobs = good.with_columns(pl.Series("job", ids, pl.String))
    return jobs.select(_WANTED.names()), wrong


def _same_ids(frame: pl.LazyFrame, hashes: pl.DataFrame) -> pl.DataFrame:
    """Complaints about ids that come twice; only rows whose hashes do are read again."""
    alike = hashes.filter(pl.col("hash").is_duplicated())["row"]
    if alike.is_empty():
        return complaints.none()
    rows = light(frame, 0, _count(frame)).select("row", pl.col("id").cast(pl.String))
    return complaints.duplicates(
        rows.filter(pl.col("row").is_in(alike.implode())).collect()
    )


def _planned(good: pl.DataFrame) -> pl.DataFrame:
    most = pl.col("max_usd").max()
    return good.with_columns(
        first=pl.col("job").is_first_distinct(),
        priority=pl.col("priority").max().over("job"),
        max_usd=pl.when(pl.col("max_usd").is_not_null().all()).then(most).over("job"),
    ).sort("priority", "row", descending=[True, False])


def _count(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect().item())


_DECISIVE: Final = (
    "image",
    "prompt",
    "negative_prompt",
    "model",
    "resolution",
    "duration_s",
    "aspect_ratio",
    "seed",
    "take",
    "content",
)


def _job(said: Sequence[Any], still: str | None, uri: str) -> Job:
    (
        image,
        prompt,
        negative_prompt,
        model,
        resolution,
        duration_s,
        aspect,
        seed,
        take,
        content,
    ) = said
    return Job(
        image=f"sha256:{still}" if still else unsigned(absolute(image, uri)),
        prompt=prompt,
        negative_prompt=negative_prompt,
        model=model,
        resolution=resolution,
        duration_s=duration_s,
        aspect_ratio=aspect,
        seed=seed,
        take=take,
        content=content,
    )
