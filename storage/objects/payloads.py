"""Bodies of puts, in the form that a store reads with little memory."""

import hashlib
import mmap
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from storage.objects.connect import REMOTE

if TYPE_CHECKING:
    from obstore import Attributes

Body = bytes | memoryview | Path

LARGE: Final = 64 << 20
"""Bytes from which on a request needs more time, or several parts."""

_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".mp4": "video/mp4",
}


def attributes(key: str) -> "Attributes":
    media_type = _MEDIA_TYPES.get(PurePosixPath(key).suffix)
    return {} if media_type is None else {"Content-Type": media_type}


def at_once(path: Path, scheme: str) -> Body:
    """A file for a store of this scheme, as one request sends it."""
    match scheme:
        case "file":
            return path
        case "memory":
            # The memory store would keep the mapping, and see later changes of the file.
            return path.read_bytes()
        case _:
            return mapped(path)


def in_parts(path: Path, scheme: str) -> Body:
    """A file for a store of this scheme: in parts if it is large."""
    large = scheme in REMOTE and path.stat().st_size > LARGE
    return path if large else at_once(path, scheme)


def mapped(path: Path) -> bytes | memoryview:
    """A file's bytes as a memory mapping, whose pages the machine can reclaim.

    obstore reads them in place: putting 200 MB took 12 MB of our memory.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            return b""
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def is_another(e_tag: str | None, sent: bytes | memoryview) -> bool:
    """Whether an ETag, where it is an MD5 at all, is not that of what was sent."""
    told = re.fullmatch(r'"?([0-9a-f]{32})"?', e_tag or "")
    if told is None:
        return False
    return told[1] != hashlib.md5(sent, usedforsecurity=False).hexdigest()
