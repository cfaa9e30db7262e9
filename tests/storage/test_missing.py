"""A root with missing claims or streams is damaged: no run opens it or buys for it."""

import secrets
import shutil
from collections.abc import Awaitable, Callable

import pytest

from storage import layout
from storage import ledger as ledgers
from storage.ledger import FencedError, Ledger, LedgerError, Root, open_root
from storage.ledger.segments import MAIN, claimed
from storage.ledger.shard_stream import ended
from storage.media import Clips
from storage.objects import Objects, local_path
from tests.storage.lives import INTENDED, at, job, keys

pytestmark = pytest.mark.anyio


async def lived(objects: Objects, *names: str) -> None:
    """Let runs record something and end normally."""
    for name in names:
        ledger = await Ledger.open(objects, name=name)
        await ledger.record(job(name), INTENDED)
        await ledger.close()


async def without_checkpoints(objects: Objects) -> None:
    for folder in ("checkpoints", "index", "events", "jobs"):
        for key in await keys(objects, f"{layout.LEDGER}/{folder}"):
            await objects.delete(key)


async def without_streams(objects: Objects) -> None:
    for key in await keys(objects):
        if layout.SEGMENT.match(key):
            await objects.delete(key)


async def refused(objects: Objects, match: str) -> None:
    """Opening and reading fail, and nothing is written."""
    before = await keys(objects, "")
    for ask in (
        lambda: Ledger.open(objects, name="next"),
        lambda: Ledger.open(objects, name="next", take_over=True),
        lambda: ledgers.read(objects),
        lambda: ledgers.histories(objects),
    ):
        with pytest.raises(LedgerError, match=match):
            await ask()
    assert await keys(objects, "") == before


async def test_first_claim_missing(objects: Objects):
    """The only claim is missing: its streams show that something was bought."""
    await lived(objects, "one")
    await objects.delete(layout.claim(1))

    await refused(
        objects, "epochs/000001.json: missing, but ledger/000001-one is there"
    )


async def test_last_claim_missing(objects: Objects):
    """The claims before it leave no gap."""
    await lived(objects, "one", "two", "three")
    await objects.delete(layout.claim(3))

    await refused(objects, "000003.json: missing, but ledger/000003-three is there")


async def test_middle_claim_missing(objects: Objects):
    await lived(objects, "one", "two", "three")
    await objects.delete(layout.claim(2))

    await refused(objects, "000002.json: missing, but ledger/000002-two is there")


async def test_claim_and_streams_missing(objects: Objects):
    """Only the checkpoint of an epoch is left, or only the claim after it."""
    await lived(objects, "one", "two")
    await without_streams(objects)
    if objects.root.startswith("file:"):
        # An empty folder is a trace too.
        for name in ("000001-one", "000002-two"):
            shutil.rmtree(local_path(objects.root) / layout.streams(name))
    await objects.delete(layout.claim(1))

    await refused(
        objects, "000001.json: missing, but ledger/checkpoints/000001.json is"
    )

    await without_checkpoints(objects)
    await refused(objects, "000001.json: missing, but ledger/epochs/000002.json is")


async def begun_elsewhere() -> Root:
    """The identity of a root."""
    return await open_root(Objects.open(f"memory://{secrets.token_hex(6)}"), at(0.0))


Leftover = Callable[[Objects], Awaitable[object]]


async def _clip(objects: Objects) -> None:
    await Clips(objects).publish(job("a"), b"mp4", {"of": "job"})


LEFT: list[tuple[Leftover, str]] = [
    (_clip, r"clips/../[0-9a-f]{32}\.(mp4|json)"),
    (lambda objects: objects.put(layout.table("clips", "000001-m"), b"x"), "tables/"),
    (lambda objects: objects.put(layout.events(1), b"x"), "ledger/events/"),
    (lambda objects: objects.put(layout.HOLDER, b"x"), "ledger/holder.json"),
]


@pytest.mark.parametrize(("leave", "found"), LEFT)
async def test_ledger_missing_and_something_left(
    objects: Objects, leave: Leftover, found: str
):
    """No file that the ledger reads is left, but other files of a run are."""
    await leave(objects)

    await refused(objects, f"root.json: missing, but {found}")

    await objects.put(layout.ROOT, (await begun_elsewhere()).data)
    await refused(objects, f"000001.json: missing, but {found}")


async def test_other_objects_are_no_trace(objects: Objects):
    """A new root may have an inbox's register, a pause, and other files of its
    owner."""
    for key in (
        "paused.json",
        "inbox/claimed/x.json",
        "clips/mine.mp4",
        "tables/a.csv",
    ):
        await objects.put(key, b"x")
    await objects.put(layout.CREATE_ONLY, b"{}")

    await lived(objects, "one")

    assert await claimed(objects) == 1


async def test_first_segment_missing(objects: Objects):
    ledger = await Ledger.open(objects, name="night")
    for n in range(3):
        await ledger.record(job(n), INTENDED)
    main = layout.stream(ledger.batch, MAIN)
    await objects.delete(layout.segment(main, 1))

    with pytest.raises(LedgerError, match="main: number 1 is missing"):
        await Ledger.open(objects, name="next", take_over=True)
    await ledger.close()


async def test_shard_claim_missing(objects: Objects):
    """A shard's first segment is its writer's claim."""
    ledger = await Ledger.open(objects, name="night")
    shard = await Ledger.join(objects, batch=ledger.batch, shard=7)
    await shard.record(job("a"), INTENDED)
    await shard.close()
    stream = layout.stream(ledger.batch, layout.shard(7, 1))
    await objects.delete(layout.segment(stream, 1))

    with pytest.raises(LedgerError, match=r"shard-0007.01: number 1 is missing"):
        await Ledger.join(objects, batch=ledger.batch, shard=7)
    with pytest.raises(LedgerError, match=r"shard-0007.01: number 1 is missing"):
        await Ledger.open(objects, name="next", take_over=True)


async def test_shard_stream_missing(root: str):
    """An earlier writer's stream is missing: its purchases would be made again."""
    objects = Objects.open(root)
    ledger = await Ledger.open(objects, name="night")
    for name in ("a", "b"):
        shard = await Ledger.join(objects, batch=ledger.batch, shard=7)
        await shard.record(job(name), INTENDED)
        await shard.close()
    gone = layout.stream(ledger.batch, layout.shard(7, 1))
    for key in await keys(objects, gone):
        await objects.delete(key)

    with pytest.raises(LedgerError, match=r"shard-0007.01: missing, but shard-0007.02"):
        await Ledger.join(objects, batch=ledger.batch, shard=7)
    with pytest.raises(LedgerError, match=r"shard-0007.01: missing, but shard-0007.02"):
        await ended(objects, ledger.batch, 7)
    with pytest.raises(LedgerError, match=r"shard-0007.01: missing, but shard-0007.02"):
        await Ledger.open(objects, name="next", take_over=True)
    await ledger.close()


async def test_fenced_is_still_fenced(objects: Objects):
    """A later claim is no damage to the run that it shuts out."""
    old = await Ledger.open(objects, name="old")
    new = await Ledger.open(objects, name="new", take_over=True)

    with pytest.raises(FencedError):
        await old.record(job("a"), INTENDED)
    await new.close()


async def test_unknown_object_in_a_stream_is_named(objects: Objects):
    """An object in a stream that is no segment may be a purchase that nobody can read."""
    await lived(objects, "one")
    await without_checkpoints(objects)
    odd = f"{layout.stream('000001-one', MAIN)}/0000000001 (copy).jsonl.zst"
    await objects.put(odd, b"?")

    with pytest.raises(LedgerError, match="not of the ledger"):
        await Ledger.open(objects, name="next")
