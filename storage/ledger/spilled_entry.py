"""An entry that the store did not take, as a line of a spill file.

It has the state of its job at that time: the next run records the entry if the job is
still in that state. An `Intended` that was given up is spilled as "never sent", in case
the store has it after all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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

UNSENT: Final = Refused("never sent: nobody said that its intent was on record")


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


def worth_saving(lost: Sequence[SpilledEntry]) -> list[SpilledEntry]:
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
