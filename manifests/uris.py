"""Places: the absolute URIs that a manifest's images mean, worked out by name alone."""

import re
from functools import lru_cache
from typing import Final

SCHEMES: Final = frozenset(
    "file http https s3 s3a gs gcs az abfs abfss adl hf memory zip tar ftp ftps sftp ssh "
    "smb hdfs webhdfs oss oci box gdrive dropbox github git lakefs dbfs wandb local "
    "simplecache filecache blockcache libarchive webdav".split()
)
"""What fsspec can open, and its chains such as `zip://a.jpg::s3://bucket/stills.zip`."""

_HOSTLESS: Final = frozenset({"file", "local", "memory", "zip", "tar", "libarchive"})
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(://|::)")


def scheme(uri: str) -> str:
    """The URI's scheme in lower case, or "" if it is relative or a path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def absolute(uri: str, base: str) -> str:
    """The URI as seen from the file at `base`; percent-encoding stays as it is.

    A path from the root is a file of this machine, whatever the base; HTTPS: is https:.
    """
    if own := _SCHEME.match(uri):
        return uri if own[1].islower() else own[0].lower() + uri[own.end() :]
    if uri.startswith("/"):
        return f"file://{uri}"
    start = _SCHEME.match(base)
    if start and start[2] == "::":
        return start[0] + absolute(uri, base[start.end() :])
    inner, chained, outer = base.partition("::")
    return f"{_beside(inner, uri)}{chained}{outer}"


def _beside(base: str, name: str) -> str:
    root, folders = _folder(base)
    steps = [*folders]
    for step in name.split("/"):
        if step == "..":
            del steps[-1:]
        elif step != ".":
            steps.append(step)
    return root + "/".join(steps)


@lru_cache(maxsize=8)
def _folder(base: str) -> tuple[str, tuple[str, ...]]:
    """Where `..` stops climbing (a host, a bucket, the root), and the folders below it."""
    start = _SCHEME.match(base)
    root, path = (start[0], base[start.end() :]) if start else ("file://", base)
    if scheme(root) in {"http", "https"}:
        path = re.split("[?#]", path, maxsplit=1)[0]
    if scheme(root) not in _HOSTLESS or path.startswith("/"):
        host, _, path = path.partition("/")
        root = f"{root}{host}/"
    return root, tuple(path.split("/")[:-1])
