"""Watches a running batch: pauses its engine with its root, and logs its troubles."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

from storage.objects import Objects, StorageError
from storage.pause_flag import paused
from tasks.alongside import background
from tasks.batch.batch import BatchRun
from tasks.engine.engine import Engine

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
"""The time between two looks, at the pause flag and for troubles."""


@asynccontextmanager
async def heeding(engine: Engine, objects: Objects) -> AsyncGenerator[None]:
    """Make the engine heed the pauses of its root, from before its first submit.

    Raises:
        StorageError: the pause flag cannot be read.
    """
    await _heed(engine, objects)
    async with background(_keep_heeding(engine, objects)):
        yield


async def _keep_heeding(engine: Engine, objects: Objects) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        # While the store is out of reach, the state stays as it was.
        with suppress(StorageError):
            await _heed(engine, objects)


async def _heed(engine: Engine, objects: Objects) -> None:
    engine.pause(paused=await paused(objects) is not None)


@asynccontextmanager
async def trouble_told(batch_run: BatchRun) -> AsyncGenerator[None]:
    """Log the troubles of the batch's jobs for the length of the block."""
    try:
        async with background(_keep_telling(batch_run)):
            yield
    finally:
        tell_troubles(batch_run)


async def _keep_telling(batch_run: BatchRun) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        tell_troubles(batch_run)


def tell_troubles(batch_run: BatchRun) -> None:
    """Look for troubles once, and log them."""
    try:
        batch_run.engine.look_for_trouble()
        batch_run.engine.troubles.tell(batch_run.troubles)
    except Exception:
        log.exception("batch.not_watched the batch goes on, its troubles are not told")
