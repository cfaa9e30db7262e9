"""Local files that survive a power cut: whole under their name, or not there at all."""

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def create(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet.

    Raises:
        FileExistsError: it does.
    """
    with _draft(path, data) as draft:
        # A link refuses a name that is taken, where a rename replaces it silently.
        path.hardlink_to(draft)
    _sync(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Write a file in the place of whatever has its name."""
    with _draft(path, data) as draft:
        draft.replace(path)
    _sync(path.parent)


@contextmanager
def _draft(path: Path, data: bytes) -> Generator[Path]:
    _make(path.parent)
    # obstore's listings skip names that end in # and digits: its own drafts.
    draft = path.with_name(f"{path.name}#{secrets.randbits(63)}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Make a folder's names durable: a new name is its folder's data, not its file's."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
