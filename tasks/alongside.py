"""Runs work in the background while a block lasts."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any


@asynccontextmanager
async def alongside(
    work: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
) -> AsyncGenerator[None]:
    """Run `work` while the block lasts, then set its event and wait for its end.

    Raises the error of the block if it has one, else that of the work: both often fail for
    the same reason, and only one of the two can be raised.
    """
    over = asyncio.Event()
    working = asyncio.create_task(work(over))
    try:
        yield
    finally:
        over.set()
        # This also retrieves the error, which asyncio otherwise logs as never retrieved.
        await asyncio.gather(working, return_exceptions=True)
    await working


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run `work` while the block lasts, then cancel it.

    Raises the error of the work, if one has ended it.
    """
    working = asyncio.create_task(work)
    try:
        yield
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
