"""The ledger: what has happened to each job, appended and never rewritten.

An entry is durable before `record` returns. A root has one ledger open at any time; a
shard that runs in another process joins it, with a stream of its own.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import polars as pl

from manifests.lifecycle import Entry, Event, History
from storage import layout
from storage.ledger import (
    epoch_reader,
    fencing,
    lease,
    segments,
    shard_stream,
    spill_recovery,
)
from storage.ledger.codec import LedgerError, Seal, dump
from storage.ledger.epoch_reader import Told, entries
from storage.ledger.lease import HeldError
from storage.ledger.owner import BEAT_S
from storage.ledger.read_all import histories, read
from storage.ledger.segments import MAIN, FencedError
from storage.ledger.spill import LIFEBOATS, Castaway, Harbour
from storage.ledger.state_index import Book
from storage.ledger.write_retry import Trouble
from storage.ledger.writer import Stream, Waiting
from storage.objects.client import Objects

__all__ = [
    "FencedError",
    "HeldError",
    "Ledger",
    "LedgerError",
    "entries",
    "histories",
    "read",
]

log = logging.getLogger(__name__)

_TAKEN_OVER = "a later batch has taken over"
_SHUT_OUT = "another run has this shard by now, or its batch is over"


class Ledger:
    """One root's ledger, open for writing: the batch's own, or one of its shards'."""

    def __init__(  # noqa: PLR0913 - what `open` and `join` were told
        self,
        objects: Objects,
        batch: str,
        *,
        book: Book,
        clock: Callable[[], float],
        lifeboats: Path,
        name: str = MAIN,
        number: int = 1,
    ) -> None:
        self.batch = batch
        """The epoch and its name: `000003-portraits`."""
        self.before: Mapping[str, History] = MappingProxyType(dict(book.lives))
        """The whole histories as they were before it was opened."""
        self.stream = name
        """Which one is written: `main`, or `shard-0007.02` by the shard's second writer."""
        self.picked_up = set[str]()
        """Lives of a shard of which more is known than its earlier writers could record."""
        self._objects = objects
        self._book = book
        self._clock = clock
        # Where a life will stand once all that is queued for it is durable.
        self._ahead: dict[str, History] = {}
        self._closed = False
        self._boarding = False
        self._heart: asyncio.Task[None] | None = None
        self._harbour = Harbour(lifeboats, objects.root)
        self._trouble: str | None = None
        self._told: Callable[[str], None] | None = None
        self._stream = Stream(
            objects,
            layout.stream(batch, name),
            number=number,
            trouble=Trouble(objects, self._tell),
            keeper=self,
            successor=_TAKEN_OVER if name == MAIN else _SHUT_OUT,
        )

    @classmethod
    async def open(  # noqa: PLR0913 - each has its default
        cls,
        objects: Objects,
        *,
        name: str,
        clock: Callable[[], float] = time.time,
        take_over: bool = False,
        beat_s: float = BEAT_S,
        whole: bool = False,
        lifeboats: Path = LIFEBOATS,
    ) -> "Ledger":
        """Claim the next epoch, seal the older ones, and know all that happened.

        `whole`: all is known of what is over, too, and not only that it is.

        Raises:
            HeldError: another process holds the root; `take_over` would push it out.
            FencedError: another process took it over at the same moment.
            LedgerError: what is there cannot be read, or the store overwrites.
        """
        us = await lease.claim(objects, name, clock, take_over=take_over, beat_s=beat_s)
        # It ends in `close`; what it misses, it says.
        heart = asyncio.create_task(lease.keep(objects, us, clock, beat_s=beat_s))
        try:
            ledger = cls(
                objects,
                us.batch,
                book=await fencing.settled(objects, us, whole=whole),
                clock=clock,
                lifeboats=lifeboats,
            )
            await ledger._board(ledger._take_aboard())
        except BaseException:
            heart.cancel()
            raise
        ledger._heart = heart
        heart.add_done_callback(ledger._give_way)
        return ledger

    @classmethod
    async def join(  # noqa: PLR0913 - each has its default
        cls,
        objects: Objects,
        *,
        batch: str,
        shard: int,
        before: Mapping[str, History] = MappingProxyType({}),
        clock: Callable[[], float] = time.time,
        lifeboats: Path = LIFEBOATS,
    ) -> "Ledger":
        """Claim a stream for a shard, whose jobs are nobody else's, of a running batch.

        `before` is what the batch knew of these jobs as it parted with them: from then
        on only the shard's own streams say more.

        Raises:
            FencedError: the batch is over, or somebody newer runs the shard.
            LedgerError: there is no such batch, or what is there cannot be read.
        """
        # Whosever lives are in them: a shard knows its own only.
        await spill_recovery.cast_off(objects, Harbour(lifeboats, objects.root))
        generation = await shard_stream.claim(objects, batch, shard, clock)
        ledger = cls(
            objects,
            batch,
            book=await shard_stream.known(objects, batch, shard, generation, before),
            name=layout.shard(shard, generation),
            number=2,
            clock=clock,
            lifeboats=lifeboats,
        )
        await ledger._board(ledger._pick_up())
        return ledger

    @property
    def lives(self) -> Mapping[str, History]:
        """The whole histories of what is not over, or was touched by this run."""
        return MappingProxyType(self._book.lives)

    @property
    def latencies(self) -> Mapping[str, Iterable[float]]:
        """How many seconds each lane's latest clips took."""
        return self._book.latencies

    def history(self, life: str) -> History:
        """All that is durable of a life; only its state if it was over before this run."""
        return self._book.history(life)

    def states(self, keys: pl.DataFrame) -> pl.Series:
        return self._book.states(keys)

    def forget(self, lives: Iterable[str]) -> None:
        """Keep only the states of those that are over."""
        self._book.forget(lives)

    @contextmanager
    def shard(self) -> Generator[None]:
        """One more shard is open: so much more may be spent on requests."""
        self._stream.shards += 1
        try:
            yield
        finally:
            self._stream.shards -= 1

    async def record(self, life: str, event: Event) -> tuple[Entry, History]:
        """Put an event on record; its entry and the history with it, once it is durable.

        The event is queued before anything is awaited: a caller who is cancelled while
        waiting has recorded it all the same, once.

        Raises:
            IllegalTransitionError: it cannot happen now; nothing is recorded.
            FencedError: a successor has sealed us; it is not recorded.
            LedgerError: closed, or the store was away for too long; in the second case
                only the next reader knows whether it was recorded.
        """
        waiting = self._put(Entry(life, self._clock(), event))
        await waiting.durable
        kind, attempts = type(event).__name__, waiting.history.attempts
        log.debug(
            "ledger.recorded job=%s event=%s attempts=%d it is durable",
            life,
            kind,
            attempts,
        )
        return waiting.entry, waiting.history

    async def close(self) -> None:
        """Write what is queued, seal the epoch, bind it. Safe to repeat."""
        if self._closed:
            return
        seal = Seal(segments.number(self.batch), self._clock())
        try:
            whole = await self._stream.close(seal)
            self._closed = True
        finally:
            if self._heart is not None:
                self._heart.cancel()
        if whole and self._heart is not None:
            await self._bind(seal)

    def on_trouble(self, told: Callable[[str], None]) -> None:
        """Who is told why the store refuses what has to be on record, or that a successor
        has taken over: at once, if that has happened before somebody could be told."""
        self._told = told
        if self._trouble is not None:
            told(self._trouble)

    def refuse_if_taken_over(self) -> None:
        """Of one that is closed: who had nothing to record has not been told.

        Raises:
            FencedError: a successor has sealed it.
        """
        if isinstance(self._stream.ended, FencedError):
            raise self._stream.ended

    async def hear(
        self, shard: int, generations: Iterable[int]
    ) -> list[tuple[Entry, History]]:
        """Take into account what these writers of a shard, who are sealed, recorded."""
        some = shard_stream.written(self._objects, self.batch, shard, generations)
        # All or nothing: a store that is away meanwhile is asked again, from the start.
        every = [entry async for entry in some]
        heard = [(entry, shard_stream.learn(self._book, entry)) for entry in every]
        return [(entry, past) for entry, past in heard if past is not None]

    async def is_any_adrift(self) -> bool:
        """Whether there is news of lives that whoever had them could not put on record."""
        await spill_recovery.cast_off(self._objects, self._harbour)
        return await spill_recovery.is_any_adrift(self._objects)

    async def told(self, keys: pl.DataFrame, folder: Path) -> Told:
        """What is on record of these jobs, brought into a folder; once it is closed."""
        # What is bound is not looked at again: nothing may be added to it.
        seal = Seal(segments.number(self.batch), self._clock())
        await fencing.seal_all(self._objects, self.batch, seal)
        return await epoch_reader.told(self._objects, self._book, keys, folder)

    def kept(self, some: Sequence[Waiting]) -> None:
        """Take note of what is durable now."""
        for waiting in some:
            life = waiting.entry.job
            self._book.keep(life, waiting.history)
            if self._ahead[life] is waiting.history:
                del self._ahead[life]

    def adrift(self, some: Sequence[Waiting], segment: str) -> None:
        """Save what could not be written, unless it is in a lifeboat still."""
        if self._boarding:
            return
        name = self.batch if self.stream == MAIN else f"{self.batch}.{self.stream}"
        lost = (Castaway.of(one.entry, one.was, segment) for one in some)
        self._harbour.save(name, lost)

    def _put(self, entry: Entry) -> Waiting:
        was = self._standing(entry.job)
        durable = asyncio.get_running_loop().create_future()
        # What cannot be written is its own caller's trouble, and nobody else's.
        waiting = Waiting(entry, dump(entry), was, was.after(entry), durable)
        self._ahead[entry.job] = waiting.history
        self._stream.put(waiting)
        return waiting

    def _standing(self, life: str) -> History:
        return self._ahead.get(life) or self._book.history(life)

    def _give_way(self, heart: asyncio.Task[None]) -> None:
        """Whoever waits for something else than a record hears of a successor as well."""
        if heart.cancelled() or heart.exception() is not None:
            return
        self._stream.fence()
        self._tell(_TAKEN_OVER)

    def _tell(self, why: str) -> None:
        self._trouble = why
        if self._told is not None:
            self._told(why)

    async def _board(self, some: Coroutine[None, None, None]) -> None:
        self._boarding = True
        try:
            await some
        # Whoever opened it is told, and the root is left free.
        except (Exception, asyncio.CancelledError):
            await self.close()
            raise
        self._boarding = False

    async def _take_aboard(self) -> None:
        await spill_recovery.fetch(self._objects, self._harbour)
        for path in await asyncio.to_thread(self._harbour.arrivals):
            await spill_recovery.board(self._objects, path, self._standing, self._put)

    async def _pick_up(self) -> None:
        self.picked_up = await spill_recovery.pick_up(
            self._objects, self.before, self._standing, self._put
        )

    async def _bind(self, seal: Seal) -> None:
        try:
            await fencing.seal_all(self._objects, self.batch, seal)
            await epoch_reader.bind(self._objects, self._book)
        # It is all on record: the next run binds it, and its operator is told.
        except Exception as error:  # noqa: BLE001
            log.warning(
                "ledger.not_compacted batch=%s all is on record, the next run compacts it: %r",
                self.batch,
                error,
            )
