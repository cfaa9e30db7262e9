"""Local files that survive a power cut: complete under their name, or absent.

A name is durable once its folder is synced. So a folder is made only in a folder whose own
name is durable already.
"""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_DRAFT: Final = re.compile(r"#\d{19}$")
_DAY_S: Final = 86400.0

_DURABLE: Final[set[Path]] = set()
"""Folders whose names this process has made durable."""


def create(path: Path, data: bytes | Path, *, root: Path | None = None) -> None:
    """Write a file that must not exist yet: these bytes, or those of another file.

    `root` and the folders above it are not made.

    Raises:
        FileExistsError: it does.
    """
    with _draft(path, data, root) as draft:
        try:
            # A link refuses a name that is taken, where a rename replaces it silently.
            path.hardlink_to(draft)
        finally:
            # Even if the name was taken: its creator may have been killed before this.
            _sync(path.parent)


def replace(path: Path, data: bytes | Path, *, root: Path | None = None) -> None:
    """Write a file in the place of whatever has its name; `root` is not made."""
    with _draft(path, data, root) as draft:
        draft.replace(path)
        _sync(path.parent)


def make(folder: Path, *, root: Path | None = None) -> None:
    """Make a folder, and whatever it is in, durably; but neither `root` nor above it.

    Raises:
        FileNotFoundError: `root` is not there.
    """
    if folder in _DURABLE and folder.is_dir():
        return
    if folder.is_dir():
        # Its creator may have been killed before the name was durable. Or we may enter
        # the folder but not open its parent.
        with suppress(PermissionError):
            _sync(folder.parent)
    elif folder == root:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    else:
        make(folder.parent, root=root)
        _mkdir(folder)
        _sync(folder.parent)
    _DURABLE.add(folder)


def _mkdir(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        why = os.strerror(errno.ENOTDIR)
        raise NotADirectoryError(errno.ENOTDIR, why, str(folder)) from None


@contextmanager
def _draft(path: Path, data: bytes | Path, root: Path | None) -> Generator[Path]:
    if path.parent not in _DURABLE:
        _sweep(path.parent)
    make(path.parent, root=root)
    # obstore's listings skip names that end in # and digits: its own drafts.
    draft = path.with_name(f"{path.name}#{secrets.randbits(63):019}")
    try:
        with draft.open("xb") as file:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Delete half-written files of killed processes from a folder, after a day.

    It runs once for each folder that a process writes to: no other folder has drafts, so
    a million clips need not be searched.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as names:
        for name in names:
            if _DRAFT.search(name.name):
                with suppress(FileNotFoundError):
                    if name.stat().st_mtime < time.time() - _DAY_S:
                        Path(name).unlink()


def _sync(folder: Path) -> None:
    """Make a folder's names durable: a new name is its folder's data, not its file's."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network disks do not buffer names, and cannot sync a folder.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)
