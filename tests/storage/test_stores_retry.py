"""A run waits for a store that is away; the loop's clock and the store are
simulated."""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from storage.objects import Objects, UnavailableError
from tests.storage.simulated import Hurried


@dataclass
class Away:
    """A store that is not from obstore, and is away for a while after its first
    request."""

    for_s: float
    since: float | None = None
    kept: dict[str, bytes] = field(default_factory=dict)
    asked: int = 0

    async def put_async(self, path: str, file: bytes, **_: Any) -> Any:
        now = asyncio.get_running_loop().time()
        self.since = self.since or now
        self.asked += 1
        if now < self.since + self.for_s:
            raise TimeoutError("no answer")
        self.kept[path] = file
        return {"e_tag": None, "version": None}


def run(asked: Coroutine[Any, Any, None]) -> float:
    """Run it where waiting takes no time; returns its length by the loop's clock."""

    async def timed() -> float:
        now = asyncio.get_running_loop().time
        began = now()
        await asked
        return now() - began

    with asyncio.Runner(loop_factory=Hurried) as runner:
        return runner.run(timed())


def test_ten_minutes_away_are_waited_out_and_take_two_lines(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.WARNING)
    store = Away(for_s=590)
    objects = Objects(store, "s3://bucket/reel", patience_s=600)

    async def puts() -> None:
        await asyncio.gather(*(objects.put(f"{n}", b"1") for n in range(5)))

    took = run(puts())

    assert len(store.kept) == 5
    assert 590 <= took < 610
    # About five seconds between tries: the store is not flooded.
    assert store.asked < 5 * 600 / 3
    assert [record.getMessage().split()[0] for record in caplog.records] == [
        "store.unavailable",
        "store.recovered",
    ]


def test_patience_ends():
    store = Away(for_s=10_000)
    objects = Objects(store, "s3://bucket/reel", patience_s=600)

    async def put() -> None:
        with pytest.raises(UnavailableError, match="s3://bucket/reel/a: "):
            await objects.put("a", b"1")

    assert 600 <= run(put()) < 615


def test_zero_patience_still_tries_three_times():
    """With a patience of 0 seconds, a request is still tried three times."""
    store = Away(for_s=10_000)
    objects = Objects(store, "s3://bucket/reel", patience_s=0)

    async def put() -> None:
        with pytest.raises(UnavailableError):
            await objects.put("a", b"1")

    run(put())

    assert store.asked == 3
