"""Columns that are carried along, and that polars or pyarrow cannot read."""

import struct

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.input import has_unknown_types, make_readable, scan
from manifests.input.carried import LEFT_OUT, RAW

ROWS = {"image": ["a.jpg", "b.jpg"], "prompt": ["pan", "tilt"]}
INTERVAL = b"\x18\x03gap\x00", b"\x18\x03gap\x25\x2a\x00"
VARIANT = (
    b"\x18\x03bag\x15\x04\x00",
    b"\x18\x03bag\x15\x04\x5c\x0c\x20\x00\x00\x00",
)
URI = "s3://b/m.parquet"


def annotate(path, change):
    """Give a column a type that pyarrow cannot write, in the file's footer."""
    plain, typed = change
    data = path.read_bytes()
    size = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - size : -8]
    assert footer.count(plain) == 1
    footer = footer.replace(plain, typed)
    length = struct.pack("<I", len(footer))
    path.write_bytes(data[: -8 - size] + footer + length + b"PAR1")


def damage(path, column):
    """Overwrite the pages of a column."""
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(0).column(file.schema_arrow.names.index(column))
        first = chunk.dictionary_page_offset or chunk.data_page_offset
        size = chunk.total_compressed_size
    data = bytearray(path.read_bytes())
    data[first : first + size] = b"\xff" * size
    path.write_bytes(data)


@pytest.fixture
def manifest(tmp_path):
    def write(**columns):
        path = tmp_path / "m.parquet"
        pq.write_table(pa.table({**ROWS, **columns}), path, store_schema=False)
        return path

    return write


@pytest.fixture
def interval(manifest):
    """As DuckDB writes an INTERVAL."""
    path = manifest(gap=pa.array([b"0" * 12, b"1" * 12], pa.binary(12)))
    annotate(path, INTERVAL)
    return path


@pytest.fixture
def variant(manifest):
    """As DuckDB writes a VARIANT."""
    parts = [pa.array([b"\x01\0"] * 2), pa.array([b"\x0c\x01"] * 2)]
    bag = pa.StructArray.from_arrays(parts, ["metadata", "value"])
    path = manifest(bag=bag, sku=["s1", "s2"])
    annotate(path, VARIANT)
    return path


def test_interval_is_carried_as_raw_values(interval):
    """A column of intervals becomes one of bytes, and is named; no panic is raised."""
    assert has_unknown_types(interval)

    changed = make_readable(interval, URI)

    assert changed == {"gap": f"{RAW}: its type is Interval"}
    assert scan(interval, URI).collect()["gap"].to_list() == [b"0" * 12, b"1" * 12]


def test_variant_is_carried_as_raw_values(variant):
    """A column of variants becomes one of structs, and the others stay as they are."""
    changed = make_readable(variant, URI)

    rows = scan(variant, URI).collect()
    assert [*changed] == ["bag"]
    assert rows["bag"][0] == {"metadata": b"\x01\0", "value": b"\x0c\x01"}
    assert rows["sku"].to_list() == ["s1", "s2"]


def test_damaged_column_is_left_out(manifest):
    """A carried column whose pages are damaged is left out by name; the rest is kept."""
    path = manifest(sku=["s1", "s2"], note=["n1", "n2"])
    damage(path, "sku")

    changed = make_readable(path, URI)

    assert changed == {"sku": LEFT_OUT}
    assert scan(path, URI).collect().to_dict(as_series=False) == {
        **ROWS,
        "note": ["n1", "n2"],
    }


def test_good_manifest_stays_as_it_is(manifest):
    """A manifest that can be read is not written again."""
    path = manifest(sku=["s1", "s2"])
    before = path.read_bytes()

    assert make_readable(path, URI) == {}
    assert path.read_bytes() == before


def test_file_that_is_no_parquet_is_left_to_the_check(tmp_path):
    path = tmp_path / "m.parquet"
    path.write_bytes(b"image,prompt\n")

    assert make_readable(path, URI) == {}
    assert not has_unknown_types(path)


def test_manifest_without_rows_keeps_its_columns(tmp_path):
    """An unknown type of an empty manifest is no obstacle either."""
    path = tmp_path / "m.parquet"
    gap = pa.array([], pa.binary(12))
    empty = pa.table({"image": pa.array([], pa.string()), "prompt": [], "gap": gap})
    pq.write_table(
        empty.cast(empty.schema.set(1, pa.field("prompt", pa.string()))),
        path,
        store_schema=False,
    )
    annotate(path, INTERVAL)

    assert [*make_readable(path, URI)] == ["gap"]
    assert scan(path, URI).collect_schema()["gap"] == pl.Binary
