"""Finds the files of a manifest that is a folder or a pattern.

A folder ends with a slash, and its `*.parquet` files at any depth are the manifest. A
pattern has a `*` in it: `*` stands for any text in one name, `**/` for any folders.

Every function blocks; call it in a thread.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import fsspec

from manifests.uris import folder, scheme, unsigned
from storage.objects import local_path
from storage.objects.connect import REMOTE, bucket, refuse_forks
from storage.sources import OpeningError, opening

_EVERY: Final = "**/*.parquet"
_WILD: Final = re.compile(r"\*\*/|\*+")
_MARKS: Final = {
    "_temporary": "is still being written: there are files in _temporary",
    "_delta_log": (
        "is a Delta table, and some of its files may be deleted rows: write one file with "
        'python -c "import polars; '
        "polars.scan_delta('FOLDER').sink_parquet('one.parquet')\""
    ),
    ".hoodie": "is a Hudi table, and some of its files may be old: unload it to Parquet",
}
_ICEBERG: Final = re.compile(r"(.*/)?metadata/[^/]*\.metadata\.json")
_ICEBERG_TABLE: Final = (
    "is an Iceberg table, and some of its files may be old: write one file with "
    'python -c "import polars; '
    "polars.scan_iceberg('METADATA.json').sink_parquet('one.parquet')\""
)
_NULL: Final = "__HIVE_DEFAULT_PARTITION__"

_fsspec: Any = fsspec  # it has no types


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a manifest."""

    name: str
    """Its path below the manifest's folder."""
    uri: str
    version: str
    """Another one if the file is written anew."""

    @property
    def partitions(self) -> dict[str, str | None]:
        """The columns that Hive's names of folders state, such as `day=2026-11-30`."""
        pairs = [part.partition("=") for part in self.name.split("/")[:-1]]
        return {
            unquote(name): None if value == _NULL else unquote(value)
            for name, equals, value in pairs
            if name and equals
        }


def files(uri: str) -> list[SourceFile]:
    """The files of a manifest that is a folder or a pattern, by their names.

    Those with a name, or in a folder, that begins with `_` or `.` are none of them.

    Raises:
        OpeningError: there is none, they are a table's with other rules, or the folder
            cannot be listed.
    """
    base = folder(uri)
    with opening(uri):
        found = sorted(_below(base), key=lambda file: file.name)
    if problem := _no_manifest([file.name for file in found]):
        raise OpeningError(f"{unsigned(uri)}: {problem}")
    pattern = _EVERY if uri.endswith("/") else uri[len(base) :]
    if scheme(uri) == "file":
        pattern = unquote(pattern)
    wanted = _matcher(pattern)
    parts = [one for one in found if wanted.fullmatch(one.name) and _is_data(one.name)]
    if not parts:
        what = "*.parquet file" if uri.endswith("/") else "file that matches"
        raise OpeningError(f"{unsigned(uri)}: no {what} in {unsigned(base)}")
    return parts


def _below(base: str) -> Iterator[SourceFile]:
    kind = scheme(base)
    if kind in {"", "file"}:
        return _on_disk(local_path(base))
    if kind in REMOTE:
        return _in_a_bucket(base)
    return _elsewhere(base)


def _on_disk(root: Path) -> Iterator[SourceFile]:
    if not root.is_dir():
        raise FileNotFoundError(root)
    for path in root.rglob("*"):
        if path.is_file():
            now = path.stat()
            name = path.relative_to(root).as_posix()
            version = f"{now.st_size}-{now.st_mtime_ns}"
            yield SourceFile(name, path.as_uri(), version)


def _in_a_bucket(base: str) -> Iterator[SourceFile]:
    refuse_forks()
    store: Any = bucket(base)  # its `list` is partly without types
    for page in store.list():
        for found in page:
            version = f"{found['size']}-{found['e_tag'] or found['last_modified']}"
            yield SourceFile(found["path"], base + found["path"], version)


def _elsewhere(base: str) -> Iterator[SourceFile]:
    system, root = _fsspec.core.url_to_fs(base)
    prefix = f"{root.rstrip('/')}/"
    for path, info in system.find(root, detail=True).items():
        changed = [info.get(tag) for tag in ("ETag", "etag", "oid", "mtime", "created")]
        version = f"{info['size']}-{changed}"
        yield SourceFile(
            path.removeprefix(prefix), system.unstrip_protocol(path), version
        )


def _no_manifest(names: list[str]) -> str | None:
    """Why the files of a folder are no manifest as they are."""
    parts = {part for name in names for part in name.split("/")[:-1]}
    for mark, problem in _MARKS.items():
        if mark in parts:
            return problem
    return _ICEBERG_TABLE if any(map(_ICEBERG.fullmatch, names)) else None


def _is_data(name: str) -> bool:
    # Spark and Hadoop name what is no data so; a column may begin with _ all the same.
    parts = name.split("/")
    return not any(part.startswith(("_", ".")) and "=" not in part for part in parts)


def _matcher(pattern: str) -> re.Pattern[str]:
    found, at = "", 0
    for wild in _WILD.finditer(pattern):
        found += re.escape(pattern[at : wild.start()])
        found += "(?:.*/)?" if wild[0] == "**/" else "[^/]*"
        at = wild.end()
    return re.compile(found + re.escape(pattern[at:]))
