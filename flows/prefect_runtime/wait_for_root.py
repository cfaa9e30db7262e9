"""An unattended run waits for a root that another run holds."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

from storage.ledger import HeldError

AGAIN_S: Final = 60.0
"""Seconds between two tries to open the root."""


class RootWait:
    """A run's wait for its root; from `finish_at` on (Unix seconds) it is too late."""

    def __init__(
        self,
        finish_at: float | None,
        tell: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._finish_at = math.inf if finish_at is None else finish_at
        self._tell = tell
        self._clock = clock
        self._sleep = sleep
        self._told = False

    async def wait(self, held: HeldError) -> None:
        """Wait a little before the root is asked for again.

        Raises:
            HeldError: `finish_at` is over.
        """
        left_s = self._finish_at - self._clock()
        if left_s <= 0:
            raise held
        if not self._told:
            self._tell(f"waits for its root: {held}")
            self._told = True
        await self._sleep(min(AGAIN_S, left_s))
