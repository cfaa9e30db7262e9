"""A file with reserved room: lines can be written to it while the disk is full.

Unused room reads as NULs at its end. The lock shows other processes that its owner lives:
the kernel frees it when the owner is killed.
"""

import fcntl
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Final

RESERVED: Final = 4 << 20
"""Bytes of one file: some eight thousand entries."""


class ReservedFile:
    """A new file with reserved room, locked until `unlock` or the end of its owner."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        # An owner that was dropped without a close must not keep the lock.
        self.unlock = weakref.finalize(self, os.close, self._handle)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _allocate(self._handle)
        except OSError:
            path.unlink()
            self.unlock()
            raise

    def is_there(self) -> bool:
        """Whether the file still has its name."""
        try:
            return os.path.samestat(os.fstat(self._handle), self._path.stat())
        except FileNotFoundError:
            return False

    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines durably, beyond the reserved room if they need more.

        Raises:
            OSError: there is no more room; the lines before the failed one are written.
        """
        try:
            for line in lines:
                self._end = _write(self._handle, self._end, line)
        except OSError:
            # No entry may be written over the rest of a line that was cut.
            os.ftruncate(self._handle, self._end)
            raise
        finally:
            os.fsync(self._handle)

    def trim(self) -> None:
        """Free the room that no line used; a file without lines is deleted."""
        if self._end:
            os.ftruncate(self._handle, self._end)
        elif self.is_there():
            self._path.unlink()


def written(path: Path) -> bytes:
    """The lines of a file, without the room that none of them uses."""
    return path.read_bytes().rstrip(b"\0")


def _write(handle: int, at: int, data: bytes) -> int:
    """Write all of it at this place; returns the place after it."""
    while data:
        count = os.pwrite(handle, data, at)
        at, data = at + count, data[count:]
    return at


def _allocate(handle: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, RESERVED)
    else:
        _write(handle, 0, bytes(RESERVED))
