"""A changed record is never believed, whichever of its bytes changed."""

import io
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from manifests.job_keys import keys as keys_of
from manifests.lifecycle import Entry, History
from storage import checksum, layout
from storage.ledger import Ledger, LedgerError, entries
from storage.ledger.checkpoint import KEYS, compacted
from storage.ledger.compaction import bind
from storage.ledger.history_lookup import told
from storage.ledger.replay import recalled
from storage.ledger.segments import MAIN
from storage.ledger.spilled_entry import SpilledEntry
from storage.objects import DamagedError, MissingError, Objects
from tests.histories import START, ledger_entries
from tests.storage.lives import INTENDED, job, keys
from tests.storage.simulated import Simulated, run
from tests.storage.test_checkpoints import MADE, wrote, wrote_and_bound

pytestmark = pytest.mark.anyio

EPOCH_1 = [*ledger_entries(job("a"), *MADE), *ledger_entries(job("b"), *MADE[:2])]
EPOCH_2 = [
    *ledger_entries(job("b"), *MADE[2:], start=START + 1000),
    *ledger_entries(job("c"), INTENDED, start=START + 1000),
]
EPOCH_3 = ledger_entries(job("d"), *MADE, start=START + 2000)
JOBS = keys_of(map(job, "abcde"))


@pytest.fixture
def memory() -> Objects:
    return Objects.open(f"memory://{secrets.token_hex(6)}")


@dataclass(frozen=True)
class Known:
    """Everything that a later run could find on a root."""

    states: list[str]
    open: Mapping[str, History]
    whole: Mapping[str, History]
    entries: list[Entry]
    told: Mapping[str, History]


async def known(objects: Objects, folder: Path) -> Known:
    older = range(1, 4)
    state_index = await recalled(objects, older)
    states, unfinished = state_index.states(JOBS).to_list(), dict(state_index.lives)
    whole = (await recalled(objects, older, whole=True)).lives
    every = [one async for some in entries(objects) for one in some]
    place = folder / secrets.token_hex(4)
    place.mkdir()
    histories = (await told(objects, state_index, JOBS, place)).histories(JOBS)
    return Known(states, unfinished, whole, every, histories)


async def without_segments(objects: Objects) -> None:
    for key in await keys(objects):
        if layout.SEGMENT.match(key):
            await objects.delete(key)


def flipped(data: bytes, at: int) -> bytes:
    broken = bytearray(data)
    broken[at] ^= 1 << at % 8
    return bytes(broken)


CHECKPOINT = {kind: key(2) for kind, key in KEYS.items()}
CHECKPOINT["list"] = layout.checkpoint(2)
NEEDS: Mapping[str, Callable[[Objects], Awaitable[object]]] = {
    "events": lambda objects: anext(aiter(entries(objects, since=START + 1000))),
    "jobs": lambda objects: recalled(objects, [2], whole=True),
    "index": lambda objects: recalled(objects, [2]),
    "list": lambda objects: recalled(objects, [2]),
}
"""The readers that need each file."""


@pytest.mark.parametrize("kind", CHECKPOINT)
async def test_flipped_byte_in_checkpoint(memory, tmp_path, kind):
    """The segments replace it: the state is the same, and the checkpoint is
    rewritten."""
    await wrote_and_bound(memory, EPOCH_1, EPOCH_2, EPOCH_3)
    truth = await known(memory, tmp_path)
    data = await memory.get(CHECKPOINT[kind])

    for at in range(0, len(data), len(data) // 9):
        await memory.put(CHECKPOINT[kind], flipped(data, at))
        assert await known(memory, tmp_path) == truth

    await bind(memory, await recalled(memory, range(1, 4)))
    await without_segments(memory)
    if kind in {"index", "list"}:
        # Opening a root reads these two.
        assert await known(memory, tmp_path) == truth


@pytest.mark.parametrize("kind", CHECKPOINT)
async def test_flipped_byte_without_segments(memory, tmp_path, kind):
    """Without a replacement, the error names the file, unless no reader needs it."""
    await wrote_and_bound(memory, EPOCH_1, EPOCH_2, EPOCH_3)
    truth = await known(memory, tmp_path)
    await without_segments(memory)
    key = CHECKPOINT[kind]
    data = await memory.get(key)

    for at in range(0, len(data), 7):
        await memory.put(key, flipped(data, at))
        with pytest.raises(DamagedError, match=f"{key}: damaged.*restore"):
            await NEEDS[kind](memory)
    if kind in {"events", "jobs"}:
        # Purchases depend on the other two.
        state_index = await recalled(memory, range(1, 4))
        assert state_index.states(JOBS).to_list() == truth.states


@pytest.mark.parametrize("kind", CHECKPOINT)
@pytest.mark.parametrize("left", [0, 1, 100, -1])
async def test_cut_off_checkpoint(memory, tmp_path, kind, left):
    """A truncated file is named, and crashes no library."""
    await wrote_and_bound(memory, EPOCH_1, EPOCH_2, EPOCH_3)
    truth = await known(memory, tmp_path)
    key = CHECKPOINT[kind]
    await memory.put(key, (await memory.get(key))[:left])

    assert await known(memory, tmp_path) == truth

    await memory.put(key, b"")
    await without_segments(memory)
    with pytest.raises(DamagedError, match=f"{key}: damaged"):
        await known(memory, tmp_path)


@pytest.mark.parametrize("kind", KEYS)
async def test_missing_checkpoint_file(memory, tmp_path, kind):
    await wrote_and_bound(memory, EPOCH_1, EPOCH_2, EPOCH_3)
    truth = await known(memory, tmp_path)
    await memory.delete(CHECKPOINT[kind])

    assert await known(memory, tmp_path) == truth

    await memory.delete(CHECKPOINT[kind])
    await without_segments(memory)
    with pytest.raises((DamagedError, MissingError), match="missing"):
        await known(memory, tmp_path)


@pytest.mark.parametrize("lost", ["first", "last", "all"])
async def test_damaged_checkpoint_and_lost_segments(memory, lost):
    """The remaining segments show only a part of the events."""
    await wrote_and_bound(memory, EPOCH_1, EPOCH_2, EPOCH_3)
    await memory.put(CHECKPOINT["index"], b"PAR1")
    stream = layout.stream("000002-night", MAIN)
    there = await keys(memory, stream)
    for key in {"first": there[:1], "last": there[-1:], "all": there}[lost]:
        await memory.delete(key)

    with pytest.raises((DamagedError, LedgerError), match="missing"):
        await recalled(memory, range(1, 4))


async def test_damaged_list_and_lost_seal(memory):
    """Without the list, only the seal tells how many segments there were."""
    await wrote_and_bound(memory, EPOCH_1, EPOCH_2, EPOCH_3)
    await memory.put(CHECKPOINT["list"], b"{}")
    *_, seal = await keys(memory, layout.stream("000002-night", MAIN))
    await memory.delete(seal)

    with pytest.raises(DamagedError, match=f"{seal}: missing"):
        await recalled(memory, range(1, 4))


async def test_damage_is_told_and_mended(memory, caplog):
    await wrote_and_bound(memory, EPOCH_1, EPOCH_2)
    good = await memory.get(CHECKPOINT["index"])
    await memory.put(CHECKPOINT["index"], flipped(good, 9))
    caplog.set_level(logging.WARNING)

    state_index = await recalled(memory, [1, 2])
    assert f"{CHECKPOINT['index']}: damaged" in caplog.text
    await bind(memory, state_index)

    assert await memory.get(CHECKPOINT["index"]) == good
    assert await compacted(memory) == [1, 2]
    assert not (await recalled(memory, [1, 2])).rebuild


async def test_damaged_checkpoint_stays_until_segments_replace_it(memory):
    """A damaged checkpoint is deleted only when all segments of its epoch were read."""
    await wrote_and_bound(memory, EPOCH_1, EPOCH_2)
    await memory.put(CHECKPOINT["index"], b"PAR1")
    state_index = await recalled(memory, [1, 2])
    assert state_index.rebuild == {2}
    segment = layout.segment(layout.stream("000002-night", MAIN), 1)
    data = await memory.get(segment)
    await memory.put(segment, flipped(data, len(data) // 2))
    before = await keys(memory)

    with pytest.raises(DamagedError, match=f"{segment}: damaged"):
        await bind(memory, state_index)

    assert await keys(memory) == before


async def test_epochs_are_compacted_oldest_first(memory):
    """An epoch that cannot be read leaves the older ones compacted, not the newer."""
    for epoch, some in enumerate([EPOCH_1, EPOCH_2, EPOCH_3], 1):
        await wrote(memory, epoch, some)
    state_index = await recalled(memory, [1, 2, 3])
    segment = layout.segment(layout.stream("000002-night", MAIN), 1)
    data = await memory.get(segment)
    await memory.put(segment, flipped(data, len(data) // 2))

    with pytest.raises(DamagedError, match=f"{segment}: damaged"):
        await bind(memory, state_index)

    assert await compacted(memory) == [1]
    assert {*state_index.unbound} == {2, 3}


async def test_foreign_object_in_a_stream_is_named(memory):
    """An object that no run wrote into a stream is refused by name, not left out."""
    await wrote(memory, 1, EPOCH_1)
    key = layout.stream("000001-night", MAIN) + "notes.txt"
    await memory.put(key, b"moved here by hand")

    with pytest.raises(LedgerError, match=f"{key}: not of the ledger"):
        await recalled(memory, [1])
    with pytest.raises(LedgerError, match=f"{key}: not of the ledger"):
        await Ledger.open(memory, name="next")

    await memory.delete(key)
    assert await recalled(memory, [1])


async def test_flipped_byte_in_segment_refuses(memory):
    """No file replaces the segments of an epoch that is not compacted."""
    await wrote(memory, 1, EPOCH_1)
    key = layout.segment(layout.stream("000001-night", MAIN), 1)
    data = await memory.get(key)

    for at in range(len(data)):
        await memory.put(key, flipped(data, at))
        with suppress(DamagedError):
            # The decoder ignores some bits.
            state_index = await recalled(memory, [1])
            assert state_index.states(JOBS).to_list()[:2] == ["published", "accepted"]

    await memory.put(key, flipped(data, len(data) // 2))
    with pytest.raises(DamagedError, match=f"{key}: damaged"):
        await recalled(memory, [1])


async def test_flipped_byte_in_part_is_read_around(memory, caplog):
    """The segments of a damaged part are read in its place."""
    await wrote(memory, 1, EPOCH_1, segment=2, parts=3)
    key = layout.part(layout.stream("000001-night", MAIN), 1, 3)
    data = await memory.get(key)

    for broken in (flipped(data, 40), data[:-9], b""):
        await memory.put(key, broken)
        found = [one async for some in entries(memory) for one in some]
        assert found == EPOCH_1
        assert f"{key}: damaged" in caplog.text


# -- files that exist already


async def test_same_rows_as_other_bytes(memory):
    """Another release wrote these rows: they count as they are."""
    await wrote(memory, 1, EPOCH_1)
    state_index = await recalled(memory, [1])
    await bind(memory, state_index)
    key = layout.index(1)
    ours = await memory.get(key)
    await memory.put(key, recompressed(ours))
    await memory.delete(layout.checkpoint(1))

    await bind(memory, await recalled(memory, [1]))

    assert await memory.get(key) == recompressed(ours) != ours
    assert (await recalled(memory, [1])).states(JOBS).to_list()[:2] == [
        "published",
        "accepted",
    ]


def recompressed(data: bytes) -> bytes:
    out = io.BytesIO()
    pl.read_parquet(io.BytesIO(data)).write_parquet(out, compression="snappy")
    return out.getvalue()


@pytest.mark.parametrize("kind", KEYS)
async def test_other_rows_are_not_passed_over(memory, kind):
    """A number in use: the rows there belong to another epoch, and ours would be
    lost."""
    other = Objects.open(f"memory://{secrets.token_hex(6)}")
    await wrote_and_bound(other, EPOCH_3)
    await wrote(memory, 1, EPOCH_1)
    await memory.put(KEYS[kind](1), await other.get(KEYS[kind](1)))

    with pytest.raises(LedgerError, match=r"holds other rows .* move it away"):
        await bind(memory, await recalled(memory, [1]))

    assert await compacted(memory) == []
    await memory.delete(KEYS[kind](1))
    await bind(memory, await recalled(memory, [1]))
    assert await compacted(memory) == [1]


async def test_damaged_leftover_is_named(memory):
    """A run died before it wrote the list: its files are compared, not believed."""
    await wrote_and_bound(memory, EPOCH_1)
    await memory.delete(layout.checkpoint(1))
    await memory.put(layout.events(1), (await memory.get(layout.events(1)))[:100])

    with pytest.raises(LedgerError, match=f"{layout.events(1)}: damaged.*move it away"):
        await bind(memory, await recalled(memory, [1]))


async def test_other_list_is_not_passed_over(memory):
    await wrote(memory, 1, EPOCH_1)
    ours, other = await recalled(memory, [1]), await recalled(memory, [1])
    await bind(memory, other)
    key = layout.checkpoint(1)
    record = checksum.load(await memory.get(key), key)
    await memory.put(key, checksum.dump(record | {"streams": {"main": 1}}))

    with pytest.raises(LedgerError, match=f"{key}: holds other rows"):
        await bind(memory, ours)


# -- JSON


async def test_flipped_byte_in_claim(memory):
    """Without its claim an epoch cannot be found: the root is refused, never
    misread."""
    await wrote(memory, 1, EPOCH_1)
    key = layout.claim(1)
    data = await memory.get(key)

    for at in range(len(data)):
        await memory.put(key, flipped(data, at))
        with pytest.raises(DamagedError, match=f"{key}: damaged.*restore"):
            await recalled(memory, [1])


async def test_damaged_sign_of_life_keeps_nobody_out(memory):
    """It is written again in ten seconds, and the claim names the holder of the
    root."""
    await wrote(memory, 1, EPOCH_1)
    await memory.put(layout.HOLDER, b"{}")

    await (await Ledger.open(memory, name="next")).close()


def test_flipped_byte_in_spilled_entry():
    """A spilled entry with a flipped byte is not recorded as another entry."""
    one = SpilledEntry.of(EPOCH_1[1], History(), "ledger/000001-night/main/1")
    line = one.dump()
    assert SpilledEntry.load(line, "x") == one

    for at in range(len(line)):
        with pytest.raises(DamagedError, match="x: damaged"):
            SpilledEntry.load(flipped(line, at), "x")


async def test_flipped_byte_in_json():
    """A flip of any bit is detected."""
    data = checksum.dump({"name": "tonight", "slots": 16, "checksums": ["0" * 64]})
    assert checksum.load(data, "x") == {
        "name": "tonight",
        "slots": 16,
        "checksums": ["0" * 64],
    }
    for at in range(len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[at] ^= 1 << bit
            with pytest.raises(DamagedError, match="x: damaged"):
                checksum.load(bytes(broken), "x")
    for left in range(len(data)):
        with pytest.raises(DamagedError, match="x: damaged"):
            checksum.load(data[:left], "x")


def test_damaged_list_is_deleted_first():
    """A run that is killed between two deletes leaves no list of deleted files."""
    simulated = Simulated()

    async def mended() -> None:
        objects = simulated.objects()
        await wrote_and_bound(objects, EPOCH_1)
        await objects.put(layout.index(1), b"PAR1")
        simulated.asked.clear()
        await bind(objects, await recalled(objects, [1]))

    run(mended)

    deleted = [path for what, path, _ in simulated.asked if what == "delete"]
    assert deleted[0] == layout.checkpoint(1)
    assert {*deleted[1:]} == {key(1) for key in KEYS.values()}
