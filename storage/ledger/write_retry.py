"""Repeats ledger writes while the store fails.

A store that is unavailable is retried for ten minutes. A store that refuses is retried for
30 seconds, because clips in progress are paid for; but buying stops at once. A full local
disk is not retried if the spill file has room: an answer is safe there at once, and in
memory only until the process is killed.
"""

import asyncio
import itertools
import logging
import math
import random
from collections.abc import Callable
from typing import Final

from storage.backoff import backoff
from storage.objects import (
    ExistsError,
    FullError,
    Objects,
    ReplacedError,
    StorageError,
    UnavailableError,
)

PATIENCE_S: Final = 600.0
"""How long a store may be unavailable before a batch gives up."""
REFUSED_S: Final = 30.0
"""How long it may refuse, for a reason that does not pass by itself."""
LONGEST_S: Final = 10.0
SAID_S: Final = 60.0

log = logging.getLogger(__name__)


class Trouble:
    """Repeats one writer's puts, by the event loop's clock.

    `can_spill` says whether the spill file has room although the disk is full.
    """

    def __init__(
        self,
        objects: Objects,
        told: Callable[[str], None],
        can_spill: Callable[[], bool],
    ) -> None:
        self._objects = objects
        self._can_spill = can_spill
        self._told: Callable[[str], None] | None = told
        self._said_at = -math.inf

    async def create(self, key: str, data: bytes) -> None:
        """Create an object, and repeat the request while the store fails.

        Raises:
            ExistsError: another writer's object has the key.
            ReplacedError: the root was emptied or replaced.
            FullError: the disk is full, and the entries can be spilled.
            StorageError: the store was unavailable, or refused, for too long.
        """
        now = asyncio.get_running_loop().time
        began, refused = now(), math.inf
        for tries in itertools.count():
            try:
                return await self._objects.create(key, data)
            except ExistsError:
                raise
            except ReplacedError as error:
                self._refused(error)
                raise
            except StorageError as error:
                if not isinstance(error, UnavailableError):
                    refused = min(refused, now())
                    self._refused(error)
                if self._is_spillable(error):
                    raise
                if now() >= min(began + PATIENCE_S, refused + REFUSED_S):
                    raise
                self._say(key, error, now())
            pause = backoff(tries + 1, 0.5, LONGEST_S, jitter=random.uniform)
            await asyncio.sleep(pause)
        raise AssertionError("it returns or raises")

    def _refused(self, error: StorageError) -> None:
        if self._told is not None:
            self._told(str(error))
            self._told = None

    def _is_spillable(self, error: StorageError) -> bool:
        full = isinstance(error, FullError) and not self._objects.remote
        return full and self._can_spill()

    def _say(self, key: str, error: StorageError, now: float) -> None:
        if now - self._said_at >= SAID_S:
            self._said_at = now
            log.warning(
                "ledger.write_delayed key=%s the write is repeated: %s", key, error
            )
