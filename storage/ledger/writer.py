"""Streams: one writer's entries, durable in order.

Entries that arrive while a segment is being written go into the next one. A single entry
waits for no other; among thousands, entries share a request. Each segment is created under
the next number, so a writer that finds its number taken knows that it has been sealed.
"""

import asyncio
import logging
from typing import Final

from storage import layout
from storage.ledger import fencing
from storage.ledger.codec import LedgerError, Seal, pack, packed
from storage.ledger.keeper import Keeper, Waiting
from storage.ledger.segments import FullRootError, ReplacedRootError
from storage.objects import (
    ExistsError,
    FullError,
    Objects,
    ReplacedError,
    StorageError,
)

SEGMENT: Final = 2_000
"""Entries in one segment at most."""
LOCAL_S: Final = 1 / 40
"""Seconds between segments on a local disk, where a request costs nothing."""
REMOTE_S: Final = 1 / 20
"""The shortest time between segments on a remote store, where a request costs money."""
SHARD_S: Final = 1 / 5
"""The same for one open shard: the interval is this divided by the open shards."""
BURST_S: Final = 1.0
"""An idle local stream may write at once the segments of this many seconds."""
SEAL_S: Final = 10.0
"""How long a seal is tried after a segment could not be written."""
PART_SEGMENTS: Final = 256
PART_ENTRIES: Final = 50_000

log = logging.getLogger(__name__)


class Stream:
    """One stream, open for writing; only one writer ever has it."""

    def __init__(
        self, objects: Objects, key: str, *, number: int, keeper: Keeper
    ) -> None:
        self.shards = 0
        """The number of open shards; it limits the requests a second."""
        self._objects = objects
        self._key = key
        self._number = number
        self._keeper = keeper
        # No bound is needed: each caller waits for its entry, so there are never more
        # entries here than callers.
        self._queue: list[Waiting] = []
        self.ended: LedgerError | None = None
        """Why nothing more can be put, if it ended before it was closed."""
        self._fenced: LedgerError | None = None
        self._due = 0.0
        self._wake = asyncio.Event()
        self._closing = False
        self._parts = Parts(objects, key, number)
        # It ends in `close`; every waiting caller receives its error.
        self._writer = asyncio.create_task(self._write_all())

    def put(self, waiting: Waiting) -> None:
        """Queue an entry; its future completes when it is durable, or fails."""
        if self.ended is None and not self._closing:
            self._queue.append(waiting)
            self._wake.set()
            return
        closed = LedgerError(f"{self._objects.root}: the ledger is closed")
        self._lose([waiting], self.ended or closed)

    def fence(self, why: LedgerError | None = None) -> None:
        """Stop, by default for a successor; a segment that is being written may still be
        created."""
        self._fenced = why or self._keeper.fenced()
        if not self._queue:
            self._give_way()

    async def close(self, seal: Seal) -> bool:
        """Write queued entries, then the seal; returns whether all was written."""
        self._closing = True
        self._wake.set()
        await asyncio.shield(self._writer)
        await self._parts.done(whole=self.ended is None)
        if isinstance(self.ended, ReplacedRootError):
            return False
        try:
            async with asyncio.timeout(None if self.ended is None else SEAL_S):
                await self._seal(seal)
        except (StorageError, TimeoutError) as error:
            # Without a seal the root is free only after a minute.
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
                    if self._fenced is not None:
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
            await self._objects.create(key, data, retry=self._keeper.retry(key))
        except ExistsError:
            self._give_way()
        except ReplacedError as error:
            self._keeper.tell(str(error))
            self._end(ReplacedRootError(str(error)))
        except FullError as error:
            self._end(FullRootError(f"{self._objects.uri(key)}: not written: {error}"))
        # Every waiting caller receives the error, whatever it is.
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
            self._end(self._fenced or self._keeper.fenced())

    def _end(self, error: LedgerError) -> None:
        self.ended = error
        lost, self._queue = self._queue, []
        self._lose(lost, error)

    def _lose(self, some: list[Waiting], error: LedgerError) -> None:
        try:
            self._keeper.spill(some, layout.segment(self._key, self._number), error)
        finally:
            for waiting in some:
                if not waiting.durable.done():
                    waiting.durable.set_exception(type(error)(*error.args))

    async def _seal(self, seal: Seal) -> None:
        key = layout.segment(self._key, self._number)
        try:
            await self._objects.create(key, pack([seal]))
        except ExistsError:
            # A successor's seal, or a segment of ours whose answer was lost.
            found = await fencing.end(self._objects, self._key, self._number, seal=seal)
            if found.by > seal.by:
                self._give_way()


class Parts:
    """Writes many segments of a stream again as one object, so that reading takes fewer
    requests.

    It works in the background: no entry waits for it, and a missing part is harmless.
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
        if len(self._segments) == PART_SEGMENTS or self._entries >= PART_ENTRIES:
            self._begin()

    def _begin(self) -> None:
        last = self._first + len(self._segments) - 1
        key = layout.part(self._stream, self._first, last)
        task = asyncio.create_task(self._put(key, b"".join(self._segments)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._first, self._segments, self._entries = last + 1, [], 0

    async def done(self, *, whole: bool) -> None:
        """Wait for the parts; on a remote store, write the last segments as a part too,
        if the stream is whole.

        A remote store may lose a segment after it has answered: the part has it.
        """
        if whole and self._segments and self._objects.remote:
            self._begin()
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
