"""Lifeboats: what could not be put on record, kept on this machine for the next run.

An answer that a provider gave, and that no store took, is money. It is written to a file
of this machine, with where its life stood; the next run that opens the root here takes
it aboard if its life still stands there, and keeps the file aside if not. Of an intent
that was given up it is told that it was never sent, should it be on record after all.
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
from typing import Final

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

LIFEBOATS: Final = Path("~/.local/state/nightreel/lifeboats")

UNSENT: Final = Refused("never sent: nobody said that its intent was on record")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Castaway:
    """An entry that could not be put on record, and where its life stood."""

    entry: Entry
    state: str
    attempts: int
    submitted_at: float | None
    segment: str
    """Which segment it may have come to be in, if the store only never said so."""

    @classmethod
    def of(cls, entry: Entry, was: History, segment: str) -> "Castaway":
        return cls(entry, was.state, was.attempts, was.submitted_at, segment)

    def fitting(self, past: History) -> Entry:
        """The entry, if its life still stands where it stood.

        Raises:
            LedgerError: it does not.
        """
        if not self._stands(past):
            said = f"was {self.state} at attempt {self.attempts}, is {past.state}"
            raise LedgerError(f"job {self.entry.job} {said} at {past.attempts}")
        return self.entry

    def is_known(self, past: History) -> bool:
        """Whether it, or the same news of it, is on record, or there is nothing to tell."""
        match self.entry.event:
            case Refused(UNSENT.reason):
                return not self._stands(past)
            case Intended():
                return past.submitted_at == self.entry.at
            case Accepted(ticket):
                return past.ticket == ticket
            case Generated():
                return past.generated_at == self.entry.at
            case Published(uri):
                return past.uri == uri
            case _:
                return False

    def unsent(self) -> "Castaway":
        """Of an intent, what is to be told if it came to be on record."""
        job, at = self.entry.job, self.entry.at
        return replace(
            self,
            entry=Entry(job, at, UNSENT),
            state=State.IN_DOUBT,
            attempts=self.attempts + 1,
            submitted_at=at,
        )

    def dump(self) -> bytes:
        said = {name: getattr(self, name) for name in self.__slots__}
        said["entry"] = orjson.Fragment(dump(self.entry).rstrip())
        return checksum.dump(said, option=0) + b"\n"

    def _stands(self, past: History) -> bool:
        stood = (self.state, self.attempts, self.submitted_at)
        return stood == (past.state, past.attempts, past.submitted_at)

    @classmethod
    def load(cls, line: bytes, place: str) -> "Castaway":
        """A castaway from its line.

        Raises:
            DamagedError: it is not what was written.
            LedgerError: another Nightreel wrote it.
        """
        said = checksum.load(line.removesuffix(b"\n"), place)
        try:
            said["entry"] = _entry(said["entry"], place)
            return cls(**said)
        except (KeyError, TypeError) as error:
            raise LedgerError(f"{place}: {error!r} in {line[:200]!r}") from error


class Harbour:
    """The lifeboats of one root on this machine."""

    def __init__(self, folder: Path, root: str) -> None:
        self._root = root
        self._folder = folder / sha256(root.encode()).hexdigest()[:16]

    def save(self, name: str, lost: Iterable[Castaway]) -> None:
        """Keep what was lost, durably, before anybody is told; it never fails.

        It blocks: whoever is stopped here must not lose it.
        """
        lines = [castaway.dump() for castaway in _worth_saving([*lost])]
        if not lines:
            return
        path = self._folder / f"{name}.jsonl"
        try:
            path = path.expanduser()
            self._append(path, b"".join(lines))
        except (OSError, RuntimeError) as error:
            # Then the log is all there is; no ticket has a key or a signature in it.
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
        """The files of earlier runs; nobody adds to them any more."""
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
        """Have what another machine sent here among the arrivals.

        Raises:
            OSError: it cannot be kept here.
        """
        path = self._folder.expanduser() / name
        path.unlink(missing_ok=True)
        self._append(path, lines)

    def _taken(self, folder: Path) -> list[Path]:
        with _locked(folder):
            for path in folder.glob("*.jsonl"):
                path.rename(path.with_suffix(f".{secrets.token_hex(4)}.boarding"))
            return sorted(folder.glob("*.boarding"))

    def _append(self, path: Path, lines: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent) as folder:
            with path.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            os.fsync(folder)


def _worth_saving(lost: list[Castaway]) -> list[Castaway]:
    """All; an intent that nothing follows was not sent: whoever meant to was told not to."""
    followed = set[str]()
    kept: list[Castaway] = []
    for castaway in reversed(lost):
        job, event = castaway.entry.job, castaway.entry.event
        unsent = isinstance(event, Intended) and job not in followed
        kept.append(castaway.unsent() if unsent else castaway)
        followed.add(job)
    return kept[::-1]


def _entry(said: object, place: str) -> Entry:
    record = load(said, place)
    if not isinstance(record, Entry):
        raise LedgerError(f"{place}: not an entry")
    return record


@contextmanager
def _locked(folder: Path) -> Generator[int]:
    """A folder to oneself: a file is never added to once it has been taken."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)
