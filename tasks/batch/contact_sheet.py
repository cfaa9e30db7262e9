"""The contact sheet of a run: posters of some of its clips, evenly over all of them.

Nothing waits for a poster, and a missing poster is no failure.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from storage.media import Posters, poster
from storage.objects import StorageError
from tasks.engine.download import OnPublished

log = logging.getLogger(__name__)

SHOWN: Final = 48
"""The most posters on a sheet."""

AHEAD: Final = 8
"""Clips in memory that wait for their poster to be made."""

LAST_S: Final = 5.0
"""How long the end of a run waits for the last posters."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip that was published just now."""

    job: str
    mp4: bytes
    sidecar: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tile:
    """A poster, and what made its clip."""

    job: str
    webp: bytes
    sidecar: Mapping[str, Any]


@dataclass(slots=True)
class Turns:
    """Decides which clips get a poster: every n-th, so that at most `shown` are kept.

    Whenever there are too many, every other one is dropped, and n doubles.
    """

    shown: int = SHOWN
    every: int = 1
    due: int = 1
    """The number of the next clip that may get a poster, counted from 1."""

    def take(self, number: int) -> bool:
        """Whether this clip gets a poster; if so, set the next turn."""
        if number < self.due:
            return False
        self.due = number + self.every
        return True

    def thinned(self, tiles: list[Tile], number: int) -> list[Tile]:
        """The tiles to keep after `number` clips."""
        if len(tiles) <= self.shown:
            return tiles
        self.every *= 2
        self.due = number + self.every
        return tiles[::2]


class Sheet:
    """Makes posters as clips are published: about a hundred, however many clips there are."""

    def __init__(self, posters: Posters) -> None:
        self.tiles: list[Tile] = []
        self.seen = 0
        """Clips that were published."""
        self._posters = posters
        self._failed = False
        self._turns = Turns()
        self._coming: asyncio.Queue[Clip | None] = asyncio.Queue(AHEAD)

    def offer(self, job: str, mp4: bytes, sidecar: Mapping[str, Any]) -> None:
        """Queue a published clip for a poster, if it is its turn and the queue is not full."""
        self.seen += 1
        if not self._coming.full() and self._turns.take(self.seen):
            self._coming.put_nowait(Clip(job, mp4, sidecar))

    @asynccontextmanager
    async def made(self, show: Callable[[OnPublished], None]) -> AsyncGenerator[None]:
        """Make posters while the block lasts; `show` receives the function to offer clips to."""
        making = asyncio.create_task(self._make())
        show(self.offer)
        try:
            yield
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_S):
                    await self._coming.put(None)
                    await asyncio.wait({making})
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)

    async def _make(self) -> None:
        while (clip := await self._coming.get()) is not None:
            try:
                webp = await asyncio.to_thread(poster, clip.mp4)
            # The clip plays, but FFmpeg or Pillow cannot draw it: leave its tile out.
            except Exception:
                # Warn only for the first one, since all may fail.
                level = logging.DEBUG if self._failed else logging.WARNING
                log.log(
                    level,
                    "poster.not_made job=%s its tile is left out",
                    clip.job,
                    exc_info=True,
                )
                self._failed = True
                continue
            tiles = [*self.tiles, Tile(clip.job, webp, clip.sidecar)]
            self.tiles = self._turns.thinned(tiles, self.seen)
            with suppress(StorageError):
                await self._posters.keep(clip.job, webp)
