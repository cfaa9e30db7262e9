"""A batch waits for a root folder that vanishes, and never creates it anew."""

import asyncio
import subprocess

import pytest

from manifests.lifecycle import State
from storage import checksum, layout
from storage import ledger as ledgers
from storage.objects import Objects, StorageError
from tasks.dispatch import Lane
from tasks.emulator import running

pytestmark = pytest.mark.anyio

JOBS = 12
MOVED = "its folder was moved away, unmounted or replaced"


@pytest.fixture
def world(worlds, emulator):
    with running(emulator) as url:
        yield worlds(
            emulator=emulator, url=url, routes=["wavespeed/wan-2.2-spicy"], slots=3
        )


async def once_bought(world, do):
    """Does this once some clips are paid for and most are not."""
    while len(world.emulator.bill) < 4:  # noqa: ASYNC110 - a bill has no event
        await asyncio.sleep(0.01)
    await do()


async def agreed(world, root):
    """Each row was bought once, and every clip is recorded and kept."""
    assert set(world.bought.values()) == {1}
    histories = await ledgers.histories(Objects.open(root.as_uri()))
    assert [one.state for one in histories.values()] == [State.PUBLISHED] * JOBS
    assert len(list(root.glob("clips/*/*.mp4"))) == JOBS


def ran(*words: str) -> int:
    """Run a command; its exit code."""
    return subprocess.run(words, capture_output=True, check=False).returncode


@pytest.mark.parametrize("replaced", [False, True])
async def test_moved_root_is_waited_for(world, replaced, caplog):
    """Nothing is bought while the root is gone, nor into a folder in its place."""
    root, away = world.folder / "root", world.folder / "away"

    async def move() -> None:
        root.rename(away)
        if replaced:
            root.mkdir()
        while MOVED not in caplog.text:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.05)
        # A submit that was recorded before may be on its way.
        await asyncio.sleep(1)
        bill = len(world.emulator.bill)
        await asyncio.sleep(1)
        assert len(world.emulator.bill) == bill
        assert replaced == root.exists()
        if replaced:
            # It does not contain even an empty folder of ours.
            root.rmdir()
        away.rename(root)

    moving = asyncio.create_task(once_bought(world, move))
    summary = await world.run(JOBS)

    await moving
    assert MOVED in caplog.text
    assert summary.published == summary.bought == JOBS
    await agreed(world, root)


async def test_unmounted_root_is_waited_for(world):
    """The empty folder below a mount point is not the root."""
    root, disk = world.folder / "root", world.folder / "disk"
    root.mkdir()
    disk.mkdir()
    mount = ["mount", "--bind", str(disk), str(root)]
    if ran(*mount):
        pytest.skip("nothing may be mounted here")

    async def unmount() -> None:
        assert ran("umount", "--lazy", str(root)) == 0
        await asyncio.sleep(2)
        assert not list(root.iterdir())
        assert ran(*mount) == 0

    try:
        moving = asyncio.create_task(once_bought(world, unmount))
        summary = await world.run(JOBS)
        await moving
        assert summary.published == summary.bought == JOBS
        await agreed(world, root)
    finally:
        ran("umount", "--lazy", str(root))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["file", "s3"])
async def test_emptied_root_stops_buying(world, scheme, s3_root):
    """A batch notices at a heartbeat that its bucket, or its folder, was emptied."""
    local = (world.folder / "root").as_uri()
    uri, rows = (s3_root if scheme == "s3" else local), 90

    def slowly() -> list[Lane]:
        return [world.lane(world.routes[0], submits_per_minute=60)]

    async def empty() -> None:
        objects = Objects.open(uri)
        for key in [stored.key async for stored in objects.list()]:
            await objects.delete(key)

    emptying = asyncio.create_task(once_bought(world, empty))
    with pytest.raises(StorageError, match="the root was emptied or replaced"):
        await world.run(rows, root=uri, lanes=slowly())

    await emptying
    assert set(world.bought.values()) == {1}
    assert 4 <= len(world.bought) < rows
    # The next run on this machine does not take it for a new root.
    bill = len(world.emulator.bill)
    with pytest.raises(StorageError, match=r"root.json: missing|no root is there"):
        await world.run(rows, root=uri, lanes=slowly())
    assert len(world.emulator.bill) == bill


async def test_root_that_is_away_at_start_is_not_made(world):
    """A disk that is not mounted when a run begins is not taken for a new root."""
    root, away = world.folder / "root", world.folder / "away"
    await world.run(2)
    root.rename(away)

    with pytest.raises(StorageError, match="mount its disk"):
        await world.run(2)
    assert not root.exists()
    root.mkdir()
    with pytest.raises(StorageError, match="mount its disk"):
        await world.run(2)
    assert len(world.emulator.bill) == 2

    root.rmdir()
    away.rename(root)
    assert (await world.run(2)).bought == 0


@pytest.mark.parametrize("number", [2, 99])
async def test_root_of_another_format_buys_nothing(world, number):
    await world.run(2)
    path = world.folder / "root" / layout.ROOT
    stored = checksum.load(path.read_bytes(), "x")
    path.write_bytes(checksum.dump(stored | {"format": number}))
    before = sorted((world.folder / "root").rglob("*"))

    with pytest.raises(
        StorageError, match=f"has format {number}, this Nightreel knows"
    ):
        await world.run(world.manifest(4, name="again"))

    assert len(world.emulator.bill) == 2
    assert sorted((world.folder / "root").rglob("*")) == before
