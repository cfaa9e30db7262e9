"""The disk reserve: a file on a local root's disk, deleted when the disk is full.

The space that it frees holds the entries of requests that are in flight then.
"""

import logging
import os
from pathlib import Path
from typing import Final

from storage import layout
from storage.objects import local_path

BALLAST: Final = 4 << 20
"""Bytes: some ten thousand entries, each in a separate segment at worst."""

log = logging.getLogger(__name__)


class Ballast:
    """The disk reserve of one root; a remote root has none."""

    def __init__(self, root: str) -> None:
        local = root.startswith("file://")
        self._path = local_path(root) / layout.BALLAST if local else None

    def take_on(self) -> None:
        if self._path is None:
            return
        try:
            _allocate(self._path)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            log.warning(
                "ledger.disk_reserve_missing file=%s no room could be kept for a full disk: %s",
                self._path,
                error.strerror,
            )

    def drop(self) -> bool:
        """Release the space; False if there was none."""
        if self._path is None or not self._path.exists():
            return False
        self._path.unlink(missing_ok=True)
        return True


def _allocate(path: Path) -> None:
    # Without its parents: a root that has vanished must not be created again.
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, BALLAST)
        else:
            file.write(bytes(max(0, BALLAST - file.tell())))
