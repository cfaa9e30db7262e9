"""What is left: the rows that did not become clips, as a manifest to run tomorrow.

It stands alone: it may be moved and run from anywhere, and its rows are the same jobs.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, Final, cast

import polars as pl

from manifests.columns import MONEY, reading
from manifests.complaints import ODD_PLACE
from manifests.embedded import COLUMN as EMBEDDED
from manifests.jobs import unsigned
from manifests.lifecycle import State
from manifests.places import absolute
from manifests.reading import Plan
from manifests.tables import INVALID, Outcomes, in_words

# pyarrow ships no types; `Any` says so once, here, in embedded.py and in tables.py.
_arrow: Final[Any] = import_module("pyarrow")
_parquet: Final[Any] = import_module("pyarrow.parquet")

LEFT: Final = pl.Schema(
    {
        "left_state": pl.String,
        "left_reason": pl.String,
        "left_lane": pl.String,
        "left_remote_ids": pl.List(pl.String),
        "left_spent_usd": MONEY,
    }
)

_STILLS_AT_ONCE: Final = 64
_ROWS_AT_ONCE: Final = 10_000
_GROUP_BYTES: Final = 64 * 2**20


def write_left(path: Path, manifest: Path, plan: Plan, outcomes: Outcomes) -> int:
    """Write the rows that did not become clips, in the manifest's own schema; how many.

    After its columns, `image_bytes` too, come those of LEFT, in place of an earlier
    night's. `image` is absolute and has lost its signature; in a column of categories it
    becomes plain text. A place that nothing can open stays as wrong as it was.
    """
    left = _left(plan, outcomes)
    with reading(plan.uri), _opened(manifest) as file:
        schema: Any = file.schema_arrow
    done = 0
    with _parquet.ParquetWriter(path, _ours(schema), compression="zstd") as writer:
        for rows in _picked(manifest, plan.uri, left["row"].to_list()):
            told = _told(left.slice(done, rows.num_rows), outcomes)
            writer.write_table(_with(rows, told, plan.uri))
            done += rows.num_rows
    return left.height


def _left(plan: Plan, outcomes: Outcomes) -> pl.DataFrame:
    """The rows without a clip, in order: row, job, and the reason why it is no job."""
    every = pl.DataFrame({"row": pl.Series(range(plan.rows), dtype=pl.UInt32)})
    for known in (plan.wanted.select("row", "job"), in_words(plan.complaints)):
        every = every.join(known, "row", "left", maintain_order="left")
    made = [
        job is not None and outcomes.history(job).state is State.PUBLISHED
        for job in every["job"]
    ]
    return every.filter(~pl.Series(made, dtype=pl.Boolean))


def _told(rows: pl.DataFrame, outcomes: Outcomes) -> pl.DataFrame:
    """What came of these rows instead of a clip."""
    told = [
        _fate(job, why, outcomes)
        for job, why in rows.select("job", "reason").iter_rows()
    ]
    return pl.DataFrame(told, schema=LEFT, orient="row")


def _fate(job: str | None, wrong: str, outcomes: Outcomes) -> tuple[Any, ...]:
    if job is None:
        return INVALID, wrong, None, (), None
    history = outcomes.history(job)
    tickets = [history.ticket, outcomes.hedge(job).ticket]
    return (
        history.state.value,
        outcomes.why(job),
        history.lane,
        [ticket.id for ticket in tickets if ticket],
        outcomes.spent_usd(job),
    )


def _opened(manifest: Path) -> Any:
    # Without pre_buffer=False pyarrow holds every byte of the file that it has read.
    return _parquet.ParquetFile(manifest, pre_buffer=False, buffer_size=1 << 20)


def _picked(manifest: Path, uri: str, rows: Sequence[int]) -> Iterator[Any]:
    """These rows of the manifest, which ascend, in tables that become row groups."""
    waiting: list[Any] = []
    count = held = 0
    for batch, mine in _batches(manifest, uri, rows):
        # Slices need no kernel, which pyarrow lacks for some types; they hold their batch.
        waiting += [batch.slice(first, length) for first, length in _runs(mine)]
        count, held = count + len(mine), held + batch.nbytes
        if count >= _ROWS_AT_ONCE or held >= _GROUP_BYTES:
            yield _arrow.Table.from_batches(waiting).combine_chunks()
            waiting, count, held = [], 0, 0
    if waiting:
        yield _arrow.Table.from_batches(waiting).combine_chunks()


def _batches(
    manifest: Path, uri: str, rows: Sequence[int]
) -> Iterator[tuple[Any, list[int]]]:
    """A few rows of the manifest at a time, and which of them are among these."""
    start = 0
    with reading(uri), _opened(manifest) as file:
        stills = EMBEDDED in file.schema_arrow.names
        at_once = _STILLS_AT_ONCE if stills else _ROWS_AT_ONCE
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if bisect_left(rows, start) < bisect_left(rows, end):
                for batch in file.iter_batches(at_once, row_groups=[group]):
                    first, start = start, start + batch.num_rows
                    mine = rows[bisect_left(rows, first) : bisect_left(rows, start)]
                    if mine:
                        yield batch, [row - first for row in mine]
            start = end


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as runs without a gap: the first, and how many."""
    for _, run in groupby(enumerate(rows), lambda pair: pair[1] - pair[0]):
        numbers = [row for _, row in run]
        yield numbers[0], len(numbers)


def _ours(schema: Any) -> Any:
    """The schema of what is left of a manifest with this one."""
    fields = [_plain(field) for field in schema if field.name not in LEFT]
    told = _columns(pl.DataFrame(schema=LEFT)).schema
    return _arrow.schema([*fields, *told], metadata=schema.metadata)


def _plain(field: Any) -> Any:
    """The field itself; without its categories if it is the image's, whose names change."""
    if field.name == "image" and _arrow.types.is_dictionary(field.type):
        return _arrow.field(field.name, field.type.value_type, field.nullable)
    return field


def _with(rows: Any, told: pl.DataFrame, uri: str) -> Any:
    """The rows as they are written."""
    kept = rows.select([name for name in rows.column_names if name not in LEFT])
    if "image" in kept.column_names:
        place = kept.column_names.index("image")
        field = _plain(kept.schema.field(place))
        images = _anywhere(kept.column(place).to_pylist(), uri)
        kept = kept.set_column(place, field, _arrow.array(images, field.type))
    ours = _columns(told)
    for field, column in zip(ours.schema, ours.columns, strict=True):
        kept = kept.append_column(field, column)
    return kept


def _columns(told: pl.DataFrame) -> Any:
    return cast("Any", told).to_arrow(compat_level=pl.CompatLevel.oldest())


def _anywhere(images: Sequence[str | None], uri: str) -> list[str | None]:
    """The images' places as they can be named from anywhere, without any signature."""
    said = pl.DataFrame({"image": pl.Series(images, dtype=pl.String)})
    odd = said.select(ODD_PLACE).to_series()
    return [
        unsigned(image if why or not image.strip() else absolute(image, uri))
        if image
        else image
        for image, why in zip(images, odd, strict=True)
    ]
