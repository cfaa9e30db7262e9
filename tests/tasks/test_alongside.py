"""Work in the background ends with its block, and its error is never lost."""

import asyncio
import gc

import pytest

from tasks.alongside import alongside, background

pytestmark = pytest.mark.anyio


async def test_error_of_the_work_is_raised_at_the_end():
    async def work(over: asyncio.Event) -> None:
        raise OSError("the store is away")

    with pytest.raises(OSError, match="the store is away"):
        async with alongside(work):
            pass


async def test_work_ends_itself_when_its_block_ends():
    done = []

    async def work(over: asyncio.Event) -> None:
        await over.wait()
        done.append("the last look")

    async with alongside(work):
        assert done == []
    assert done == ["the last look"]


async def test_error_of_the_block_wins_and_the_other_is_not_left():
    """An error that nobody retrieves is logged by asyncio as one that was never seen."""
    unseen = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, told: unseen.append(told)
    )

    async def work(over: asyncio.Event) -> None:
        raise OSError("of the work")

    async def block() -> None:
        async with alongside(work):
            await asyncio.sleep(0)
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        await block()
    gc.collect()
    await asyncio.sleep(0)
    assert unseen == []


async def test_background_work_is_cancelled_with_its_block():
    """Work that never ends by itself is cancelled, and its end is waited for."""
    done = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            done.append("cancelled")

    async with background(work()):
        await asyncio.sleep(0)
        assert done == []
    assert done == ["cancelled"]


async def test_error_of_background_work_is_raised_at_the_end():
    async def work() -> None:
        raise OSError("the store is away")

    with pytest.raises(OSError, match="the store is away"):
        async with background(work()):
            await asyncio.sleep(0)
