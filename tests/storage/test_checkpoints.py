"""A later run knows the same of earlier ones, however their epochs were stored."""

import asyncio
import json
import math
import secrets
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.checkpoint import EVENTS
from manifests.job_keys import keys
from manifests.lifecycle import (
    LOST,
    NEW,
    OVER,
    TRANSITIONS,
    Accepted,
    Adjusted,
    Discarded,
    Doubted,
    Entry,
    Generated,
    History,
    Intended,
    Published,
    Refused,
    Rejected,
    Risked,
    State,
    Ticket,
    fold,
)
from storage import layout
from storage.ledger import (
    LedgerError,
    checkpoint,
    checkpoint_files,
    claimant,
    compaction,
    entries,
    open_root,
    segment_reader,
)
from storage.ledger.codec import Seal, pack
from storage.ledger.compaction import bind
from storage.ledger.history_lookup import told
from storage.ledger.replay import recalled
from storage.ledger.segments import MAIN, streams
from storage.objects import DamagedError, Objects
from tests.histories import FACTS, START, intended, ledger_entries

pytestmark = pytest.mark.anyio

A, B, C, D = (f"{n:032x}" for n in (0xA, 0xB << 64, (0xB << 64) + 1, (1 << 128) - 1))
"""Two of the jobs share a key."""
INTENDED = intended("0.10")
ACCEPTED = Accepted(Ticket("wavespeed", "t-1", {"poll": "https://api.example/t-1"}))
PUBLISHED = Published("s3://bucket/clips/ab/abcd.mp4", FACTS)
MADE = (INTENDED, ACCEPTED, Generated(), PUBLISHED)


async def wrote(objects, epoch, some, *, segment=3, parts=0):
    """Write an epoch: a claim, segments and a seal; the first few segments as one
    part."""
    us = claimant(epoch, "night", 1000.0)
    await open_root(objects, lambda: 1000.0)
    await objects.create(layout.claim(epoch), us.dump())
    stream = layout.stream(us.batch, MAIN)
    cut = [some[n : n + segment] for n in range(0, len(some), segment)]
    blobs = [*map(pack, cut), pack([Seal(epoch, 2000.0)])]
    for number, blob in enumerate(blobs, 1):
        await objects.create(layout.segment(stream, number), blob)
    if parts:
        key = layout.part(stream, 1, parts)
        await objects.create(key, b"".join(blobs[:parts]))


async def wrote_and_bound(objects, *nights):
    for epoch, some in enumerate(nights, 1):
        await wrote(objects, epoch, some)
        await bind(objects, await recalled(objects, range(1, epoch + 1)))


async def everything(objects, **how):
    return [entry async for some in entries(objects, **how) for entry in some]


@pytest.fixture
def memory() -> Objects:
    return Objects.open(f"memory://{secrets.token_hex(6)}")


# -- the same, in whatever form the epochs are stored


PRICES = st.decimals("0.01", "0.50", places=2) | st.decimals(0, "0.1", places=9)
TIMES = st.floats(1e9, 2e9)
WHAT = {
    Intended: st.builds(
        Intended,
        lane=st.sampled_from(["spicy", "clouds"]),
        route=st.just("wavespeed/wan-2.2-spicy"),
        price_usd=PRICES,
        seed=st.integers(0, 2**64 - 1),
        mark=st.sampled_from(["", "nr-1"]),
    ),
    Accepted: st.builds(
        Ticket,
        st.just("wavespeed"),
        st.text(),
        st.dictionaries(st.sampled_from(["poll", "süß"]), st.text(max_size=5)),
    ).map(Accepted),
    Doubted: st.builds(Doubted, st.just("ReadTimeout"), st.sampled_from(LOST)),
    Risked: st.just(Risked("allowed")),
    Refused: st.builds(Refused, st.text()),
    Discarded: st.just(Discarded("black")),
    Rejected: st.builds(Rejected, st.just("content policy"), st.booleans()),
    Generated: st.builds(
        Generated, st.none() | st.integers(0, 2**32), st.none() | PRICES
    ),
    Published: st.just(PUBLISHED),
}


@st.composite
def nights(draw):
    """A few nights of legal entries of a few jobs."""
    histories, found = defaultdict(History), []
    for _ in range(draw(st.integers(1, 4))):
        night = []
        for _ in range(draw(st.integers(0, 15))):
            life = draw(st.sampled_from([A, B, C, D]))
            kinds = [
                kind for kind in WHAT if kind in TRANSITIONS[histories[life].state]
            ]
            ways = [WHAT[kind] for kind in kinds]
            if charged := histories[life].charged:
                attempt = st.integers(1, charged)
                ways.append(
                    st.builds(
                        Adjusted, attempt=attempt, usd=PRICES, reason=st.just("?")
                    )
                )
            if ways:
                entry = Entry(life, draw(TIMES), draw(st.one_of(ways)))
                histories[life] = histories[life].after(entry)
                night.append(entry)
        found.append(SimpleNamespace(entries=night, bound=draw(st.booleans())))
    return found


@pytest.mark.slow
@given(nights(), st.integers(1, 4), st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
def test_a_root_tells_the_same_however_its_epochs_are_kept(some, segment, small):
    with pytest.MonkeyPatch.context() as patch:
        if small:
            # Lives leave memory between two lines, and come back for the next.
            patch.setattr(segment_reader, "_BLOCK", 1)
            patch.setattr(compaction, "_AT_ONCE", 1)
            patch.setattr(checkpoint_files, "_HELD", 2)
        asyncio.run(_tells_the_same(some, segment))


async def _tells_the_same(some, segment):
    objects = Objects.open(f"memory://{secrets.token_hex(6)}")
    written = []
    for epoch, night in enumerate(some, 1):
        await wrote(objects, epoch, night.entries, segment=segment)
        written += night.entries
        state_index = await recalled(objects, range(1, epoch + 1))
        await _says(state_index, written)
        if night.bound:
            await bind(objects, state_index)
            assert not state_index.unbound
            await _says(await recalled(objects, range(1, epoch + 1)), written)
    everyone = range(1, len(some) + 1)
    assert (await recalled(objects, everyone, whole=True)).lives == fold(written)
    assert await everything(objects) == written
    with TemporaryDirectory() as folder:
        state_index = await recalled(objects, everyone)
        lives = await told(objects, state_index, keys([A, B, C, D]), Path(folder))
        assert lives.histories(keys([B, A])) == {
            life: history for life, history in fold(written).items() if life in {A, B}
        }
        assert lives.histories(keys([C, D, C])).keys() | {*fold(written)} == {
            *fold(written)
        }
    assert await everything(objects) == written


async def _says(state_index, written):
    truth = fold(written)
    known = [truth.get(job, NEW).state.value for job in (A, B, C, D)]
    assert state_index.states(keys([A, B, C, D])).to_list() == known
    for life, history in truth.items():
        if history.state not in OVER:
            assert state_index.history(life) == history
        else:
            assert state_index.history(life) == History(state=history.state)
            assert life not in state_index.lives


# -- binding


async def test_settlement_in_a_later_epoch_joins_its_history(memory, tmp_path):
    """A settlement in a later epoch joins the history of a job that ended earlier."""
    refund = Adjusted(attempt=1, usd=Decimal("-0.1"), reason="refunded")
    first = ledger_entries(A, *MADE) + ledger_entries(B, *MADE)
    second = ledger_entries(A, refund, start=START + 1000)
    third = ledger_entries(C, INTENDED, start=START + 2000)
    await wrote_and_bound(memory, first, second, third)

    state_index = await recalled(memory, [1, 2, 3])
    found = await told(memory, state_index, keys([A, B, C]), tmp_path)

    assert found.histories(keys([A, B, C])) == fold(first + second + third)
    assert state_index.lives == fold(third)


async def test_ended_jobs_leave_memory_and_are_merged_in_order(memory, monkeypatch):
    """Histories leave memory as their jobs end; their groups merge in key order."""
    monkeypatch.setattr(checkpoint_files, "_GROUP", 10)
    monkeypatch.setattr(checkpoint_files, "_HELD", 10)
    jobs = [f"{n * 7919 % 1000:016x}{n:016x}" for n in range(100)]
    some = [entry for job in jobs for entry in ledger_entries(job, *MADE)]
    await wrote_and_bound(memory, some)

    known = await checkpoint.load(memory, 1)
    groups = [rows async for rows in checkpoint.volume(memory, known, "jobs")]

    assert max(rows.height for rows in groups) <= 20
    rows = pl.concat(groups)
    assert rows["key"].is_sorted()
    assert rows.height == 100


async def test_group_full_of_open_jobs_is_bound(memory, monkeypatch):
    """An epoch is bound even if its open jobs fill a whole group."""
    monkeypatch.setattr(checkpoint_files, "_GROUP", 3)
    monkeypatch.setattr(checkpoint_files, "_HELD", 3)
    some = [entry for job in (A, B, D) for entry in ledger_entries(job, INTENDED)]

    await wrote_and_bound(memory, some)

    state_index = await recalled(memory, [1])
    assert not state_index.unbound
    assert state_index.lives == fold(some)
    assert await everything(memory) == some


async def test_settlement_after_the_history_left_memory_counts(memory, monkeypatch):
    """A settlement counts even if the ended job's history has left memory."""
    monkeypatch.setattr(segment_reader, "_BLOCK", 1)
    refund = Adjusted(attempt=1, usd=Decimal("-0.1"), reason="refunded")
    some = [
        *ledger_entries(A, *MADE),
        *ledger_entries(B, *MADE),
        *ledger_entries(A, refund, refund, start=START + 1000),
    ]

    await wrote_and_bound(memory, some)

    whole = await recalled(memory, [1], whole=True)
    assert whole.lives == fold(some)


async def test_epoch_bound_by_two_at_once_is_bound_once(memory):
    """An epoch that two runs bind at the same time is bound once."""
    await wrote(memory, 1, ledger_entries(A, *MADE))
    ours, other = await recalled(memory, [1]), await recalled(memory, [1])

    await asyncio.gather(bind(memory, ours), bind(memory, other))

    assert not ours.unbound
    assert (await recalled(memory, [1])).history(A).state is State.PUBLISHED


async def test_an_epoch_without_an_entry_is_bound_too(memory):
    await wrote_and_bound(memory, [], ledger_entries(A, INTENDED))

    assert await everything(memory) == ledger_entries(A, INTENDED)


@pytest.mark.parametrize("chunk", [1, 1 << 20])
async def test_illegal_transition_is_found_when_bound(memory, chunk, monkeypatch):
    """An illegal transition within an epoch is found when the epoch is bound."""
    monkeypatch.setattr(segment_reader, "_BLOCK", chunk)
    await wrote(memory, 1, ledger_entries(A, INTENDED, PUBLISHED), segment=1)
    state_index = await recalled(memory, [1])

    with pytest.raises(LedgerError, match=f"{A}: Published while in_doubt"):
        await bind(memory, state_index)


async def test_purchase_after_the_end_is_found_at_once(memory):
    """A purchase of a job that an earlier epoch ended is found on reading."""
    await wrote_and_bound(memory, ledger_entries(A, *MADE))
    await wrote(memory, 2, ledger_entries(A, INTENDED))

    with pytest.raises(LedgerError, match=f"{A}: intended while published"):
        await recalled(memory, [1, 2])


async def test_a_line_that_means_nothing_is_named(memory):
    await wrote(memory, 1, ledger_entries(A, *MADE))
    key = layout.segment(layout.stream("000001-night", MAIN), 1)
    broken = bytearray(pack(ledger_entries(A, INTENDED)))
    odd = replace(INTENDED, seed="seven")
    for blob, error, complaint in (
        (bytes(broken[:-9]), DamagedError, f"{key}: damaged: breaks off"),
        (pack(ledger_entries(A, odd)), LedgerError, "seven"),
    ):
        await memory.put(key, blob)
        with pytest.raises(error, match=complaint):
            await bind(memory, await recalled(memory, [1]))


# -- questions about many epochs


async def test_durations_of_each_lane_are_known_again(memory):
    jobs = [f"{n:032x}" for n in range(60)]
    night = [
        entry
        for n, job in enumerate(jobs)
        for entry in ledger_entries(job, *MADE[:3], start=n)
    ]
    again = [
        entry
        for n, job in enumerate(jobs)
        for entry in ledger_entries(job, PUBLISHED, start=n)
    ]
    await wrote(memory, 1, night)
    await wrote(memory, 2, again)

    for _ in range(2):
        state_index = await recalled(memory, [1, 2])
        assert list(state_index.latencies["spicy"]) == [1.0] * 50
        await bind(memory, state_index)


async def test_duration_across_epochs_is_unknown(
    memory,
):
    """A duration is unknown if one epoch has its start and another one its end."""
    await wrote(memory, 1, ledger_entries(A, *MADE[:2]))
    await wrote(memory, 2, ledger_entries(A, *MADE[2:], start=START + 8000))

    for _ in range(2):
        state_index = await recalled(memory, [1, 2])
        assert not state_index.latencies["spicy"]
        await bind(memory, state_index)


async def test_durations_of_jobs_that_are_over_are_known_after_a_crash(memory):
    jobs = [f"{n:032x}" for n in range(60)]
    some = [
        entry
        for n, job in enumerate(jobs)
        for entry in ledger_entries(job, *MADE, start=n)
    ]
    await wrote(memory, 1, some)

    state_index = await recalled(memory, [1])

    assert list(state_index.latencies["spicy"]) == [1.0] * 50


async def test_epochs_in_which_all_is_older_are_passed_over(memory):
    day = 86_400.0
    spans = (0, 5 * day, 10 * day, 10 * day + 60)
    lives = [
        ledger_entries(job, *MADE, start=start)
        for job, start in zip((A, B, C, D), spans, strict=True)
    ]
    await wrote_and_bound(memory, *lives)

    for n, start in enumerate(spans):
        since = [entry for life in lives[n:] for entry in life]
        assert await everything(memory, since=start) == since
    assert await everything(memory, since=math.inf) == []


async def test_a_part_is_read_in_the_place_of_its_segments(memory):
    some = [*ledger_entries(A, *MADE), *ledger_entries(B, *MADE)]
    await wrote(memory, 1, some, segment=2, parts=3)

    assert await everything(memory) == some


# -- for people


async def test_all_events_can_be_queried_as_one_table(tmp_path):
    objects = Objects.open(str(tmp_path))
    odd = replace(INTENDED, price_usd=Decimal("0.1234567"))
    await wrote_and_bound(
        objects,
        ledger_entries(A, *MADE, start=1_800_000_000.25),
        ledger_entries(B, odd, start=1_800_000_100.0),
    )

    events = pl.scan_parquet(tmp_path / "ledger/events")

    assert events.collect_schema() == {**EVENTS, "epoch": pl.Int64}
    rows = events.select("epoch", "job", "kind", "price_usd").collect()
    assert rows.rows() == [
        (1, A, "intended", Decimal("0.1")),
        (1, A, "accepted", None),
        (1, A, "generated", None),
        (1, A, "published", None),
        (2, B, "intended", Decimal("0.123457")),
    ]
    first = events.select(pl.col("at").dt.to_string("iso")).first().collect().item()
    assert first == "2027-01-15 08:00:00.250000+00:00"
    (exact,) = events.select("exact").drop_nulls().collect()["exact"]
    assert json.loads(exact)["price_usd"] == "0.1234567"


async def test_damaged_checkpoint_stays_until_it_can_be_replaced(memory):
    """A checkpoint is the only record of entries whose segments are gone: it is deleted
    only once its segments were read in full."""
    await wrote_and_bound(memory, ledger_entries(A, *MADE))
    whole = [stored.key async for stored in memory.list("ledger/")]
    state_index = await recalled(memory, [1])
    state_index.unbound[1] = {}
    state_index.rebuild.add(1)
    stream = layout.stream("000001-night", MAIN)
    await memory.put(layout.segment(stream, 1), b"rotten")

    with pytest.raises(DamagedError):
        await bind(memory, state_index)

    assert [stored.key async for stored in memory.list("ledger/")] == whole


async def test_epochs_are_compacted_from_the_oldest_to_the_newest(memory):
    """The histories before an epoch are read from the checkpoints of older ones."""
    await wrote(memory, 1, ledger_entries(A, *MADE))
    await wrote(memory, 2, ledger_entries(B, *MADE))
    state_index = await recalled(memory, [1, 2])
    stream = layout.stream("000002-night", MAIN)
    await memory.put(layout.segment(stream, 1), b"rotten")

    with pytest.raises(DamagedError):
        await bind(memory, state_index)

    assert [*state_index.unbound] == [2]


# -- one epoch without a checkpoint


async def test_purchase_after_the_end_is_found_within_an_epoch(memory):
    await wrote(memory, 1, ledger_entries(A, *MADE, INTENDED), segment=9)

    with pytest.raises(LedgerError, match=f"{A}: intended while published"):
        await recalled(memory, [1])


async def test_ended_job_is_known_from_its_segments(memory):
    """A job that an epoch without a checkpoint has ended is not bought again."""
    await wrote(memory, 1, ledger_entries(A, *MADE))

    state_index = await recalled(memory, [1])

    assert state_index.history(A) == History(state=State.PUBLISHED)


async def test_entry_of_no_job_is_named(memory):
    await wrote(memory, 1, ledger_entries("one", INTENDED))

    with pytest.raises(LedgerError, match="epoch 1: 'one' is no job's id"):
        await recalled(memory, [1])


async def test_streams_are_read_in_the_order_of_their_writers(memory):
    """The main stream comes first, and a shard's streams in the order of its processes."""
    names = [MAIN, layout.shard(1, 1), layout.shard(1, 2), layout.shard(2, 1)]
    for name in reversed(names):
        stream = layout.stream("000001-night", name)
        await memory.create(layout.segment(stream, 1), pack([Seal(2, 2000.0)]))

    assert [*await streams(memory, "000001-night")] == names
