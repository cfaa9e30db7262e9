"""A manifest's columns: their names, their types and their meaning.

Columns are checked before any row is read. `meant` fills in every default and makes every
number whole; the values that the user wrote stay beside them in columns `said …`.
"""

import json
import re
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import polars as pl

from manifests.input.column_names import resembled
from manifests.jobs import Job
from manifests.parquet import MONEY
from manifests.uris import unsigned

_MOST_USD: Final = 1e9
"""The highest limit that is stored; a higher one is no limit in practice."""


class ManifestError(ValueError):
    """A manifest that cannot be read at all; raised before anything is bought."""


def _text(raw: pl.Expr) -> pl.Expr:
    return raw.cast(pl.String)


def _text_or(default: str) -> Callable[[pl.Expr], pl.Expr]:
    def filled(raw: pl.Expr) -> pl.Expr:
        text = raw.cast(pl.String).fill_null("")
        return pl.when(text == "").then(pl.lit(default)).otherwise(text)

    return filled


def _models(raw: pl.Expr) -> pl.Expr:
    """Names with commas between them, without white space or empty ones."""
    names = raw.str.split(",").list.eval(pl.element().str.strip_chars())
    return names.list.eval(pl.element().filter(pl.element() != "")).list.join(",")


def _image(raw: pl.Expr) -> pl.Expr:
    text = raw.cast(pl.String)
    return pl.when(text.str.strip_chars() != "").then(text)


def _whole(raw: pl.Expr) -> pl.Expr:
    # A number that is not whole, or not below 2**63, becomes null: a complaint, not a
    # default.
    whole = raw.cast(pl.Int64, strict=False)
    return pl.when(whole.cast(pl.Float64) == raw.cast(pl.Float64)).then(whole)


def _whole_or(default: int) -> Callable[[pl.Expr], pl.Expr]:
    def filled(raw: pl.Expr) -> pl.Expr:
        return pl.when(absent(raw)).then(pl.lit(default)).otherwise(_whole(raw))

    return filled


def _seed(raw: pl.Expr) -> pl.Expr:
    whole = _whole(raw)
    return pl.when(whole != -1).then(whole)


def _usd(raw: pl.Expr) -> pl.Expr:
    number = raw.cast(pl.Float64)
    finite = pl.when(number.is_finite()).then(number.clip(-_MOST_USD, _MOST_USD))
    return finite.cast(MONEY)


def absent(raw: pl.Expr) -> pl.Expr:
    """Whether a number was left out: pandas writes a missing whole number as NaN."""
    return raw.is_null() | raw.cast(pl.Float64).is_nan()


_ANEW: Final = Job(image="", prompt="")
_MEANINGS: Final[Mapping[str, Callable[[pl.Expr], pl.Expr]]] = {
    "image": _image,
    "prompt": _text,
    "id": _text,
    "negative_prompt": _text_or(_ANEW.negative_prompt),
    "model": lambda raw: _models(_text_or(_ANEW.model)(raw)),
    "content": _text_or(_ANEW.content),
    "resolution": _text_or(_ANEW.resolution),
    "duration_s": _whole_or(_ANEW.duration_s),
    "aspect_ratio": _text_or(_ANEW.aspect_ratio),
    "seed": _seed,
    "take": _whole_or(_ANEW.take),
    "priority": _whole_or(0),
    "max_usd": _usd,
}

_KINDS: Final[Mapping[str, str]] = {
    "image": "text",
    "image_bytes": "bytes",
    "prompt": "text",
    "id": "text or a whole number",
    "negative_prompt": "text",
    "model": "text, or a list of texts",
    "content": "text",
    "resolution": "text",
    "duration_s": "a whole number",
    "aspect_ratio": "text",
    "seed": "a whole number",
    "take": "a whole number",
    "priority": "a whole number",
    "max_usd": "a number",
}
_NUMBER: Final = "\0row"
COLUMNS: Final = tuple(_KINDS)
"""The columns with a meaning here; every other column is carried along unread."""
WHOLE: Final = tuple(n for n, kind in _KINDS.items() if kind == "a whole number")


def _holds(dtype: pl.DataType, kind: str) -> bool:
    if dtype == pl.Null:
        return True
    match kind:
        case "text":
            return any(dtype == text for text in (pl.String, pl.Categorical, pl.Enum))
        case "bytes":
            return dtype == pl.Binary
        case "text, or a list of texts":
            return dtype == pl.List(pl.String) or _holds(dtype, "text")
        case "text or a whole number":
            # Snowflake unloads a NUMBER as DECIMAL(38, 0).
            whole = isinstance(dtype, pl.Decimal) and dtype.scale == 0
            return dtype.is_integer() or whole or _holds(dtype, "text")
        case "a whole number":
            # pandas writes whole numbers as floats if a null is among them.
            return dtype.is_numeric()
        case _:
            return dtype.is_numeric()


@contextmanager
def reading(uri: str) -> Generator[None]:
    """Raise any error of a Parquet reader as a `ManifestError` that names the manifest."""
    try:
        yield
    except ManifestError:
        raise
    # pyarrow's errors are ValueErrors and OSErrors too; a panic is no Exception.
    except (
        OSError,
        ValueError,
        pl.exceptions.PanicException,
        pl.exceptions.PolarsError,
    ) as exc:
        why = str(exc).partition("\n")[0]
        raise ManifestError(f"{unsigned(uri)}: not readable as Parquet: {why}") from exc


def refuse_near_names(frame: pl.LazyFrame, uri: str, carry: Collection[str]) -> None:
    """Refuse a column whose name is nearly one of ours, unless it is in `carry`.

    `Max_USD` or `resoluton` would be carried along unread: the clip would be bought
    without its limit, or at another resolution.

    Raises:
        ManifestError: there is such a column.
    """
    for name in frame.collect_schema():
        ours = resembled(name, COLUMNS)
        if ours and name not in carry:
            raise ManifestError(
                f"{unsigned(uri)}: column {name!r} has no meaning here: did you mean "
                f"{ours!r}? Rename it; or, if it is a column of your own, list it in "
                "nightreel.toml: [manifest] carry = "
                f"{json.dumps([name], ensure_ascii=False)}"
            )


def scan(path: Path, uri: str) -> pl.LazyFrame:
    """Open a manifest lazily, and complain about its columns.

    Raises:
        ManifestError: it is not Parquet, or a column is missing or of a wrong type.
    """
    with reading(uri):
        refuse_other_formats(path, uri)
    with reading(uri):
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        found = frame.collect_schema()
    for wrong in _wrong_columns(found):
        raise ManifestError(f"{unsigned(uri)}: {wrong}")
    return frame


_FORMATS: Final = {
    "CSV": re.compile(rb"[^\n\x00]*[,;\t|][^\n\x00]*\r?\n"),
    "JSON": re.compile(rb"\s*[\[{]\s*[\"{\]}]"),
}
_READERS: Final = {"CSV": "read_csv", "JSON": "read_ndjson"}


def refuse_other_formats(path: Path, uri: str) -> None:
    """Refuse CSV and JSON, with the command that converts them.

    Raises:
        ManifestError: it is one of them.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PAR1"):
        return
    for name in reversed(_FORMATS):
        if _FORMATS[name].match(head):
            convert = f"polars.{_READERS[name]}('FILE').write_parquet('FILE.parquet')"
            raise ManifestError(
                f"{unsigned(uri)}: is {name}, not Parquet; convert it with "
                f'python -c "import polars; {convert}"'
            )


def _wrong_columns(found: pl.Schema) -> Iterator[str]:
    there = f"; its columns are {', '.join(found)}"
    if "prompt" not in found:
        yield f"no column 'prompt'{there}"
    if not {"image", "image_bytes"} & found.keys():
        yield f"no column 'image' or 'image_bytes'{there}"
    for name, kind in _KINDS.items():
        dtype = found.get(name)
        if dtype is not None and not _holds(dtype, kind):
            yield f"column {name!r} holds {dtype}, not {kind}{_cure(name, dtype)}"


def _cure(name: str, dtype: pl.DataType) -> str:
    """How to write a column of Hugging Face's images as ours."""
    fields = (
        [field.name for field in dtype.fields] if isinstance(dtype, pl.Struct) else []
    )
    if name != "image" or "bytes" not in fields:
        return ""
    return (
        ": write its bytes as a column image_bytes, in polars with "
        ".select(pl.exclude('image'), image_bytes=pl.col('image').struct.field('bytes'))"
    )


def light(
    frame: pl.LazyFrame, first: int, rows: int, names: Collection[str]
) -> pl.LazyFrame:
    """A number of rows from `first`, numbered: those of these columns that exist."""
    schema = frame.collect_schema()
    flat = [
        pl.col(name).list.join(",") if schema[name] == pl.List(pl.String) else name
        for name in names
        if name in schema
    ]
    # A column of the user's own may be called `row`.
    numbered = frame.slice(first, rows).with_row_index(_NUMBER, first)
    return numbered.select(pl.col(_NUMBER).alias("row"), *flat)


def meant(raw: pl.DataFrame, names: Collection[str]) -> pl.DataFrame:
    """These columns in full, with the raw values beside them as `said …`.

    Null where a column has no default, and where the raw value is not valid.
    """
    lacking = [name for name in names if name not in raw.columns]
    full = raw.with_columns(pl.lit(None).alias(name) for name in lacking)
    return full.select(
        "row",
        *(_MEANINGS[name](pl.col(name)).alias(name) for name in names),
        *(pl.col(name).alias(f"said {name}") for name in names),
    )
