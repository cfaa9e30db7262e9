"""Slips: a shard's rows cut out of a manifest with their stills, for another machine.

A slip is a manifest with the columns that decide a job, for these rows only. Beside them
it has the plan's columns of each row.
"""

from itertools import islice
from pathlib import Path
from typing import Final

import polars as pl

from manifests.input import embedded_images
from manifests.input.columns import scan
from manifests.input.job_ids import DECISIVE
from manifests.input.reader import picked
from manifests.job_keys import KEY
from manifests.parquet import written

_PLANNED: Final = ("row", *KEY, "priority", "max_usd")
_AT_ONCE: Final = 64
"""Rows in a row group, so that few stills are in memory at once."""


def cut(manifest: Path, uri: str, shard: pl.DataFrame, slip: Path) -> None:
    """Write the slip of a part of a plan.

    Raises:
        ManifestError: the manifest has changed since it was checked.
    """
    ordered = shard.sort("row")
    has_stills = embedded_images.COLUMN in scan(manifest, uri).collect_schema()
    stills = embedded_images.contents(manifest, uri, ordered["row"].to_list())
    renamed = {name: f"plan {name}" for name in _PLANNED}
    with written(slip) as write:
        for found in picked(manifest, uri, ordered["row"], DECISIVE):
            texts = pl.col(pl.Categorical, pl.Enum).cast(pl.String)
            rows = found.with_columns(texts).join(
                ordered.select(_PLANNED).rename(renamed),
                left_on="row",
                right_on="plan row",
                how="left",
                maintain_order="left",
            )
            for some in rows.rename({"row": "plan row"}).iter_slices(_AT_ONCE):
                if has_stills:
                    contents = [*islice(stills, some.height)]
                    column = pl.Series(embedded_images.COLUMN, contents, pl.Binary)
                    some = some.with_columns(column)  # noqa: PLW2901
                write(some)


def planned(slip: Path) -> pl.DataFrame:
    """The plan of a slip, by its own rows: for `orders`, with the slip as the manifest."""
    columns = [f"plan {name}" for name in _PLANNED if name != "row"]
    plan = pl.read_parquet(slip, columns=columns)
    named = plan.rename(lambda name: name.removeprefix("plan "))
    return named.with_row_index("row").select(
        "row", *KEY, pl.lit(value=True).alias("first"), "priority", "max_usd"
    )
