"""Pauses an engine while its root is paused."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

from storage.objects import Objects, StorageError
from storage.pause_flag import paused
from tasks.engine.engine import Engine

LOOK_S: Final = 5.0
"""The time between two reads of the pause flag."""


@asynccontextmanager
async def heeding(engine: Engine, objects: Objects) -> AsyncGenerator[None]:
    """Make the engine heed the pauses of its root, from before its first submit.

    Raises:
        StorageError: the pause flag cannot be read.
    """
    await _look(engine, objects)
    looking = asyncio.create_task(_keep_looking(engine, objects))
    try:
        yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking


async def _keep_looking(engine: Engine, objects: Objects) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        # While the store is out of reach, the state stays as it was.
        with suppress(StorageError):
            await _look(engine, objects)


async def _look(engine: Engine, objects: Objects) -> None:
    engine.pause(paused=await paused(objects) is not None)
