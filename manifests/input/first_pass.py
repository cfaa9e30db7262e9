"""A survey of a manifest: the facts about all rows that planning the first one needs.

The survey finds the ids that occur twice, the number of rows of each priority, and the
highest limit. With them, each row is put in its final place at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from manifests.input.columns import light, meant, reading
from manifests.job_keys import KEY, alike
from manifests.parquet import spans

_NUMBERS: Final = ("priority", "max_usd")


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """The facts about all rows of a manifest, good or bad."""

    again: pl.DataFrame
    """The rows whose id an earlier row has, in order: row, earliest."""
    levels: pl.DataFrame
    """How many rows there are of each priority, most urgent first: priority, count."""
    most: int
    """The highest limit, in millionths of a dollar."""


def surveyed(frame: pl.LazyFrame, path: Path, uri: str) -> Survey:
    """Read a few columns of all rows of a manifest.

    Two hashes of 64 bits stand for an id; two ids with both hashes equal do not occur in
    practice.
    """
    ids = [pl.DataFrame(schema={"row": pl.UInt32, **KEY})]
    counts = [pl.DataFrame(schema={"priority": pl.Int64, "count": pl.UInt32})]
    most = 0
    for first, count in spans(path):
        with reading(uri):
            raw = light(frame, first, count, ("id", *_NUMBERS)).collect()
        if "id" in raw.columns:
            ids.append(_hashed(raw))
        full = meant(raw, _NUMBERS)
        counts.append(
            full["priority"].drop_nulls().value_counts().cast(counts[0].schema)
        )
        most = max(most, *millionths(full["max_usd"]).top_k(1))
    levels = pl.concat(counts).group_by("priority").agg(pl.col("count").sum())
    return Survey(
        again=_again(pl.concat(ids)),
        levels=levels.sort("priority", descending=True),
        most=most,
    )


def millionths(usd: pl.Series) -> pl.Series:
    """Dollars as whole numbers, 0 for none."""
    return usd.to_physical().cast(pl.Int64).fill_null(0)


def _hashed(raw: pl.DataFrame) -> pl.DataFrame:
    text = pl.col("id").cast(pl.String)
    hashes = [text.hash(seed).alias(name) for seed, name in enumerate(KEY)]
    return raw.drop_nulls("id").select("row", *hashes)


def _again(ids: pl.DataFrame) -> pl.DataFrame:
    later = pl.col("row") > pl.col("earliest")
    found = [some.filter(later).select("row", "earliest") for some in alike(ids)]
    none = pl.DataFrame(schema={"row": pl.UInt32, "earliest": pl.UInt32})
    return pl.concat([none, *found]).sort("row")
