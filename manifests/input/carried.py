"""Makes the columns that are carried along readable, before anything is bought.

Nightreel reads them for the first time when it writes the tables: then the money is spent.
So every page of them is read first. A column of a type that polars does not know is kept as
pyarrow reads it; a column that pyarrow cannot read is left out.
"""

import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import polars as pl

from manifests.input.columns import COLUMNS, ManifestError, reading, scan
from manifests.input.embedded_images import COLUMN as EMBEDDED
from manifests.parquet import SLICE, groups, opened

# pyarrow ships no types, so its modules are `Any` here.
_arrow: Final[Any] = import_module("pyarrow.lib")
_parquet: Final[Any] = import_module("pyarrow.parquet")

_TYPED: Final = re.compile(r"^( +)\w.* field_id=-?\d+ (.*?)(?: \((.*)\))?(?:;| \{)$")
"""A line of pyarrow's description of a schema: its indent, the name, the type."""
_UNKNOWN: Final = re.compile(r"Interval|Variant")
"""Types on which polars 2.1 panics, or refuses the whole file."""
_AT_ONCE: Final = 4_096
_STILLS_AT_ONCE: Final = 64


def make_readable(path: Path, uri: str) -> dict[str, str]:
    """Rewrite a manifest's copy where the tables could not repeat a column of it.

    Returns by column how it is carried instead.

    Raises:
        ManifestError: polars cannot read the rest.
    """
    try:
        changed = _changed(path)
        if changed:
            _rewrite(path, {name for name, how in changed.items() if how == LEFT_OUT})
        if unread := _unread(path, uri):
            _rewrite(path, set())
            changed |= dict.fromkeys(unread, RAW)
        if unread := _unread(path, uri):
            _rewrite(path, {*unread})
            changed |= dict.fromkeys(unread, LEFT_OUT)
    except (_arrow.ArrowException, OSError):
        # The check of the columns says what is wrong with the file.
        return {}
    return changed


def has_unknown_types(path: Path) -> bool:
    """Whether polars cannot even read the types of the manifest's columns."""
    try:
        with opened(path) as file:
            return any(_unknown(file.schema))
    except (_arrow.ArrowException, OSError):
        return False


LEFT_OUT: Final = "it is left out of the tables, because it cannot be read"
RAW: Final = "it is carried as pyarrow reads it, because polars cannot read it"


def _changed(path: Path) -> dict[str, str]:
    """The columns to change before polars reads the file, and how they are carried."""
    with opened(path) as file:
        own = [name for name in file.schema_arrow.names if name not in COLUMNS]
        changed = {
            name: f"{RAW}: its type is {kind}"
            for name, kind in _unknown(file.schema)
            if name in own
        }
        if not _readable(file, own):
            broken = [name for name in own if not _readable(file, [name])]
            changed |= dict.fromkeys(broken, LEFT_OUT)
    return changed


def _unknown(schema: Any) -> Iterator[tuple[str, str]]:
    """The columns with a type that polars does not know, in them or as a whole."""
    top = ""
    for line in str(schema).splitlines():
        if found := _TYPED.match(line):
            indent, name, kind = found.groups()
            top = name if len(indent) == 2 else top
            if _UNKNOWN.match(kind or ""):
                yield top, kind


def _readable(file: Any, names: Sequence[str]) -> bool:
    try:
        for _ in file.iter_batches(_AT_ONCE, columns=list(names)) if names else ():
            pass
    except (_arrow.ArrowException, OSError):
        return False
    return True


def _rewrite(path: Path, left_out: set[str]) -> None:
    """Write the file again as pyarrow reads it, without some columns."""
    new = path.with_name(f"{path.name}.readable")
    with opened(path) as file:
        fields = [field for field in file.schema_arrow if field.name not in left_out]
        kept = [field.name for field in fields]
        at_once = _STILLS_AT_ONCE if EMBEDDED in kept else _AT_ONCE
        how = {"compression": "zstd", "use_dictionary": EMBEDDED not in kept}
        with _parquet.ParquetWriter(new, _arrow.schema(fields), **how) as writer:
            for group, _, _ in groups(file):
                some = file.iter_batches(at_once, row_groups=[group], columns=kept)
                for batch in some:
                    writer.write_batch(batch)
    new.replace(path)


def _unread(path: Path, uri: str) -> list[str]:
    """The carried columns that polars cannot read to their end.

    Raises:
        ManifestError: polars cannot even read the types of the columns.
    """
    frame = scan(path, uri)
    own = [name for name in frame.collect_schema() if name not in COLUMNS]
    if _reads(frame, own, uri):
        return []
    return [name for name in own if not _reads(frame, [name], uri)]


def _reads(frame: pl.LazyFrame, names: Sequence[str], uri: str) -> bool:
    try:
        with reading(uri):
            rows = int(frame.select(pl.len()).collect().item())
            for first in range(0, rows if names else 0, SLICE):
                frame.select(names).slice(first, SLICE).collect()
    except ManifestError:
        return False
    return True
