"""The ledger: what has happened to each job, appended and never rewritten.

An entry is durable before `record` returns. What is recorded while a segment is being
written goes into the next one: alone, an entry waits for nobody; among thousands, it
shares its request.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from types import MappingProxyType
from typing import Final

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from manifests.lifecycle import (
    NEW,
    Entry,
    Event,
    History,
    IllegalTransitionError,
    fold,
)
from storage import epochs
from storage.epochs import FencedError, HeldError
from storage.holder import BEAT_S, Holder
from storage.objects import ExistsError, Objects, StorageError
from storage.records import LedgerError, Seal, pack

__all__ = ["FencedError", "HeldError", "Ledger", "LedgerError", "histories", "read"]

SEGMENT: Final = 2_000
"""Entries in one segment at most."""
BUSY_S: Final = 0.025
"""From one segment to the next while there is more to write: 40 requests a second."""
PATIENCE_S: Final = 600.0
"""How long a store may be away before a batch gives up."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    entry: Entry
    history: History
    durable: asyncio.Future[None]


class Ledger:
    """One root's ledger, open for writing; only one is, at any time."""

    def __init__(
        self,
        objects: Objects,
        holder: Holder,
        *,
        known: dict[str, History],
        clock: Callable[[], float],
        beat_s: float,
    ) -> None:
        self._objects = objects
        self._holder = holder
        self._histories = known
        self._clock = clock
        # Where a job will stand once all that is queued for it is durable.
        self._ahead: dict[str, History] = {}
        self._queue: deque[_Waiting] = deque()
        self._number = 1
        self._wake = asyncio.Event()
        self._ended: LedgerError | None = None
        self._closing = False
        # Both end in `close`; of each one's errors somebody is told.
        self._writer = asyncio.create_task(self._write_all())
        self._heart = asyncio.create_task(self._beat(beat_s))

    @classmethod
    async def open(
        cls,
        objects: Objects,
        *,
        name: str,
        clock: Callable[[], float] = time.time,
        take_over: bool = False,
        beat_s: float = BEAT_S,
    ) -> "Ledger":
        """Claim the next epoch, seal the older ones, and know all that happened.

        Raises:
            HeldError: another process holds the root; `take_over` would push it out.
            FencedError: another process took it over at the same moment.
            LedgerError: what is there cannot be read.
        """
        us = await epochs.claim(objects, name, clock(), take_over=take_over)
        try:
            known = await _settled(objects, us)
            await _beat(objects, us)
        except StorageError:
            await _seal(objects, us, 1)
            raise
        return cls(objects, us, known=known, clock=clock, beat_s=beat_s)

    @property
    def batch(self) -> str:
        """The epoch and its name: `000003-portraits`."""
        return self._holder.batch

    def history(self, job_id: str) -> History:
        """All that is durable of a job."""
        return self._histories.get(job_id, NEW)

    def histories(self) -> Mapping[str, History]:
        return MappingProxyType(self._histories)

    async def record(self, job_id: str, event: Event) -> History:
        """Put an event on record; the job's history with it, once it is durable.

        The event is queued before anything is awaited: a caller who is cancelled while
        waiting has recorded it all the same, once.

        Raises:
            IllegalTransitionError: it cannot happen now; nothing is recorded.
            FencedError: a successor has sealed us; it is not recorded.
            LedgerError: closed, or the store was away for too long; in the second case
                only the next reader knows whether it was recorded.
        """
        if self._ended is not None:
            raise type(self._ended)(*self._ended.args)
        if self._closing:
            raise LedgerError(f"{self._objects.root}: the ledger is closed")
        entry = Entry(job_id, self._clock(), event)
        history = self._ahead.get(job_id, self.history(job_id)).after(entry)
        waiting = _Waiting(entry, history, asyncio.get_running_loop().create_future())
        self._ahead[job_id] = history
        # No bound is needed: each caller waits for its own event, so there are never
        # more here than callers.
        self._queue.append(waiting)
        self._wake.set()
        await waiting.durable
        return history

    async def close(self) -> None:
        """Write what is queued, seal the epoch, stop. Safe to repeat."""
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        try:
            await asyncio.shield(self._writer)
        finally:
            self._heart.cancel()
        if self._ended is None:
            await _seal(self._objects, self._holder, self._number)

    async def _write_all(self) -> None:
        now = asyncio.get_running_loop().time
        while self._queue or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            while self._queue and self._ended is None:
                again = now() + BUSY_S
                await self._write([*islice(self._queue, SEGMENT)])
                # A store that answers at once would get a request for each entry.
                await asyncio.sleep(again - now() if self._queue else 0)

    async def _write(self, some: list[_Waiting]) -> None:
        key = epochs.segment_key(self.batch, self._number)
        try:
            await self._create(key, pack(waiting.entry for waiting in some))
        except ExistsError:
            self._end(
                FencedError(f"{self._objects.root}: a later batch has taken over")
            )
        # Whatever it was, every waiting caller is told.
        except Exception as error:  # noqa: BLE001
            self._end(LedgerError(f"{self._objects.uri(key)}: not written: {error}"))
        else:
            self._number += 1
            for waiting in some:
                self._settle(waiting)

    async def _create(self, key: str, data: bytes) -> None:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_random_exponential(multiplier=0.5, max=15),
            stop=stop_after_delay(PATIENCE_S),
            before_sleep=_say_so,
            reraise=True,
        ):
            with attempt:
                await self._objects.create(key, data)

    def _settle(self, waiting: _Waiting) -> None:
        self._queue.popleft()
        job = waiting.entry.job
        self._histories[job] = waiting.history
        if self._ahead[job] is waiting.history:
            del self._ahead[job]
        if not waiting.durable.done():
            waiting.durable.set_result(None)

    def _end(self, error: LedgerError) -> None:
        self._ended = error
        for waiting in self._queue:
            if not waiting.durable.done():
                waiting.durable.set_exception(type(error)(*error.args))
        self._queue.clear()
        self._ahead.clear()

    async def _beat(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                if await epochs.claimed(self._objects) > self._holder.epoch:
                    # Our successor beats now; our next segment will find its seal.
                    return
                self._holder = self._holder.beating(self._clock())
                await _beat(self._objects, self._holder)
            except StorageError as error:
                log.warning("ledger.beat_missed %s", error)


async def read(objects: Objects) -> list[Entry]:
    """All that is on record, in order; a batch may be adding to it meanwhile."""
    everyone = range(1, await epochs.claimed(objects) + 1)
    found = await epochs.each(lambda one: epochs.written(objects, one), everyone)
    return [entry for one in found for entry in one.entries]


async def histories(objects: Objects) -> dict[str, History]:
    """Every job's history, as far as it is on record."""
    return await asyncio.to_thread(_fold, objects.root, await read(objects))


async def _settled(objects: Objects, us: Holder) -> dict[str, History]:
    """Every job's history, once no older epoch can add to it."""
    seal = Seal(us.epoch, us.since)
    older = range(1, us.epoch)
    found = await epochs.each(lambda one: epochs.settled(objects, one, seal), older)
    return await asyncio.to_thread(_fold, objects.root, chain.from_iterable(found))


def _fold(root: str, entries: Iterable[Entry]) -> dict[str, History]:
    try:
        return fold(entries)
    except IllegalTransitionError as error:
        raise LedgerError(f"{root}: {error}") from error


async def _beat(objects: Objects, us: Holder) -> None:
    await objects.put(epochs.HOLDER, us.dump())


async def _seal(objects: Objects, us: Holder, number: int) -> None:
    """Leave the root free at once; if that fails, it is free a minute later."""
    key = epochs.segment_key(us.batch, number)
    try:
        await objects.create(key, pack([Seal(us.epoch, us.at)]))
    except ExistsError:
        return
    except StorageError as error:
        log.warning("ledger.unsealed %s", error)


def _may_pass(error: BaseException) -> bool:
    """Whether a store's refusal is worth waiting out: even keys are renewed in a night."""
    return isinstance(error, StorageError) and not isinstance(error, ExistsError)


def _say_so(state: RetryCallState) -> None:
    log.warning("ledger.waiting %s", state.outcome and state.outcome.exception())
