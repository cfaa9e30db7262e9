"""Spill files: entries that the store did not take, kept on this machine.

A provider's answer that could not be recorded is money. It is written to a file on this
machine, and the next run that opens the root here records it (`spill_recovery`). The file
is allocated when its owner opens the ledger, so that a full disk has room for its entries
(`reserved_file`). It stays locked for as long as the owner may need the room.
"""

import fcntl
import logging
import os
import secrets
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from storage.ledger.reserved_file import RESERVED, ReservedFile, written
from storage.ledger.spilled_entry import SpilledEntry, worth_saving
from storage.state_folder import state_folder

log = logging.getLogger(__name__)


class SpillFile:
    """The spill file of one owner: a batch, or one run of a shard."""

    def __init__(self, path: Path, root: str) -> None:
        self._path = path
        self._root = root
        self._room: ReservedFile | None = None

    @property
    def is_reserved(self) -> bool:
        """Whether a full disk has room for entries."""
        return self._room is not None

    def reserve(self) -> None:
        """Allocate the file and lock it. A failure is logged: the batch works without it."""
        try:
            self._path = self._path.expanduser()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path.parent):
                if self._path.exists():
                    # A live process has it: its root was begun again at the same URI.
                    token = secrets.token_hex(4)
                    self._path = self._path.with_suffix(f".{token}.jsonl")
                self._room = ReservedFile(self._path)
        except (OSError, RuntimeError) as error:
            log.warning(
                "ledger.spill_not_reserved file=%s bytes=%d no room could be kept for a full disk, make room on this machine: %s",
                self._path,
                RESERVED,
                error,
            )

    def save(self, lost: Iterable[SpilledEntry]) -> None:
        """Save entries durably, before their callers see the error. Never fails.

        It blocks on purpose: a cancelled caller must not lose them.
        """
        lines = [spilled.dump() for spilled in worth_saving([*lost])]
        if not lines:
            return
        try:
            self._path = self._path.expanduser()
            self._append(lines)
        except (OSError, RuntimeError) as error:
            # The log is then the only record; no ticket has a key or a signature in it.
            log.error(  # noqa: TRY400 - the error is in the message
                "ledger.spill_failed file=%s the log has the only record: %s",
                self._path,
                error,
            )
            for line in lines:
                log.error(  # noqa: TRY400 - as above
                    "ledger.entry_unsaved keep this line: %s", line.decode().rstrip()
                )
        else:
            log.error(
                "ledger.spilled file=%s entries=%d root=%s start the next run on this machine",
                self._path,
                len(lines),
                self._root,
            )

    def release(self) -> None:
        """Free the unused room and unlock the file: any run may recover it from now on.

        A file without entries is deleted. Later entries are appended without reserved room.
        """
        if (room := self._room) is None:
            return
        # If it fails, the next run finds the file unlocked, and does the same.
        with suppress(OSError), _locked(self._path.parent):
            room.trim()
        self._room = None
        room.unlock()

    def _append(self, lines: Sequence[bytes]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self._path.parent) as folder:
            # A person may have moved or deleted the file.
            if self._room is not None and self._room.is_there():
                self._room.write(lines)
            else:
                _append(self._path, b"".join(lines))
            os.fsync(folder)


class SpillFolder:
    """The spill files of one root on this machine."""

    def __init__(self, folder: Path | None, root: str) -> None:
        self._root = root
        below = folder or state_folder() / "spill"
        self._folder = below / sha256(root.encode()).hexdigest()[:16]

    def file(self, name: str) -> SpillFile:
        return SpillFile(self._folder / f"{name}.jsonl", self._root)

    def arrivals(self) -> list[Path]:
        """The files of earlier runs; no process adds to them any more."""
        try:
            folder = self._folder.expanduser()
            return self._taken(folder) if folder.is_dir() else []
        except (OSError, RuntimeError) as error:
            self._warn(error)
            return []

    def count(self) -> int:
        """The number of entries in the files, which no run has recovered yet."""
        try:
            folder = self._folder.expanduser()
            paths = [*folder.glob("*.jsonl"), *folder.glob("*.recovering")]
            return sum(_count(path) for path in paths)
        except (OSError, RuntimeError) as error:
            self._warn(error)
            return 0

    def take(self, name: str, lines: bytes) -> None:
        """Add lines that another machine uploaded to the arrivals.

        Raises:
            OSError: it cannot be kept here.
        """
        path = self._folder.expanduser() / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent) as folder:
            _append(path, lines)
            os.fsync(folder)

    def _warn(self, error: Exception) -> None:
        log.warning(
            "ledger.spill_unreadable folder=%s what earlier runs left there is not recovered: %s",
            self._folder,
            error,
        )

    def _taken(self, folder: Path) -> list[Path]:
        with _locked(folder):
            for path in folder.glob("*.jsonl"):
                _take(path)
            return sorted(folder.glob("*.recovering"))


def _take(path: Path) -> None:
    """Take the file of an owner that is done with it; delete it if it has no entry."""
    with path.open("rb") as file:
        lines = written(path)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if lines:
                log.warning(
                    "ledger.spill_in_use file=%s its process still runs, a run that starts after its end recovers the entries",
                    path,
                )
            return
        if lines:
            path.rename(path.with_suffix(f".{secrets.token_hex(4)}.recovering"))
        else:
            path.unlink()


def _count(path: Path) -> int:
    # A run that ends or begins meanwhile renames or deletes the file.
    with suppress(FileNotFoundError):
        return written(path).count(b"\n")
    return 0


def _append(path: Path, lines: bytes) -> None:
    with path.open("ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _locked(folder: Path) -> Generator[int]:
    """Lock a folder, so that nothing is added to a file once it has been taken."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)
