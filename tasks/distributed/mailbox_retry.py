"""Repeats calls that the root's store refuses: the renewal of a key does not end a batch."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, ParamSpec, TypeVar

from storage.objects import Objects, RefusedError
from tasks.distributed.mailbox import beat_s

REFUSED_S: Final = 60.0
"""How long the store may refuse requests."""

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


class StoreRetry:
    """Repeats a call that the store refuses, for up to `REFUSED_S`."""

    def __init__(self, objects: Objects, now: Callable[[], float]) -> None:
        self._objects = objects
        self._now = now

    async def __call__(
        self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return the result of the call.

        Raises:
            StorageError: the store still refuses.
        """
        until = self._now() + REFUSED_S
        while True:
            try:
                return await call(*args, **kwargs)
            except RefusedError as error:
                if self._now() > until:
                    raise
                log.warning(
                    "store.refused root=%s the request is repeated: %s",
                    self._objects.root,
                    error,
                )
                await asyncio.sleep(beat_s(self._objects))
