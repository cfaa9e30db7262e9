"""A run waits for a store that is away; the loop's clock and the store are
simulated."""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from storage.objects import (
    ExistsError,
    Objects,
    RefusedError,
    RetryPolicy,
    StorageError,
    UnavailableError,
)
from tests.storage.simulated import Hurried, Simulated


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
    objects = Objects(store, "s3://bucket/reel", retry=RetryPolicy(unavailable_s=600))

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


def test_unavailable_store_is_given_up_in_time():
    store = Away(for_s=10_000)
    objects = Objects(store, "s3://bucket/reel", retry=RetryPolicy(unavailable_s=600))

    async def put() -> None:
        with pytest.raises(UnavailableError, match="s3://bucket/reel/a: "):
            await objects.put("a", b"1")

    assert 600 <= run(put()) < 615


def test_limit_of_zero_still_tries_three_times():
    """With a limit of 0 seconds, a request is still tried three times."""
    store = Away(for_s=10_000)
    objects = Objects(store, "s3://bucket/reel", retry=RetryPolicy(unavailable_s=0))

    async def put() -> None:
        with pytest.raises(UnavailableError):
            await objects.put("a", b"1")

    run(put())

    assert store.asked == 3


# -- a store that refuses


REFUSAL = PermissionError(13, "Permission denied")


@dataclass
class Script:
    """A store whose puts raise these errors, one after the other, and then succeed."""

    errors: list[Exception]
    asked: int = 0

    async def put_async(self, path: str, file: bytes, **_: Any) -> Any:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return {"e_tag": None, "version": None}

    async def get_async(self, path: str, *, options: Any = None) -> Any:
        raise FileNotFoundError(path)


def patient(told: list[str]) -> RetryPolicy:
    return RetryPolicy(
        unavailable_s=600,
        refused_s=30,
        on_refusal=lambda error: told.append(str(error)),
    )


def test_refusal_is_not_repeated_by_default():
    store = Script([REFUSAL])

    async def create() -> None:
        with pytest.raises(RefusedError, match="no permission"):
            await Objects(store, "s3://bucket/reel").create("a", b"1")

    run(create())

    assert store.asked == 1


def test_refusal_is_reported_before_it_is_repeated():
    """With a limit for refusals, each one is reported, and the request is repeated."""
    told: list[str] = []
    store = Script([REFUSAL, OSError(28, "No space left on device")])

    run(Objects(store, "s3://bucket/reel").create("a", b"1", retry=patient(told)))

    assert store.asked == 3
    assert told == [
        "s3://bucket/reel/a: no permission",
        "s3://bucket/reel/a: the disk is full",
    ]


def test_refusal_is_given_up_in_time():
    store = Script([REFUSAL] * 1000)

    async def create() -> None:
        objects = Objects(store, "s3://bucket/reel")
        with pytest.raises(RefusedError):
            await objects.create("a", b"1", retry=patient([]))

    assert 30 <= run(create()) < 45


def test_outage_after_a_refusal_has_its_own_limit():
    """A store that goes away after a refusal is waited for as any other."""
    told: list[str] = []
    store = Script([REFUSAL] + [TimeoutError("no answer")] * 60)

    took = run(
        Objects(store, "s3://bucket/reel").create("a", b"1", retry=patient(told))
    )

    assert 60 < took < 600
    assert len(told) == 1


def test_key_that_is_taken_is_not_tried_again():
    """A create that finds other bytes ends, however long refusals are repeated."""
    told: list[str] = []
    simulated = Simulated()

    async def create() -> None:
        objects = simulated.objects()
        await objects.create("a", b"another")
        with pytest.raises(ExistsError):
            await objects.create("a", b"1", retry=patient(told))

    assert run(create()) < 1
    assert told == []


def test_write_to_a_missing_bucket_is_a_refusal():
    """A store without the place of a write refuses it; no object is missing."""
    told: list[str] = []
    store = Script([FileNotFoundError("a")])

    run(Objects(store, "s3://bucket/reel").create("a", b"1", retry=patient(told)))

    assert told == ["s3://bucket/reel/a: no such bucket, folder or source"]


def test_root_is_looked_at_before_a_fourth_try():
    """A refused request is not repeated for long on a root that was replaced."""
    store = Script([REFUSAL] * 1000)

    async def create() -> None:
        objects = Objects(store, "s3://bucket/reel")
        objects.pin("root.json", b"1")
        with pytest.raises(StorageError, match="root was emptied or replaced"):
            await objects.create("a", b"1", retry=patient([]))

    run(create())

    assert store.asked == 3


def test_refusal_that_must_not_be_repeated_is_raised():
    """A request ends at once if the caller's reaction to its refusal raises."""
    store = Script([REFUSAL] * 1000)

    def refuse(error: StorageError) -> None:
        raise error

    async def create() -> None:
        objects = Objects(store, "s3://bucket/reel")
        policy = RetryPolicy(refused_s=30, on_refusal=refuse)
        with pytest.raises(RefusedError):
            await objects.create("a", b"1", retry=policy)

    run(create())

    assert store.asked == 1
