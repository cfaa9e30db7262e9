"""A root with lost or damaged records is never bought into."""

import io
import secrets
import shutil
from contextlib import suppress

import polars as pl
import pytest

from manifests.input import ManifestError, reading
from storage import checksum, layout
from storage.ledger import LedgerError
from storage.objects import DamagedError, Objects
from tasks.distributed import mailbox
from tasks.distributed.messages import ShardOrder
from tasks.emulator import running
from tasks.engine.past_tables import asking

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(worlds, emulator):
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=["wavespeed/wan-2.2-spicy"])


async def test_claim_missing_buys_nothing(world):
    """Twelve rows are done, their claim is lost, and another manifest has the same rows."""
    await world.run(12)
    (world.folder / "root" / layout.claim(1)).unlink()
    again = world.manifest(12, name="again")

    with pytest.raises(LedgerError, match=r"000001.json: missing, but ledger/000001-m"):
        await world.run(again)

    assert len(world.emulator.bill) == 12


async def test_damaged_index_is_read_from_segments(world, caplog):
    """Bytes of the index flip: the segments hold the same facts, nothing is rebought."""
    await world.run(6)
    path = world.folder / "root" / layout.index(1)
    good = path.read_bytes()
    path.write_bytes(flipped(good))

    again = await world.run(world.manifest(6, name="again"))

    assert (again.published, again.bought) == (6, 0)
    assert len(world.emulator.bill) == 6
    assert f"{layout.index(1)}: damaged" in caplog.text
    assert path.read_bytes() == good


async def test_damaged_index_without_segments_refuses(world):
    """A damaged index has no substitute here: nothing is bought."""
    await world.run(6)
    await world.run(world.manifest(1, name="another"))
    root = world.folder / "root"
    (root / layout.index(1)).write_bytes(flipped((root / layout.index(1)).read_bytes()))
    shutil.rmtree(root / layout.streams("000001-m"))

    for name in ("again", "and_again"):
        with pytest.raises(DamagedError, match=r"000001.parquet: damaged.*restore"):
            await world.run(world.manifest(6, name=name))

    assert len(world.emulator.bill) == 6


async def test_damaged_segment_refuses(world):
    """A run that was cut off is read from its segments alone."""
    await world.run(6)
    root = world.folder / "root"
    (root / layout.checkpoint(1)).unlink()
    segment = root / layout.segment("ledger/000001-m/main", 2)
    segment.write_bytes(flipped(segment.read_bytes()))

    with pytest.raises(DamagedError, match=r"0000000002.jsonl.zst: damaged"):
        await world.run(world.manifest(6, name="again"))

    assert len(world.emulator.bill) == 6


async def test_damaged_claim_refuses(world):
    """A changed letter of the name leads to an empty folder."""
    await world.run(6)
    claim = world.folder / "root" / layout.claim(1)
    claim.write_bytes(claim.read_bytes().replace(b'"name": "m"', b'"name": "n"'))

    with pytest.raises(DamagedError, match=r"000001.json: damaged.*restore"):
        await world.run(world.manifest(6, name="again"))

    assert len(world.emulator.bill) == 6


async def test_damaged_limits_are_learned_again(world, caplog):
    """A digit of a limit flips: no run submits by it."""
    await world.run(1)
    learned = world.folder / "root" / layout.LEARNED
    learned.write_bytes(checksum.dump({"wavespeed": [16, 60]}).replace(b"60", b"61"))

    again = await world.run(world.manifest(2, name="again"))

    assert again.published == 2
    assert "limits.unreadable" in caplog.text


async def test_damaged_rows_of_shard_are_refused(tmp_path):
    """Changed rows would be other clips, which the user did not order."""
    objects = Objects.open(f"memory://{secrets.token_hex(6)}")
    rows, there = tmp_path / "rows", tmp_path / "there"
    rows.write_bytes(bytes(range(256)))
    order = ShardOrder(
        manifest="m",
        policy="balanced",
        finish_at=None,
        has_budget=False,
        latencies={},
        before={},
        rows=checksum.of_file(rows),
    )
    await mailbox.send_order(objects, "000001-m", 7, order, rows)
    assert await mailbox.receive_order(objects, "000001-m", 7, there) == order

    for key in [one.key async for one in objects.list("shards")]:
        good = await objects.get(key)
        await objects.put(key, flipped(good))
        with pytest.raises(DamagedError, match=f"{key}: damaged"):
            await mailbox.receive_order(objects, "000001-m", 7, there)
        await objects.put(key, good)


async def test_damaged_table_is_skipped(caplog):
    """polars panics over some flipped bytes: a message names the table; no run ends."""
    objects = Objects.open(f"memory://{secrets.token_hex(6)}")
    key, jobs = layout.table("clips", "000001-m"), [f"{n:032x}" for n in range(99)]
    out = io.BytesIO()
    pl.DataFrame({"job": jobs, "prompt": jobs}).write_parquet(out)
    table = out.getvalue()

    for at in range(0, len(table), 11):
        await objects.put(key, table[:at] + bytes([table[at] ^ 0xFF]) + table[at + 1 :])
        async with asking(objects, jobs[:1], within_s=30) as asked:
            await asked(jobs[0])

    assert f"{key}: damaged: not readable as Parquet" in caplog.text


def test_damaged_manifest_is_named():
    """Any error of the Parquet library about flipped bytes names the manifest."""
    out = io.BytesIO()
    rows = [f"pan {n}" for n in range(200)]
    pl.DataFrame({"prompt": rows, "image": rows}).write_parquet(out)
    manifest = out.getvalue()
    for at in range(0, len(manifest), 3):
        broken = manifest[:at] + bytes([manifest[at] ^ 0xFF]) + manifest[at + 1 :]
        with suppress(ManifestError), reading("m.parquet"):
            pl.scan_parquet(io.BytesIO(broken)).collect()


def flipped(data: bytes) -> bytes:
    """With some bits flipped in its middle."""
    half = len(data) // 2
    return (
        data[:half]
        + bytes(byte ^ 0x11 for byte in data[half : half + 4])
        + data[half + 4 :]
    )
