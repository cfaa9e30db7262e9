"""Looks for trouble while a batch runs, and logs it."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

from tasks.batch.batch import BatchRun

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
"""The time between two looks."""


@asynccontextmanager
async def trouble_told(batch_run: BatchRun) -> AsyncGenerator[None]:
    """Log what stands in the way of the batch's jobs, for the length of the block."""
    looking = asyncio.create_task(_keep_looking(batch_run))
    try:
        yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        look(batch_run)


def look(batch_run: BatchRun) -> None:
    """Look once."""
    try:
        batch_run.engine.look_for_trouble()
        batch_run.engine.troubles.tell(batch_run.troubles)
    except Exception:
        log.exception("batch.not_watched the batch goes on, its troubles are not told")


async def _keep_looking(batch_run: BatchRun) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        look(batch_run)
