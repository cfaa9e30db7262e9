"""Keys: job ids as two whole numbers, so that millions of them are little memory.

An id is 32 hex digits: `key` is the first 16 of them, `also` the last 16.
"""

from collections.abc import Iterable
from typing import Final

import polars as pl

KEY: Final = pl.Schema({"key": pl.UInt64, "also": pl.UInt64})


def keys(ids: Iterable[str]) -> pl.DataFrame:
    """The keys of these ids, in their order."""
    said = pl.Series("id", ids, pl.String).to_frame()
    return said.select(
        pl.col("id")
        .str.slice(start, 16)
        .str.to_integer(base=16, dtype=pl.UInt64)
        .alias(n)
        for n, start in zip(KEY, (0, 16), strict=True)
    )


def ids(keys: pl.DataFrame) -> list[str]:
    """The ids that these are the keys of, in their order."""
    return [f"{key:016x}{also:016x}" for key, also in keys.select(*KEY).iter_rows()]
