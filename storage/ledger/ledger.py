"""The ledger: what has happened to each job, appended and never rewritten.

An entry is durable before `record` returns. A root has one ledger open at any time; a
shard that runs in another process joins it with a separate stream.
"""

import asyncio
import logging
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import polars as pl

from manifests.lifecycle import Entry, Event, History
from storage import layout
from storage.ledger import (
    compaction,
    fencing,
    lease,
    read_all,
    segment_reader,
    segments,
    shard_stream,
    spill_recovery,
)
from storage.ledger.codec import Seal
from storage.ledger.gaps import Gap, withheld, withholding
from storage.ledger.history_lookup import Told, told
from storage.ledger.keeper import Keeper, Waiting
from storage.ledger.owner import BEAT_S
from storage.ledger.segments import (
    MAIN,
    FencedError,
    FullRootError,
    ReplacedRootError,
)
from storage.ledger.spill import SpillFolder
from storage.ledger.state_index import RecordedSubmit, StateIndex
from storage.ledger.writer import Stream
from storage.objects import Objects, ReplacedError

log = logging.getLogger(__name__)

_TAKEN_OVER = "a later batch has taken over"
_SHUT_OUT = "another run has this shard now, or its batch is over"


class Ledger:
    """One root's ledger, open for writing: by a batch, or by one of its shards."""

    def __init__(  # noqa: PLR0913 - what `open` and `join` were told
        self,
        objects: Objects,
        batch: str,
        *,
        state_index: StateIndex,
        clock: Callable[[], float],
        spill_folder: Path | None,
        name: str = MAIN,
        number: int = 1,
    ) -> None:
        self.batch = batch
        """The epoch and its name: `000003-portraits`."""
        self.before: Mapping[str, History] = MappingProxyType(dict(state_index.lives))
        """The full histories as they stood before the ledger was opened."""
        self.stream = name
        """The stream's name: `main`, or `shard-0007.02` for the shard's second writer."""
        self.recovered = set[str]()
        """Lives of a shard for which spilled entries of its earlier writers were recovered."""
        self.gaps: Sequence[Gap] = ()
        """Lost parts of the ledger in which jobs may have been bought."""
        self._objects = objects
        self._state_index = state_index
        self._clock = clock
        self._closed = False
        self._heart: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._spill_files = SpillFolder(spill_folder, objects.root)
        self._spill_file = self._spill_files.file(
            batch if name == MAIN else f"{batch}.{name}"
        )
        self._keeper = Keeper(
            objects,
            state_index,
            self._spill_file,
            successor=_TAKEN_OVER if name == MAIN else _SHUT_OUT,
        )
        self._stream = Stream(
            objects, layout.stream(batch, name), number=number, keeper=self._keeper
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
        spill_folder: Path | None = None,
    ) -> "Ledger":
        """Claim the next epoch, seal the older ones, and read what is on record.

        `whole`: keep full histories of jobs that are over too, and not only their states.

        Raises:
            HeldError: another process holds the root; `take_over` would push it out.
            FencedError: another process took it over at the same moment.
            LedgerError: what is there cannot be read, or the store overwrites.
        """
        us = await lease.claim(objects, name, clock, take_over=take_over, beat_s=beat_s)
        # It ends in `close`; it logs each heartbeat that it misses.
        heart = asyncio.create_task(lease.keep(objects, us, clock, beat_s=beat_s))
        try:
            ledger = cls(
                objects,
                us.batch,
                state_index=await fencing.settled(objects, us, whole=whole),
                clock=clock,
                spill_folder=spill_folder,
            )
            ledger.gaps = await withholding(objects)
            await ledger._recover(ledger._recover_spill())
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
        beat_s: float = BEAT_S,
        spill_folder: Path | None = None,
    ) -> "Ledger":
        """Claim a stream for a shard of a running batch; no other shard has its jobs.

        `before` is the history of these jobs when the batch handed them over: from then
        on only the shard's own streams add to it.

        Raises:
            FencedError: the batch is over, or somebody newer runs the shard.
            LedgerError: there is no such batch, or what is there cannot be read.
        """
        # Upload all spilled entries: a shard can recover only those of its jobs.
        await spill_recovery.upload(objects, SpillFolder(spill_folder, objects.root))
        generation = await shard_stream.claim(objects, batch, shard, clock)
        ledger = cls(
            objects,
            batch,
            state_index=await shard_stream.known(
                objects, batch, shard, generation, before
            ),
            name=layout.shard(shard, generation),
            number=2,
            clock=clock,
            spill_folder=spill_folder,
        )
        ledger.gaps = await withholding(objects)
        await ledger._recover(ledger._recover_uploaded())
        # It ends in `close`.
        ledger._watch = asyncio.create_task(lease.watch(objects, beat_s=beat_s))
        ledger._watch.add_done_callback(ledger._give_way)
        return ledger

    @property
    def epoch(self) -> int:
        return segments.number(self.batch)

    @property
    def lives(self) -> Mapping[str, History]:
        """The full histories of jobs that are not over, or were touched by this run."""
        return MappingProxyType(self._state_index.lives)

    @property
    def latencies(self) -> Mapping[str, Iterable[float]]:
        """How many seconds each lane's latest clips took."""
        return self._state_index.latencies

    async def submits(self, since: float) -> list[RecordedSubmit]:
        """The submits of earlier runs since then (Unix seconds).

        Submits of runs that died are known since the replay of their epochs. Of the others,
        only the epochs that ended since then are read.
        """
        found = [submit for submit in self._state_index.submits if submit.at >= since]
        for epoch in [
            n for n, last in self._state_index.ended.items() if last >= since
        ]:
            async for some in read_all.entries_of(self._objects, epoch):
                found += read_all.submits_among(some, since)
        return found

    def history(self, life: str) -> History:
        """All that is durable of a life; only its state if it was over before this run."""
        return self._state_index.history(life)

    def withheld(self, life: str) -> Gap | None:
        """The gap of the ledger in which a job may have been bought, if it is not on record
        as bought."""
        return withheld(self.gaps, self.history(life)) if self.gaps else None

    def states(self, keys: pl.DataFrame) -> pl.Series:
        return self._state_index.states(keys)

    def forget(self, lives: Iterable[str]) -> None:
        """Keep only the states of those that are over."""
        self._state_index.forget(lives)

    @contextmanager
    def shard(self) -> Generator[None]:
        """Count one more open shard: its stream may send more requests a second."""
        self._stream.shards += 1
        try:
            yield
        finally:
            self._stream.shards -= 1

    async def record(self, life: str, event: Event) -> tuple[Entry, History]:
        """Put an event on record; returns its entry and the new history, once durable.

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
        """Write queued entries, seal the epoch, compact it. Safe to repeat."""
        if self._closed:
            return
        seal = Seal(self.epoch, self._clock())
        if isinstance(self._stream.ended, FullRootError):
            # If the spill file is on the full disk, the freed room takes the seal.
            await asyncio.to_thread(self._spill_file.release)
        try:
            whole = await self._stream.close(seal)
            self._closed = True
            await asyncio.to_thread(self._spill_file.release)
        finally:
            for task in (self._heart, self._watch):
                if task is not None:
                    task.cancel()
        if whole and self._heart is not None:
            await self._bind(seal)

    def on_trouble(self, told: Callable[[str], None]) -> None:
        """Register a callback for trouble: the store refuses writes, or a successor has taken
        over. It is called at once if that has already happened."""
        self._keeper.on_trouble(told)

    def refuse_if_taken_over(self) -> None:
        """Call after `close()`: a run that had nothing to record learns it only here.

        Raises:
            FencedError: a successor has sealed it.
            ReplacedRootError: the root was emptied or replaced.
        """
        if isinstance(self._stream.ended, FencedError | ReplacedRootError):
            raise self._stream.ended

    async def has_successor(self) -> bool:
        """Whether a later batch has claimed the root."""
        return await segments.exists(self._objects, layout.claim(self.epoch + 1))

    async def shut_out_shard(self, shard: int) -> int:
        """Fence out the writer of a shard; returns the number of writers that it had."""
        return await shard_stream.ended(self._objects, self.batch, shard)

    async def hear(
        self, shard: int, generations: Iterable[int]
    ) -> list[tuple[Entry, History]]:
        """Read and apply the entries of these sealed writers of a shard."""
        some = shard_stream.written(self._objects, self.batch, shard, generations)
        # All or nothing: if the store fails meanwhile, the caller starts again.
        every = [entry async for entry in some]
        heard = [
            (entry, shard_stream.learn(self._state_index, entry)) for entry in every
        ]
        return [(entry, history) for entry, history in heard if history is not None]

    async def has_uploaded_spill(self) -> bool:
        """Whether the root has spilled entries that are not yet recovered."""
        await spill_recovery.upload(self._objects, self._spill_files)
        return await spill_recovery.has_uploaded(self._objects)

    def entries(self) -> AsyncIterator[Sequence[Entry]]:
        """This epoch's entries in order. Call after `close()`."""
        return segment_reader.written(self._objects, self.epoch)

    async def told(self, keys: pl.DataFrame, folder: Path) -> Told:
        """Copy the histories of these jobs into a folder. Call after `close()`."""
        # Compacted epochs are not read again, so nothing may be added to this one.
        seal = Seal(self.epoch, self._clock())
        await fencing.seal_all(self._objects, self.batch, seal)
        return await told(self._objects, self._state_index, keys, folder)

    def _put(self, entry: Entry) -> Waiting:
        waiting = self._keeper.expect(entry)
        self._stream.put(waiting)
        return waiting

    def _give_way(self, heart: asyncio.Task[None]) -> None:
        """Stop for a successor, or because the root was emptied or replaced.

        Callers that are not waiting for an entry learn it, too.
        """
        if heart.cancelled():
            return
        match heart.exception():
            case None:
                self._stream.fence()
                self._keeper.tell(_TAKEN_OVER)
            case ReplacedError() as error:
                self._stream.fence(ReplacedRootError(str(error)))
                self._keeper.tell(str(error))
            case _:
                pass

    async def _recover(self, some: Coroutine[None, None, None]) -> None:
        self._keeper.recovering = True
        try:
            await some
            await asyncio.to_thread(self._spill_file.reserve)
        # Raise to the caller of `open` or `join`, and leave the root free.
        except (Exception, asyncio.CancelledError):
            await self.close()
            raise
        self._keeper.recovering = False

    async def _recover_spill(self) -> None:
        await spill_recovery.download(self._objects, self._spill_files)
        for path in await asyncio.to_thread(self._spill_files.arrivals):
            await spill_recovery.recover(
                self._objects, path, self._keeper.standing, self._put
            )

    async def _recover_uploaded(self) -> None:
        self.recovered = await spill_recovery.recover_uploaded(
            self._objects, self.before, self._keeper.standing, self._put
        )

    async def _bind(self, seal: Seal) -> None:
        try:
            await fencing.seal_all(self._objects, self.batch, seal)
            await compaction.bind(self._objects, self._state_index)
        # Everything is on record: log a warning; the next run compacts the epoch.
        except Exception as error:  # noqa: BLE001
            log.warning(
                "ledger.not_compacted batch=%s all is on record, the next run compacts it: %r",
                self.batch,
                error,
            )
