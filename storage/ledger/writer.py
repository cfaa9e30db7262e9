"""Streams: one writer's entries, durable in order.

What is put while a segment is being written goes into the next one: alone, an entry
waits for nobody; among thousands, it shares its request. Each segment is created under
the next number, so that who finds its number taken knows that it has been sealed.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from manifests.lifecycle import Entry, History
from storage import layout
from storage.ledger import fencing
from storage.ledger.codec import LedgerError, Seal, pack, packed
from storage.ledger.segments import FencedError
from storage.ledger.write_retry import Trouble
from storage.objects.client import ExistsError, Objects, StorageError

SEGMENT: Final = 2_000
"""Entries in one segment at most."""
LOCAL_S: Final = 1 / 40
"""From one segment to the next, where a request costs nothing."""
REMOTE_S: Final = 1 / 20
"""The same where it costs money, however much there is to write..."""
SHARD_S: Final = 1 / 5
"""... and for each shard that is open."""
BURST_S: Final = 1.0
"""For so long an idle local stream has saved up its segments."""
SEAL_S: Final = 10.0
"""For so long a seal is tried to be put where a segment just could not be."""
PART_SEGMENTS: Final = 256
PART_ENTRIES: Final = 50_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An entry on its way to the store."""

    entry: Entry
    line: bytes
    was: History
    history: History
    durable: asyncio.Future[None]


class Keeper(Protocol):
    """Who is told what became of each entry, before its caller is."""

    def kept(self, some: Sequence[Waiting]) -> None: ...

    def adrift(self, some: Sequence[Waiting], segment: str) -> None:
        """They are not on record, unless this segment is and nobody said so."""


class Stream:
    """One stream, open for writing; only one writer ever has it."""

    def __init__(  # noqa: PLR0913 - what `Ledger` has for it
        self,
        objects: Objects,
        key: str,
        *,
        number: int,
        trouble: Trouble,
        keeper: Keeper,
        successor: str,
    ) -> None:
        self.shards = 0
        """How many are open, which is how much may be spent on requests."""
        self._objects = objects
        self._key = key
        self._number = number
        self._trouble = trouble
        self._keeper = keeper
        # What whoever finds itself shut out is told.
        self._successor = successor
        # No bound is needed: each caller waits for its own entry, so there are never
        # more here than callers.
        self._queue: list[Waiting] = []
        self.ended: LedgerError | None = None
        """Why nothing more can be put, if it ended before it was closed."""
        self._fenced = False
        self._due = 0.0
        self._wake = asyncio.Event()
        self._closing = False
        self._parts = Parts(objects, key, number)
        # It ends in `close`; of its errors every caller is told.
        self._writer = asyncio.create_task(self._write_all())

    def put(self, waiting: Waiting) -> None:
        """Have an entry written; its future says when it is durable, or that it is not."""
        if self.ended is None and not self._closing:
            self._queue.append(waiting)
            self._wake.set()
            return
        closed = LedgerError(f"{self._objects.root}: the ledger is closed")
        self._lose([waiting], self.ended or closed)

    def fence(self) -> None:
        """A successor has claimed the root: what is being written may still get there."""
        self._fenced = True
        if not self._queue:
            self._give_way()

    async def close(self, seal: Seal) -> bool:
        """Write what is queued, then the seal; whether all was written."""
        self._closing = True
        self._wake.set()
        await asyncio.shield(self._writer)
        await self._parts.done()
        try:
            async with asyncio.timeout(None if self.ended is None else SEAL_S):
                await self._seal(seal)
        except (StorageError, TimeoutError) as error:
            # Then the root is free a minute later.
            log.warning(
                "ledger.not_sealed stream=%s the next run has to wait a minute for this root: %r",
                self._objects.uri(self._key),
                error,
            )
        return self.ended is None

    async def _write_all(self) -> None:
        try:
            while self._queue or not self._closing:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    await self._paced()
                    if self._fenced:
                        self._give_way()
                    else:
                        await self._write(self._queue[:SEGMENT])
        except BaseException:
            self._end(LedgerError(f"{self._objects.uri(self._key)}: it was stopped"))
            raise

    async def _paced(self) -> None:
        """Wait until the next segment may begin: each one is a request, which costs."""
        now = asyncio.get_running_loop().time
        every, burst = LOCAL_S, BURST_S
        if self._objects.remote:
            every, burst = max(REMOTE_S, SHARD_S / max(1, self.shards)), 0.0
        if (wait := self._due - now()) > 0:
            await asyncio.sleep(wait)
        self._due = max(self._due, now() - burst) + every

    async def _write(self, some: list[Waiting]) -> None:
        key = layout.segment(self._key, self._number)
        try:
            data = packed(waiting.line for waiting in some)
            await self._trouble.create(key, data)
        except ExistsError:
            self._give_way()
        # Whatever it was, every waiting caller is told.
        except Exception as error:  # noqa: BLE001
            self._end(LedgerError(f"{self._objects.uri(key)}: not written: {error}"))
        else:
            self._parts.add(data, len(some))
            self._number += 1
            self._settle(some)

    def _settle(self, some: list[Waiting]) -> None:
        del self._queue[: len(some)]
        self._keeper.kept(some)
        for waiting in some:
            if not waiting.durable.done():
                waiting.durable.set_result(None)

    def _give_way(self) -> None:
        if self.ended is None:
            self._end(FencedError(f"{self._objects.root}: {self._successor}"))

    def _end(self, error: LedgerError) -> None:
        self.ended = error
        lost, self._queue = self._queue, []
        self._lose(lost, error)

    def _lose(self, some: list[Waiting], error: LedgerError) -> None:
        try:
            self._keeper.adrift(some, layout.segment(self._key, self._number))
        finally:
            for waiting in some:
                if not waiting.durable.done():
                    waiting.durable.set_exception(type(error)(*error.args))

    async def _seal(self, seal: Seal) -> None:
        key = layout.segment(self._key, self._number)
        try:
            await self._objects.create(key, pack([seal]))
        except ExistsError:
            # A successor's seal, or a segment of ours that we were not told of.
            found = await fencing.end(self._objects, self._key, self._number, seal=seal)
            if found.by > seal.by:
                self._give_way()


class Parts:
    """A stream's segments, put again many at a time, so that reading takes fewer requests.

    In the background: no entry waits for it, and a part that is missing harms nobody.
    """

    def __init__(self, objects: Objects, stream: str, first: int) -> None:
        self._objects = objects
        self._stream = stream
        self._first = first
        self._segments: list[bytes] = []
        self._entries = 0
        self._tasks = set[asyncio.Task[None]]()

    def add(self, segment: bytes, entries: int) -> None:
        self._segments.append(segment)
        self._entries += entries
        if len(self._segments) < PART_SEGMENTS and self._entries < PART_ENTRIES:
            return
        last = self._first + len(self._segments) - 1
        key = layout.part(self._stream, self._first, last)
        task = asyncio.create_task(self._put(key, b"".join(self._segments)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._first, self._segments, self._entries = last + 1, [], 0

    async def done(self) -> None:
        await asyncio.gather(*self._tasks)

    async def _put(self, key: str, part: bytes) -> None:
        try:
            await self._objects.create(key, part)
        except StorageError as error:
            log.warning(
                "ledger.part_not_merged part=%s its segments stay, and reading them takes longer: %s",
                key,
                error,
            )
