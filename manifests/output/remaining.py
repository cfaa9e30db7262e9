"""The left manifest: the rows that did not become clips, for the next run.

It is complete in itself: it may be moved and run from anywhere, with the same jobs.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, Final, cast

import polars as pl

from manifests.input import COLUMN as EMBEDDED
from manifests.input import ODD_PLACE, Plan, reading
from manifests.lifecycle import State
from manifests.output.clips import INVALID, Outcomes, Tell, fates
from manifests.parquet import MONEY, SLICE, groups, opened
from manifests.uris import absolute, unsigned

# pyarrow ships no types, so its modules are `Any` here and in manifests/parquet.py.
_arrow: Final[Any] = import_module("pyarrow")
_parquet: Final[Any] = import_module("pyarrow.parquet")

LEFT: Final = pl.Schema(
    {
        "left_state": pl.String,
        "left_reason": pl.String,
        "left_lane": pl.String,
        "left_remote_id": pl.String,
        "left_spent_usd": MONEY,
    }
)

_STILLS_AT_ONCE: Final = 64
_ROWS_AT_ONCE: Final = 10_000
_GROUP_BYTES: Final = 16 * 2**20


def write_left(path: Path, manifest: Path, plan: Plan, tell: Tell) -> int:
    """Write the rows that did not become clips in the manifest's schema; return the count.

    The manifest's columns, `image_bytes` included, come first. Those of LEFT follow, and
    replace the ones of an earlier run. `image` is absolute and without its signature; in
    a column of categories it becomes plain text. A place that cannot be opened stays
    unchanged.
    """
    count = 0
    with reading(plan.uri), opened(manifest) as file:
        schema: Any = file.schema_arrow
    # A dictionary of stills is as large as the stills, and is in memory twice.
    how = {"compression": "zstd", "use_dictionary": EMBEDDED not in schema.names}
    with _parquet.ParquetWriter(path, _ours(schema), **how) as writer:
        for rows, told in _picked(manifest, plan.uri, _Left(plan, tell)):
            writer.write_table(_with(rows, told, plan.uri))
            count += told.height
    return count


class _Left:
    """The rows without a clip, in order, with their outcomes; read slice by slice."""

    def __init__(self, plan: Plan, tell: Tell) -> None:
        self._slices = self._told(plan, tell)
        self._some = pl.DataFrame(schema={"row": pl.UInt32, **LEFT})

    def any_before(self, end: int) -> bool:
        """Whether a row that is not taken yet comes before row `end`."""
        while self._some.is_empty():
            if (some := next(self._slices, None)) is None:
                return False
            self._some = some
        return self._some["row"][0] < end

    def before(self, end: int) -> pl.DataFrame:
        """Take the rows that come before row `end`."""
        taken = [self._some.clear()]
        while self.any_before(end):
            count = int(self._some["row"].search_sorted(end))
            taken.append(self._some[:count])
            self._some = self._some[count:]
        return pl.concat(taken)

    @staticmethod
    def _told(plan: Plan, tell: Tell) -> Iterator[pl.DataFrame]:
        for first in range(0, plan.rows, SLICE):
            rows, outcomes = fates(plan, first, min(SLICE, plan.rows - first), tell)
            told = [
                (row, *_fate(job, why, outcomes))
                for row, job, why in rows.iter_rows()
                if not job or outcomes.history(job).state is not State.PUBLISHED
            ]
            yield pl.DataFrame(told, {"row": pl.UInt32, **LEFT}, orient="row")


def _fate(job: str | None, wrong: str, outcomes: Outcomes) -> tuple[Any, ...]:
    if job is None:
        return INVALID, wrong, None, None, None
    history = outcomes.history(job)
    return (
        history.state.value,
        outcomes.why(job),
        history.lane,
        history.ticket and history.ticket.id,
        history.spent_usd,
    )


def _picked(
    manifest: Path, uri: str, left: _Left
) -> Iterator[tuple[Any, pl.DataFrame]]:
    """The left rows in tables that become row groups, with their columns of LEFT."""
    waiting: list[Any] = []
    told: list[pl.DataFrame] = []
    count = held = 0
    for batch, first, taken in _batches(manifest, uri, left):
        # Slices need no kernel, which pyarrow lacks for some types; they hold their batch.
        runs = _runs([row - first for row in taken["row"]])
        waiting += [batch.slice(start, length) for start, length in runs]
        told.append(taken.drop("row"))
        count, held = count + taken.height, held + batch.nbytes
        if count >= _ROWS_AT_ONCE or held >= _GROUP_BYTES:
            yield _arrow.Table.from_batches(waiting).combine_chunks(), pl.concat(told)
            waiting, told, count, held = [], [], 0, 0
    if waiting:
        yield _arrow.Table.from_batches(waiting).combine_chunks(), pl.concat(told)


def _batches(
    manifest: Path, uri: str, left: _Left
) -> Iterator[tuple[Any, int, pl.DataFrame]]:
    """A few rows of the manifest, the number of the first, and the left rows among them.

    Row groups without left rows are not read, nor are the rest after the last left row.
    """
    with reading(uri), opened(manifest) as file:
        stills = EMBEDDED in file.schema_arrow.names
        at_once = _STILLS_AT_ONCE if stills else _ROWS_AT_ONCE
        for group, start, end in groups(file):
            if not left.any_before(end):
                continue
            first = start
            for batch in file.iter_batches(at_once, row_groups=[group]):
                taken = left.before(first + batch.num_rows)
                if taken.height:
                    yield batch, first, taken
                first += batch.num_rows
                if not left.any_before(end):
                    break


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as runs without a gap: the first number and the count."""
    for _, run in groupby(enumerate(rows), lambda pair: pair[1] - pair[0]):
        numbers = [row for _, row in run]
        yield numbers[0], len(numbers)


def _ours(schema: Any) -> Any:
    """The schema of the left manifest of a manifest with this schema."""
    fields = [_plain(field) for field in schema if field.name not in LEFT]
    told = _columns(pl.DataFrame(schema=LEFT)).schema
    return _arrow.schema([*fields, *told], metadata=schema.metadata)


def _plain(field: Any) -> Any:
    """The field itself; without its categories if it is the image's, whose names change."""
    if field.name == "image" and _arrow.types.is_dictionary(field.type):
        return _arrow.field(field.name, field.type.value_type, field.nullable)
    return field


def _with(rows: Any, told: pl.DataFrame, uri: str) -> Any:
    """The rows in the form in which they are written."""
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
    """The images' places as absolute URIs, without any signature."""
    places = pl.DataFrame({"image": pl.Series(images, dtype=pl.String)})
    odd = places.select(ODD_PLACE).to_series()
    return [
        unsigned(image if why or not image.strip() else absolute(image, uri))
        if image
        else image
        for image, why in zip(images, odd, strict=True)
    ]
