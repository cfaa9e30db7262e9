"""The contact sheet of a run: posters of some of its clips, evenly over all of them.

Nothing waits for a poster, and nothing fails for want of one.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from storage.media.posters import Posters, poster
from storage.objects.client import StorageError
from tasks.engine.download import Offer

log = logging.getLogger(__name__)

SHOWN: Final = 48
"""Posters on a sheet at most."""

AHEAD: Final = 8
"""Clips in memory that wait for their poster to be made."""

LAST_S: Final = 5.0
"""For the last posters, when all clips are there."""


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
    """Which clips get a poster, so that `shown` at most are kept, evenly over all: every
    n-th. Whenever there are too many, every other one goes, and n doubles."""

    shown: int = SHOWN
    every: int = 1
    due: int = 1
    """The first that may be next, counted from 1."""

    def take(self, number: int) -> bool:
        """Whether it is this one's turn; then it is taken."""
        if number < self.due:
            return False
        self.due = number + self.every
        return True

    def thinned(self, tiles: list[Tile], number: int) -> list[Tile]:
        """Those that are kept, when so many clips have been seen."""
        if len(tiles) <= self.shown:
            return tiles
        self.every *= 2
        self.due = number + self.every
        return tiles[::2]


class Sheet:
    """Has posters made as clips are published: some hundred, however many clips there are."""

    def __init__(self, posters: Posters) -> None:
        self.tiles: list[Tile] = []
        self.seen = 0
        """Clips that were published."""
        self._posters = posters
        self._failed = False
        self._turns = Turns()
        self._coming: asyncio.Queue[Clip | None] = asyncio.Queue(AHEAD)

    def offer(self, job: str, mp4: bytes, sidecar: Mapping[str, Any]) -> None:
        """A clip has been published: its poster is made if the ones before are done, and
        if it is its turn."""
        self.seen += 1
        if not self._coming.full() and self._turns.take(self.seen):
            self._coming.put_nowait(Clip(job, mp4, sidecar))

    @asynccontextmanager
    async def made(self, show: Callable[[Offer], None]) -> AsyncGenerator[None]:
        """Make posters of what is offered meanwhile; `show` is told where."""
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
            # A clip that plays and that FFmpeg or Pillow will not draw: one tile less.
            except Exception:
                # A warning for the first one: where all fail, the sheet stays empty.
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
