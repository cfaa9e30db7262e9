"""Keys: job ids as two whole numbers, so that millions of them take little memory.

An id is 32 hex digits: `key` is the first 16 of them, `also` the last 16.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import polars as pl

KEY: Final = pl.Schema({"key": pl.UInt64, "also": pl.UInt64})
FEW: Final = 256
"""Below this number, keys are compared one by one: starting polars takes longer."""
_PART: Final = 300_000


def keys(ids: Iterable[str]) -> pl.DataFrame:
    """The keys of these ids, in their order."""
    known = [*ids]
    if len(known) < FEW:
        halves = ([int(id_[at : at + 16], 16) for id_ in known] for at in (0, 16))
        return pl.DataFrame([*map(pl.Series, KEY, halves, KEY.dtypes())])
    return (
        pl.Series("id", known, pl.String)
        .to_frame()
        .select(
            pl.col("id")
            .str.slice(start, 16)
            .str.to_integer(base=16, dtype=pl.UInt64)
            .alias(n)
            for n, start in zip(KEY, (0, 16), strict=True)
        )
    )


def ids(keys: pl.DataFrame) -> list[str]:
    """The ids of these keys, in their order."""
    return [f"{key:016x}{also:016x}" for key, also in _pairs(keys)]


def held(rows: pl.DataFrame, few: pl.DataFrame) -> pl.DataFrame:
    """The rows, out of very many, whose keys are in `few`, in their order.

    A join of ten million rows takes half a gigabyte or more. A filter by half the key
    first leaves few rows to join.
    """
    if max(rows.height, few.height) < FEW:
        wanted = {*_pairs(few)}
        return rows.filter([pair in wanted for pair in _pairs(rows)])
    some = rows.filter(pl.col("key").is_in(few["key"].implode()))
    return some.join(few, [*KEY], how="semi", maintain_order="left")


def alike(rows: pl.DataFrame, *told: pl.Expr) -> Iterator[pl.DataFrame]:
    """The rows that share their key with another row, in parts; `row` has their numbers.

    Columns: at (the place in `rows`), row, earliest (the first row with the same key) and
    the aggregates `told` over all rows with the same key. Keys are spread evenly, so
    each part covers a range of keys: one table of all keys would take gigabytes.
    """
    parts = rows.height // _PART + 1 if rows.height else 0
    for part in range(parts):
        first, after = (2**64 * n // parts for n in (part, part + 1))
        in_part = pl.col("key").is_between(first, after - 1)
        some = rows.lazy().with_row_index("at").filter(in_part)
        groups = some.group_by(*KEY).agg(
            pl.len().alias("count"), pl.col("row").min().alias("earliest"), *told
        )
        many = groups.filter(pl.col("count") > 1).drop("count").collect()
        if many.height:
            yield (
                some.select("at", "row", *KEY)
                .join(many.lazy(), [*KEY])
                .drop(*KEY)
                .collect()
            )


def _pairs(keys: pl.DataFrame) -> Iterator[tuple[int, int]]:
    return zip(*map(keys.get_column, KEY), strict=True)
