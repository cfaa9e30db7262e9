"""Joins the files of a manifest into one, a few rows at a time.

All files must have the same columns: one without `max_usd` would buy without a limit. Types
may differ where one can hold the other: pandas writes whole numbers as floats beside nulls.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from manifests.input.columns import ManifestError, reading, refuse_other_formats
from manifests.input.embedded_images import COLUMN as EMBEDDED
from manifests.parquet import groups, opened
from manifests.uris import unsigned

# pyarrow ships no types, so its modules are `Any` here.
_arrow: Final[Any] = import_module("pyarrow")
_parquet: Final[Any] = import_module("pyarrow.parquet")

_AT_ONCE: Final = 20_000
_STILLS_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a manifest."""

    path: Path
    uri: str
    partitions: Mapping[str, str | None]
    """Columns that the names of its folders state; those in the file itself go first."""


def join(parts: Sequence[Part], out: Path) -> None:
    """Write the rows of all parts into one file, in their order.

    Raises:
        ManifestError: a part cannot be read, or its columns are not those of the first.
    """
    partitions = _partitions(parts)
    schema = _common(parts, partitions)
    stills = any(_is_still(field) for field in schema)
    at_once = _STILLS_AT_ONCE if stills else _AT_ONCE
    how = {"compression": "zstd", "use_dictionary": not stills}
    with _parquet.ParquetWriter(out, schema, **how) as writer:
        for part in parts:
            with reading(part.uri):
                for batch in _batches(part, at_once):
                    writer.write_batch(_as(batch, schema, part, partitions))


def _is_still(field: Any) -> bool:
    return field.name == EMBEDDED or (
        field.name == "image" and _arrow.types.is_struct(field.type)
    )


def _partitions(parts: Sequence[Part]) -> Mapping[str, Any]:
    """The type of each partition's column: whole numbers, if all its values are."""
    found: dict[str, list[str]] = {}
    for part in parts:
        for name, value in part.partitions.items():
            found.setdefault(name, []).extend([] if value is None else [value])
    return {name: _type(values) for name, values in found.items()}


def _type(values: Sequence[str]) -> Any:
    for kind, read in ((_arrow.int64(), int), (_arrow.float64(), float)):
        try:
            # 007 and 1_000 are names.
            if values and all(str(read(value)) == value for value in values):
                return kind
        except ValueError:
            continue
    return _arrow.string()


def _common(parts: Sequence[Part], partitions: Mapping[str, Any]) -> Any:
    """The schema that holds the rows of all parts."""
    common: Any = None
    for part in parts:
        own = _schema(part, partitions)
        if common is None:
            common = own
            continue
        _refuse_other_columns(common, own, part, parts[0])
        try:
            both = [common, own]
            common = _arrow.unify_schemas(both, promote_options="permissive")
        except _arrow.ArrowException as error:
            why = str(error).partition("\n")[0]
            raise ManifestError(
                f"{unsigned(part.uri)}: has other types than the files before it: {why}"
            ) from error
    return common


def _schema(part: Part, partitions: Mapping[str, Any]) -> Any:
    with reading(part.uri):
        refuse_other_formats(part.path, part.uri)
        with opened(part.path) as file:
            own = [
                field.with_type(_plain(field.type)).with_nullable(True)
                for field in file.schema_arrow.remove_metadata()
            ]
    names = [field.name for field in own]
    stated = [
        _arrow.field(name, partitions[name])
        for name in part.partitions
        if name not in names
    ]
    return _arrow.schema([*own, *stated])


def _plain(kind: Any) -> Any:
    return kind.value_type if _arrow.types.is_dictionary(kind) else kind


def _refuse_other_columns(common: Any, own: Any, part: Part, first: Part) -> None:
    lacking = [name for name in common.names if name not in own.names]
    added = [name for name in own.names if name not in common.names]
    problems = [
        f"{verb} {', '.join(map(repr, names))}"
        for verb, names in (("lacks the columns", lacking), ("adds the columns", added))
        if names
    ]
    if problems:
        raise ManifestError(
            f"{unsigned(part.uri)}: {' and '.join(problems)}, compared with "
            f"{unsigned(first.uri)}: the files of one manifest have the same columns"
        )


def _batches(part: Part, at_once: int) -> Iterator[Any]:
    with opened(part.path) as file:
        for group, _, _ in groups(file):
            yield from file.iter_batches(at_once, row_groups=[group])


def _as(batch: Any, schema: Any, part: Part, partitions: Mapping[str, Any]) -> Any:
    """A batch of a part with the columns and types of the whole."""
    columns: list[Any] = []
    for field in schema:
        if field.name in batch.schema.names:
            column = batch.column(field.name)
        else:
            column = _stated(part.partitions[field.name], partitions[field.name])
            column = _arrow.repeat(column, batch.num_rows)
        plain = column.cast(_plain(column.type))
        columns.append(plain.cast(field.type))
    return _arrow.RecordBatch.from_arrays(columns, schema=schema)


def _stated(value: str | None, kind: Any) -> Any:
    if value is None:
        return _arrow.scalar(None, kind)
    return _arrow.scalar(value).cast(kind)
