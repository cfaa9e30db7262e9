"""Copies a manifest into the working folder of a batch: one file, whatever it is made of."""

from pathlib import Path
from tempfile import TemporaryDirectory

from manifests.input import Part, join, split_pairs
from manifests.uris import is_several, scheme, unsigned
from storage.objects import local_path
from storage.source_folders import files
from storage.sources import OpeningError, fetch_to


def manifest_uri(given: str, uri: str) -> str:
    """The URI of a manifest, as it was given and as a URI.

    That of a folder of this machine ends with a slash. A `*` in it is a pattern's, unless
    there is such a file.
    """
    if scheme(uri) != "file" or uri.endswith("/"):
        return uri
    path = local_path(uri)
    if path.is_dir():
        return uri.replace("*", "%2A") + "/"
    if path.exists():
        return uri.replace("*", "%2A")
    return uri.replace("%2A", "*") if "*" in given else uri


def copy_manifest(uri: str, copy: Path) -> None:
    """Copy a file, or all files of a folder or a pattern, to one file.

    Raises:
        OpeningError: they are out of reach, or changed while they were read.
        ManifestError: their columns differ.
    """
    if is_several(uri):
        _copy_several(uri, copy)
    else:
        fetch_to(uri, copy)
    split_pairs(copy, uri)


def _copy_several(uri: str, copy: Path) -> None:
    found = files(uri)
    with TemporaryDirectory(dir=copy.parent) as folder:
        parts: list[Part] = []
        for number, file in enumerate(found):
            part = Part(Path(folder, f"{number}.parquet"), file.uri, file.partitions)
            fetch_to(file.uri, part.path)
            parts.append(part)
        if files(uri) != found:
            raise OpeningError(
                f"{unsigned(uri)}: its files changed while they were read: run it again "
                "when all of them are written",
                passing=True,
            )
        join(parts, copy)
