"""The keeper: how the ledger reacts to the outcome of each write of its stream.

A store that is unavailable is waited for during ten minutes. A store that refuses is asked
again for 30 seconds, because clips in progress are paid for; but the keeper reports the
refusal at once, and buying stops. Entries that could not be written are spilled. A full
local disk is not asked again if the spill file has room: an answer is safe there at once,
and in memory only until the process is killed.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from manifests.lifecycle import Entry, History
from storage.ledger.codec import LedgerError, dump
from storage.ledger.segments import FencedError, FullRootError
from storage.ledger.spill import SpillFile
from storage.ledger.spilled_entry import SpilledEntry
from storage.ledger.state_index import StateIndex
from storage.objects import FullError, Objects, RetryPolicy, StorageError

UNAVAILABLE_S: Final = 600.0
"""How long a store may be unavailable before a batch gives up, however it was opened."""
REFUSED_S: Final = 30.0
"""How long it may refuse, for a reason that does not pass by itself."""
LOG_S: Final = 60.0
"""Seconds between two log lines about refused writes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An entry on its way to the store."""

    entry: Entry
    line: bytes
    was: History
    history: History
    durable: asyncio.Future[None]


class Keeper:
    """Receives the outcome of each entry of one stream, before the entry's caller does."""

    def __init__(
        self,
        objects: Objects,
        state_index: StateIndex,
        spill_file: SpillFile,
        *,
        successor: str,
    ) -> None:
        self.recovering = False
        """Whether the entries come from spill files, which still have them."""
        self._state_index = state_index
        # The history of a life once all its queued entries are durable.
        self._ahead: dict[str, History] = {}
        self._objects = objects
        self._spill_file = spill_file
        self._successor = successor
        self._refused = False
        self._logged_at = -math.inf
        self._trouble: str | None = None
        self._told: Callable[[str], None] | None = None

    def standing(self, life: str) -> History:
        """The history of a life once all its queued entries are durable."""
        return self._ahead.get(life) or self._state_index.history(life)

    def expect(self, entry: Entry) -> Waiting:
        """Apply an entry that is about to be queued.

        Raises:
            IllegalTransitionError: it cannot happen now.
        """
        was = self.standing(entry.job)
        durable = asyncio.get_running_loop().create_future()
        # `dump` here: an entry that cannot be encoded fails only its own caller.
        waiting = Waiting(entry, dump(entry), was, was.after(entry), durable)
        self._ahead[entry.job] = waiting.history
        return waiting

    def retry(self, key: str) -> RetryPolicy:
        """How long the write of a segment is repeated."""
        return RetryPolicy(UNAVAILABLE_S, REFUSED_S, partial(self._refuse, key))

    def kept(self, some: Sequence[Waiting]) -> None:
        """Note entries that are durable now."""
        for waiting in some:
            life = waiting.entry.job
            self._state_index.keep(life, waiting.history)
            if self._ahead[life] is waiting.history:
                del self._ahead[life]

    def spill(self, some: Sequence[Waiting], segment: str, why: LedgerError) -> None:
        """Spill entries that are not on record, unless they are still in a spill file.

        They are on record after all if `segment` is, and only its answer was lost.
        """
        if self.recovering:
            return
        self._spill_file.save(
            SpilledEntry.of(one.entry, one.was, segment) for one in some
        )
        # On a full disk only this room can take the later entries. Otherwise another run
        # may recover the entries at once: a job's ticket must not wait for our end.
        if not isinstance(why, FullRootError):
            self._spill_file.release()

    def fenced(self) -> FencedError:
        """The error of a writer that a successor has sealed."""
        return FencedError(f"{self._objects.root}: {self._successor}")

    def on_trouble(self, told: Callable[[str], None]) -> None:
        """Register the callback of `tell`; it is called at once if there was trouble."""
        self._told = told
        if self._trouble is not None:
            told(self._trouble)

    def tell(self, why: str) -> None:
        """Report that nothing more can be recorded, or not for now."""
        self._trouble = why
        if self._told is not None:
            self._told(why)

    def _refuse(self, key: str, error: StorageError) -> None:
        """React to a write that the store refuses, and that is about to be repeated.

        Raises:
            FullError: the disk is full, and the entries can be spilled.
        """
        if not self._refused:
            self._refused = True
            self.tell(str(error))
        if self._can_spill(error):
            raise error
        now = asyncio.get_running_loop().time()
        if now - self._logged_at >= LOG_S:
            self._logged_at = now
            log.warning(
                "ledger.write_delayed key=%s the write is repeated: %s", key, error
            )

    def _can_spill(self, error: StorageError) -> bool:
        full = isinstance(error, FullError) and not self._objects.remote
        return full and self._spill_file.is_reserved
