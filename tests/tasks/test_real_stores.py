"""Batches whose root is a real store that is busy, loses answers or is unreachable.

HTTP is real on both sides: the emulator's bill proves what was paid.
"""

import asyncio
import hashlib
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from manifests.lifecycle import State
from storage import ledger as ledgers
from storage.ledger import keeper
from storage.media import Clips
from storage.objects import Objects, StorageError
from tasks.emulator import running

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

JOBS = 40


@pytest.fixture
def world(worlds, emulator):
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=["fal/wan-2.2"], slots=16)


async def agreed(root: str, world) -> None:
    """The bill, the ledger and the clips agree, and no clip is missing."""
    assert set(world.bought.values()) == {1}
    assert len(world.bought) == JOBS
    objects = Objects.open(root)
    clips = Clips(objects)
    histories = await ledgers.histories(objects)
    assert len(histories) == JOBS
    for job, history in histories.items():
        assert history.state is State.PUBLISHED
        sidecar = await clips.sidecar(job)
        mp4 = await objects.get(clips.uri(job).removeprefix(f"{root}/"))
        assert hashlib.sha256(mp4).hexdigest() == sidecar["sha256"]


async def once(true: Callable[[], object], do: Callable[[], Awaitable[None]]) -> None:
    """Does this as soon as the condition is true."""
    for _ in range(6000):
        if true():
            return await do()
        await asyncio.sleep(0.01)
    raise TimeoutError


async def test_store_that_refuses_and_loses_answers_buys_nothing_twice(
    cloud, faulty, world
):
    """A store that refuses calls and loses answers causes no second purchase."""
    root = cloud.root()
    faulty.fault.busy_share, faulty.fault.lost_share = 0.2, 0.1

    summary = await world.run(JOBS, root=root)

    faulty.fault.busy_share = faulty.fault.lost_share = 0.0
    assert len(faulty.fault.seen) > 3 * JOBS
    assert summary.published == summary.bought == JOBS
    assert summary.spent_usd == world.owed
    await agreed(root, world)


async def test_a_store_that_stops_in_mid_batch_is_waited_for(
    cloud, faulty, world, caplog
):
    root = cloud.root()

    async def stop() -> None:
        faulty.stop()
        while "store.unavailable" not in caplog.text:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.05)
        faulty.start()

    # Some clips are paid for, some are in progress, and most are neither.
    stopping = asyncio.create_task(once(lambda: len(world.bought) > 8, stop))
    summary = await world.run(JOBS, root=root)

    await stopping
    assert "store.unavailable" in caplog.text
    assert "store.recovered" in caplog.text
    assert summary.published == summary.bought == JOBS
    assert summary.spent_usd == world.owed
    await agreed(root, world)


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    """Puts the spill files below the test's folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def small_disk(tmp_path):
    """A separate disk of eight megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "nightreel-tests", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk may be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(params=["spill on another disk", "spill on the same disk"])
def _spill_place(request, small_disk, tmp_path):
    if request.param == "spill on the same disk":
        (small_disk / "state").mkdir()
        (tmp_path / "state").symlink_to(small_disk / "state")


async def keep_full(filler: Path) -> None:
    """Take all space of a disk, and whatever is freed later, until this is cancelled."""
    with filler.open("ab", buffering=0) as file:
        while True:
            with suppress(OSError):
                while True:
                    file.write(bytes(4096))
            await asyncio.sleep(0.005)


@pytest.mark.usefixtures("_spill_place")
async def test_full_disk_loses_nothing_that_was_paid_for(
    small_disk, world, tmp_path, caplog
):
    """A full disk stops the buying; the next run fetches all that was paid for."""
    filler, root = small_disk / "filler", (small_disk / "reel").as_uri()
    filling = asyncio.create_task(
        once(lambda: len(world.bought) > 4, partial(keep_full, filler))
    )

    with pytest.raises(StorageError, match="the disk is full"):
        await world.run(JOBS, root=root)

    filling.cancel()
    await asyncio.to_thread(filler.unlink)
    paid = dict(world.bought)
    assert 4 < len(paid) < JOBS
    assert "ledger.spilled file=" in caplog.text
    assert "ledger.entry_unsaved" not in caplog.text

    # The run found no room for its end, and its process, this one, is still alive.
    summary = await world.run(JOBS, root=root, take_over=True)

    assert "ledger.spill_recovered file=" in caplog.text
    assert summary.bought == JOBS - len(paid)
    assert summary.published == JOBS
    assert not [*(tmp_path / "state/spill").rglob("*.*")]
    await agreed(root, world)


async def test_credentials_that_expire_in_mid_batch_lose_nothing_paid(
    cloud, faulty, world, monkeypatch
):
    """Credentials that expire during a batch lose no clip that was paid for."""
    # The wait for renewed credentials is half a minute; nobody renews them here.
    monkeypatch.setattr(keeper, "REFUSED_S", 2.0)
    root = cloud.root()

    async def deny() -> None:
        faulty.fault.deny = True

    denying = asyncio.create_task(once(lambda: len(world.bought) > 8, deny))
    with pytest.raises(StorageError, match="HTTP 403 Forbidden, AccessDenied"):
        await world.run(JOBS, root=root)

    await denying
    paid = dict(world.bought)
    assert 8 < len(paid) < JOBS

    faulty.fault.deny = False
    # The run could not record its end, and its process, this one, is still alive.
    summary = await world.run(JOBS, root=root, take_over=True)

    assert summary.bought == JOBS - len(paid)
    assert summary.published == JOBS
    await agreed(root, world)
