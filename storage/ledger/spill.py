"""Spill files: entries that the store did not take, kept on this machine.

A provider's answer that could not be recorded is money. It is written to a file on this
machine, with the state of its job at that time. The next run that opens the root here
records the entry if the job is still in that state, and keeps the file aside if not. An
`Intended` that was given up is spilled as "never sent", in case the store has it after all.
"""

import fcntl
import logging
import os
import secrets
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

import orjson

from manifests.lifecycle import (
    Accepted,
    Entry,
    Generated,
    History,
    Intended,
    Published,
    Refused,
    State,
)
from storage import checksum
from storage.ledger.codec import LedgerError, dump, load
from storage.state_folder import state_folder

UNSENT: Final = Refused("never sent: nobody said that its intent was on record")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SpilledEntry:
    """An entry that could not be put on record, and the state of its life then."""

    entry: Entry
    state: str
    attempts: int
    submitted_at: float | None
    segment: str
    """The segment that may hold it, if only the store's answer was lost."""

    @classmethod
    def of(cls, entry: Entry, was: History, segment: str) -> Self:
        return cls(entry, was.state, was.attempts, was.submitted_at, segment)

    def fitting(self, history: History) -> Entry:
        """The entry, if its life is still in the state that it had.

        Raises:
            LedgerError: it is not.
        """
        if not self._stands(history):
            change = f"was {self.state} at attempt {self.attempts}, is {history.state}"
            raise LedgerError(f"job {self.entry.job} {change} at {history.attempts}")
        return self.entry

    def is_known(self, history: History) -> bool:
        """Whether the event is on record already, or no longer needs to be."""
        match self.entry.event:
            case Refused(UNSENT.reason):
                return not self._stands(history)
            case Intended():
                return history.submitted_at == self.entry.at
            case Accepted(ticket):
                return history.ticket == ticket
            case Generated():
                return history.generated_at == self.entry.at
            case Published(uri):
                return history.uri == uri
            case _:
                return False

    def unsent(self) -> Self:
        """The correction of an intent that was not sent, in case it is on record."""
        job, at = self.entry.job, self.entry.at
        return replace(
            self,
            entry=Entry(job, at, UNSENT),
            state=State.IN_DOUBT,
            attempts=self.attempts + 1,
            submitted_at=at,
        )

    def dump(self) -> bytes:
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields["entry"] = orjson.Fragment(dump(self.entry).rstrip())
        return checksum.dump(fields, option=0) + b"\n"

    def _stands(self, history: History) -> bool:
        stood = (self.state, self.attempts, self.submitted_at)
        return stood == (history.state, history.attempts, history.submitted_at)

    @classmethod
    def load(cls, line: bytes, place: str) -> Self:
        """An entry from its line in a spill file.

        Raises:
            DamagedError: it is not what was written.
            LedgerError: another Nightreel wrote it.
        """
        fields = checksum.load(line.removesuffix(b"\n"), place)
        try:
            fields["entry"] = _entry(fields["entry"], place)
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise LedgerError(f"{place}: {error!r} in {line[:200]!r}") from error


class SpillFolder:
    """The spill files of one root on this machine."""

    def __init__(self, folder: Path | None, root: str) -> None:
        self._root = root
        below = folder or state_folder() / "spill"
        self._folder = below / sha256(root.encode()).hexdigest()[:16]

    def save(self, name: str, lost: Iterable[SpilledEntry]) -> None:
        """Save entries durably, before their callers see the error. Never fails.

        It blocks on purpose: a cancelled caller must not lose them.
        """
        lines = [spilled.dump() for spilled in _worth_saving([*lost])]
        if not lines:
            return
        path = self._folder / f"{name}.jsonl"
        try:
            path = path.expanduser()
            self._append(path, b"".join(lines))
        except (OSError, RuntimeError) as error:
            # The log is then the only record; no ticket has a key or a signature in it.
            log.error(  # noqa: TRY400 - the error is in the message
                "ledger.spill_failed file=%s the log has the only record: %s",
                path,
                error,
            )
            for line in lines:
                log.error(  # noqa: TRY400 - as above
                    "ledger.entry_unsaved keep this line: %s", line.decode().rstrip()
                )
        else:
            entries, root = len(lines), self._root
            log.error(
                "ledger.spilled file=%s entries=%d root=%s start the next run on this machine",
                path,
                entries,
                root,
            )

    def arrivals(self) -> list[Path]:
        """The files of earlier runs; no process adds to them any more."""
        try:
            folder = self._folder.expanduser()
            return self._taken(folder) if folder.is_dir() else []
        except (OSError, RuntimeError) as error:
            log.warning(
                "ledger.spill_unreadable folder=%s what earlier runs left there is not recovered: %s",
                self._folder,
                error,
            )
            return []

    def take(self, name: str, lines: bytes) -> None:
        """Add lines that another machine uploaded to the arrivals.

        Raises:
            OSError: it cannot be kept here.
        """
        path = self._folder.expanduser() / name
        path.unlink(missing_ok=True)
        self._append(path, lines)

    def _taken(self, folder: Path) -> list[Path]:
        with _locked(folder):
            for path in folder.glob("*.jsonl"):
                path.rename(path.with_suffix(f".{secrets.token_hex(4)}.recovering"))
            return sorted(folder.glob("*.recovering"))

    def _append(self, path: Path, lines: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent) as folder:
            with path.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            os.fsync(folder)


def _worth_saving(lost: list[SpilledEntry]) -> list[SpilledEntry]:
    """All entries; an intent without a later entry was not sent, and is spilled as such."""
    followed = set[str]()
    kept: list[SpilledEntry] = []
    for spilled in reversed(lost):
        job, event = spilled.entry.job, spilled.entry.event
        unsent = isinstance(event, Intended) and job not in followed
        kept.append(spilled.unsent() if unsent else spilled)
        followed.add(job)
    return kept[::-1]


def _entry(payload: object, place: str) -> Entry:
    record = load(payload, place)
    if not isinstance(record, Entry):
        raise LedgerError(f"{place}: not an entry")
    return record


@contextmanager
def _locked(folder: Path) -> Generator[int]:
    """Lock a folder, so that nothing is added to a file once it has been taken."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)
