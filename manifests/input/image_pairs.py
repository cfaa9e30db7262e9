"""Splits Hugging Face's column of images, pairs of bytes and path, into two columns.

`image_bytes` has the bytes; `image` has the path where there are none. The path of a still
with bytes is kept in a column `image_path`, so that the tables name it.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, Final

from manifests.input.columns import reading
from manifests.input.embedded_images import COLUMN as EMBEDDED
from manifests.parquet import groups, opened

# pyarrow ships no types, so its modules are `Any` here.
_arrow: Final[Any] = import_module("pyarrow")
_compute: Final[Any] = import_module("pyarrow.compute")
_parquet: Final[Any] = import_module("pyarrow.parquet")

_IMAGE: Final = "image"
_PATH: Final = "image_path"
_AT_ONCE: Final = 64


def has_pairs(path: Path) -> bool:
    """Whether a manifest's `image` is such a column, and its bytes may be split off."""
    try:
        with opened(path) as file:
            return _is_paired(file.schema_arrow)
    except (_arrow.ArrowException, OSError):
        return False


def split_pairs(path: Path, uri: str) -> None:
    """Rewrite a manifest's copy whose `image` is such a column; any other stays.

    Raises:
        ManifestError: the column cannot be read.
    """
    if not has_pairs(path):
        return
    new = path.with_name(f"{path.name}.split")
    with reading(uri), opened(path) as file:
        schema = _split(file.schema_arrow)
        how = {"compression": "zstd", "use_dictionary": False}
        with _parquet.ParquetWriter(new, schema, **how) as writer:
            for group, _, _ in groups(file):
                for batch in file.iter_batches(_AT_ONCE, row_groups=[group]):
                    writer.write_batch(_split_rows(batch, schema))
    new.replace(path)


def _is_paired(schema: Any) -> bool:
    if _IMAGE not in schema.names or EMBEDDED in schema.names:
        return False
    kind, types = schema.field(_IMAGE).type, _arrow.types
    if not types.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    binary = (types.is_binary, types.is_large_binary, types.is_null)
    text = (types.is_string, types.is_large_string, types.is_null)
    return (
        fields.keys() == {"bytes", "path"}
        and any(is_one(fields["bytes"]) for is_one in binary)
        and any(is_one(fields["path"]) for is_one in text)
    )


def _split(schema: Any) -> Any:
    fields = [field for field in schema if field.name != _IMAGE]
    added = [_arrow.field(_IMAGE, _arrow.string())]
    added.append(_arrow.field(EMBEDDED, _arrow.binary()))
    if _PATH not in schema.names:
        added.append(_arrow.field(_PATH, _arrow.string()))
    return _arrow.schema([*fields, *added])


def _split_rows(batch: Any, schema: Any) -> Any:
    pairs = batch.column(_IMAGE)
    content = _compute.struct_field(pairs, "bytes").cast(_arrow.binary())
    path = _compute.struct_field(pairs, "path").cast(_arrow.string())
    embedded = _compute.is_valid(content)
    nothing = _arrow.scalar(None, _arrow.string())
    made = {
        _IMAGE: _compute.if_else(embedded, nothing, path),
        EMBEDDED: content,
    }
    if _PATH not in batch.schema.names:
        made[_PATH] = _compute.if_else(embedded, path, nothing)
    columns = [
        made[name] if name in made else batch.column(name) for name in schema.names
    ]
    return _arrow.RecordBatch.from_arrays(columns, schema=schema)
