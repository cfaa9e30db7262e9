"""After a repair, no clip is bought twice, and none that was paid for is lost."""

import asyncio
import hashlib
import shutil
from pathlib import Path

import pytest

from storage import layout
from storage.ledger import Ledger, LedgerError
from storage.objects import Objects, local_path
from tasks.emulator import running
from tasks.repair import let_go, looked, mended

pytestmark = pytest.mark.anyio

JOBS = 6


@pytest.fixture
def world(worlds, emulator):
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=["wavespeed/wan-2.2-spicy"])


def lose(faulty, *names: bytes) -> None:
    """Answer one put of each key with these names like a store that has written it."""

    def is_it(request: bytes) -> bool:
        line = request.partition(b"\r\n")[0]
        return line.startswith(b"PUT ") and any(name in line for name in names)

    faulty.fault.swallow, faulty.fault.swallowed = len(names), is_it
    faulty.fault.tag = lambda body: hashlib.md5(body).hexdigest().encode()


@pytest.mark.parametrize("cloud", ["s3"], indirect=True)
async def test_part_covers_a_put_that_the_store_lost(cloud, faulty, world):
    """The last segments of a remote stream are also written as one object."""
    root = cloud.root()
    lose(faulty, b"/main/0000000003.jsonl")

    first = await world.run(JOBS, root=root)
    again = await world.run(world.manifest(JOBS, name="again"), root=root)

    assert faulty.fault.swallow == 0
    assert first.published == JOBS
    assert (again.published, again.bought) == (JOBS, 0)


@pytest.mark.parametrize("cloud", ["s3"], indirect=True)
async def test_put_that_the_store_lost_is_repaired(cloud, faulty, world):
    """The store answers 200 with the right ETag, and has nothing."""
    root = cloud.root()
    lose(faulty, b"/main/0000000003.jsonl", b"/main/parts/")
    with pytest.raises(LedgerError, match="number 3 is missing"):
        await world.run(JOBS, root=root)
    assert len(world.emulator.bill) == JOBS
    with pytest.raises(
        LedgerError, match=f"number 3 is missing.*nightreel repair {root}"
    ):
        await world.run(world.manifest(JOBS, name="again"), root=root)

    report = await mended(Objects.open(root))
    again = await world.run(world.manifest(JOBS, name="again"), root=root)

    assert report.repaired
    assert [gap.first for gap in report.gaps] == [3]
    assert (again.published, again.bought) == (JOBS, 0)
    assert set(world.bought.values()) == {1}


@pytest.mark.parametrize("together", [1, 3])
async def test_any_lost_segment_buys_nothing_twice(world, together):
    """A run is stopped with clips at the provider, and some of its segments are lost."""
    whole = await stopped(world)

    assert await bought_twice(world, whole, together) == []


async def test_planted_bug_buys_twice(world, monkeypatch):
    """If nothing is withheld, the law about lost segments is broken."""
    whole = await stopped(world)
    monkeypatch.setattr(Ledger, "withheld", lambda self, life: None)

    assert await bought_twice(world, whole, 3)


async def stopped(world) -> Path:
    """The root of a run that was stopped with clips at the provider."""
    world.emulator.latency_s, world.slots = 0.3, 2
    stopping = set[asyncio.Task[None]]()

    async def stop(engine) -> None:
        while len(world.emulator.bill) < 4:  # noqa: ASYNC110 - a bill has no event
            await asyncio.sleep(0.01)
        engine.stop("the test stops it")

    await world.run(
        JOBS,
        during=lambda batch_run: stopping.add(
            asyncio.create_task(stop(batch_run.engine))
        ),
    )
    world.emulator.latency_s = 0.1
    return local_path((world.folder / "root").as_uri())


async def bought_twice(world, whole: Path, together: int) -> list[str]:
    """For each loss of this many segments in a row: whether a repair leads to a second
    purchase. Returns the names of their first segments."""
    segments = sorted((whole / "ledger/000001-m/main").glob("*.zst"))
    paid, twice = dict(world.bought), list[str]()
    assert len(segments) > 4
    for first in range(len(segments) - together):
        lost = segments[first : first + together]
        copy = world.folder / f"copy-{lost[0].name}"
        shutil.copytree(whole, copy)
        without(copy, *(one.relative_to(whole).as_posix() for one in lost))

        await mended(Objects.open(str(copy)))
        await world.run(world.manifest(JOBS, name="again"), root=copy.as_uri())

        # The bill of the runs on other copies is left out.
        bought = {line.prompt for line in world.emulator.bill[sum(paid.values()) :]}
        if bought & paid.keys():
            twice.append(lost[0].name)
        del world.emulator.bill[sum(paid.values()) :]
    return twice


async def test_withheld_rows_are_bought_once_released(world):
    """A row that only the lost segment may have known waits for its owner."""
    await world.run(2)
    root = world.folder / "root"
    without(root, "ledger/000001-m/main/0000000002.jsonl.zst")
    objects = Objects.open(str(root))
    assert (await looked(objects)).found.bad
    await mended(objects)

    held = await world.run(world.manifest(3, name="more"))
    reasons = world.batch_runs[-1].without_clip().jobs
    released = await let_go(objects)
    more = await world.run(world.manifest(3, name="more"))

    assert (held.published, held.pending, held.bought) == (2, 1, 0)
    assert [reason for _, reason in reasons if "gap of the ledger" in reason]
    assert (released.released, released.gaps) == (1, [])
    assert (more.published, more.bought) == (3, 1)


async def test_lost_epoch_is_told_by_its_sidecars(world):
    """The claim and the streams of a batch are lost: its clips tell what was bought."""
    await world.run(3)
    root = world.folder / "root"
    shutil.rmtree(root / "ledger")

    report = await mended(Objects.open(str(root)))
    again = await world.run(world.manifest(3, name="again"))

    assert report.regained == 3
    assert (again.published, again.bought) == (3, 0)
    assert set(world.bought.values()) == {1}


async def test_lost_ticket_is_found_at_the_provider(world):
    """The job goes back in doubt, and the provider knows it by its reference."""
    world.routes = ["kling/kling-2.5-turbo"]
    await world.run(1)
    root = world.folder / "root"
    shutil.rmtree(root / "clips")
    stream = root / "ledger/000001-m/main"
    # Intended, Accepted, Generated, Published, and the seal.
    (stream / "0000000005.jsonl.zst").replace(stream / "0000000004.jsonl.zst")
    without(root, "ledger/000001-m/main/0000000002.jsonl.zst")

    report = await mended(Objects.open(str(root)))
    again = await world.run(world.manifest(1, name="again"))

    assert report.doubted == 1
    assert (again.published, again.bought) == (1, 0)
    assert again.spent_usd == 0
    assert len(world.emulator.bill) == 1


def without(root, *keys: str) -> None:
    """Delete objects below a root, and the checkpoints that would stand in for them."""
    for folder in ("checkpoints", "index", "events", "jobs"):
        shutil.rmtree(root / layout.LEDGER / folder, ignore_errors=True)
    for key in keys:
        (root / key).unlink()
