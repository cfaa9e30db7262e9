"""The ledger's promises: durable, in order, and one writer."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from manifests import job_keys as numbers
from manifests.lifecycle import (
    Accepted,
    Entry,
    Generated,
    History,
    IllegalTransitionError,
    Intended,
    Published,
    Refused,
    State,
)
from storage import layout
from storage import ledger as ledgers
from storage.ledger import (
    FencedError,
    HeldError,
    Ledger,
    LedgerError,
    claimant,
    open_root,
)
from storage.objects import DamagedError, Objects
from tests.histories import FACTS
from tests.storage.lives import INTENDED, TICKET, at, job, keys, made
from tests.storage.proxies import FaultyProxy

pytestmark = [pytest.mark.anyio, pytest.mark.core]


# -- records that are kept


async def test_next_run_reads_all_records(objects: Objects):
    """A run reads everything that the run before it recorded."""
    first = await Ledger.open(objects, name="Portraits, night 1", clock=at(1000))
    await first.record(job("a"), INTENDED)
    entry, told = await first.record(job("a"), Accepted(TICKET))
    await first.close()

    second = await Ledger.open(objects, name="Portraits, night 2", clock=at(1001))

    assert entry == Entry(job("a"), 1000.0, Accepted(TICKET))
    assert told.state is State.ACCEPTED
    assert second.history(job("a")) == told == first.history(job("a"))
    assert second.lives == {job("a"): told}
    assert second.history(job("b")) == History()
    assert (first.batch, second.batch) == (
        "000001-portraits-night-1",
        "000002-portraits-night-2",
    )
    await second.close()


class Counted(Objects):
    """A store that counts the objects that are read."""

    gets = 0

    async def get(self, key):
        Counted.gets += 1
        return await super().get(key)


@pytest.mark.parametrize("dies", [False, True])
async def test_recent_submits_cost_few_requests(dies, tmp_path, monkeypatch):
    """Only epochs that ended in the last minute are read; a dead one was read before."""
    monkeypatch.setattr(Counted, "gets", 0)
    objects = Counted.open(tmp_path.as_uri())
    for n, now in enumerate((0, 10, 1000, 1010)):
        ledger = await Ledger.open(
            objects, name="night", clock=at(now), take_over=n > 0
        )
        await ledger.record(job(f"{n}"), INTENDED)
        if not (dies and n == 3):
            await ledger.close()
    last = await Ledger.open(objects, name="night", clock=at(1020), take_over=True)
    Counted.gets = 0

    found = await last.submits(since=960.0)
    recent, Counted.gets = Counted.gets, 0
    none = await last.submits(since=2000.0)

    assert sorted(each.at for each in found) == [1000.0, 1010.0]
    assert {each.lane for each in found} == {INTENDED.lane}
    assert recent <= 2 * (1 if dies else 2)
    assert (none, Counted.gets) == ([], 0)
    await last.close()


async def test_an_illegal_event_never_reaches_the_store(objects: Objects):
    ledger = await Ledger.open(objects, name="night")
    with pytest.raises(IllegalTransitionError, match="Accepted while pending"):
        await ledger.record(job("a"), Accepted(TICKET))

    assert await keys(objects, f"ledger/{ledger.batch}") == []
    assert ledger.history(job("a")) == History()
    await ledger.close()


async def test_unwritable_event_fails_only_its_caller(objects: Objects):
    """An event that cannot be encoded fails its caller, and no other record."""
    ledger = await Ledger.open(objects, name="night")
    await asyncio.gather(*(ledger.record(job(name), INTENDED) for name in "ab"))
    half_an_emoji = json.loads(r'"no \ud83d"')

    async with asyncio.timeout(10):
        told, beside = await asyncio.gather(
            ledger.record(job("a"), Refused(half_an_emoji)),
            ledger.record(job("b"), Accepted(TICKET)),
            return_exceptions=True,
        )

        assert isinstance(told, UnicodeEncodeError)
        assert isinstance(beside, tuple)
        # Later records are not blocked, of the same job or at the end.
        await ledger.record(job("a"), Refused("no"))
        await ledger.close()
    durable = await ledgers.histories(objects)
    assert durable[job("a")].reason == "no"
    assert durable[job("b")] == beside[1]


async def test_amounts_are_kept_to_the_last_digit(objects: Objects):
    ledger = await Ledger.open(objects, name="night")
    await ledger.record(
        job("a"), replace(INTENDED, price_usd=Decimal("0.1000000000000001"))
    )
    await ledger.close()

    assert (await ledgers.histories(objects))[job("a")].spent_usd == Decimal(
        "0.1000000000000001"
    )


async def test_a_thousand_at_once_share_their_requests(objects: Objects):
    ledger = await Ledger.open(objects, name="night")

    await asyncio.gather(*(ledger.record(job(n), INTENDED) for n in range(1000)))
    await asyncio.gather(
        *(ledger.record(job(n), Accepted(TICKET)) for n in range(1000))
    )
    await ledger.close()

    assert len(await keys(objects, "ledger/000001-night")) <= 10
    assert len(await ledgers.read(objects)) == 2000


async def test_single_record_is_written_at_once(objects: Objects):
    """A single record is written as a segment, without a wait for others."""
    ledger = await Ledger.open(objects, name="night")

    await ledger.record(job("a"), INTENDED)

    assert await keys(objects, "ledger/000001-night") == [
        "ledger/000001-night/main/0000000001.jsonl.zst"
    ]
    await ledger.close()


async def test_events_of_one_job_keep_their_order(
    objects: Objects,
):
    """A job's events keep their order, also while the first is still being written."""
    ledger = await Ledger.open(objects, name="night")

    intended = asyncio.create_task(ledger.record(job("a"), INTENDED))
    accepted = asyncio.create_task(ledger.record(job("a"), Accepted(TICKET)))

    assert (await intended)[1].state is State.IN_DOUBT
    assert (await accepted)[1].state is State.ACCEPTED
    await ledger.close()


async def test_nothing_is_history_before_it_is_durable(objects: Objects):
    ledger = await Ledger.open(objects, name="night")

    recording = asyncio.create_task(ledger.record(job("a"), INTENDED))
    await asyncio.sleep(0)

    assert ledger.history(job("a")).state is State.PENDING
    await recording
    assert ledger.history(job("a")).state is State.IN_DOUBT
    await ledger.close()


async def test_cancelled_caller_has_recorded_once(
    objects: Objects,
):
    """A cancelled caller's event is recorded once; other callers are not affected."""
    ledger = await Ledger.open(objects, name="night")
    tasks = [asyncio.create_task(ledger.record(job(n), INTENDED)) for n in range(50)]
    await asyncio.sleep(0)

    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await ledger.close()

    assert all(isinstance(x, asyncio.CancelledError) for x in results[::2])
    assert all(isinstance(x, tuple) for x in results[1::2])
    entries = await ledgers.read(objects)
    assert {entry.job for entry in entries} == {job(n) for n in range(50)}
    assert len(entries) == 50


async def test_close_writes_queued_records(objects: Objects):
    """Queued records are written before the ledger closes."""
    ledger = await Ledger.open(objects, name="night")
    recording = asyncio.create_task(ledger.record(job("a"), INTENDED))
    await asyncio.sleep(0)

    await ledger.close()
    await ledger.close()

    assert (await recording)[1].state is State.IN_DOUBT
    with pytest.raises(LedgerError, match="closed"):
        await ledger.record(job("a"), Accepted(TICKET))


async def test_a_reader_may_look_while_a_batch_writes(objects: Objects):
    ledger = await Ledger.open(objects, name="night")

    async def write() -> None:
        for n in range(6):
            await ledger.record(job(n), INTENDED)

    writing = asyncio.create_task(write())
    seen: list[int] = []
    while not writing.done():
        entries = await ledgers.read(objects)
        assert [entry.job for entry in entries] == [job(n) for n in range(len(entries))]
        seen.append(len(entries))
    await writing

    assert seen == sorted(seen)
    await ledger.close()


async def test_an_empty_root_has_no_history(objects: Objects):
    assert await ledgers.read(objects) == []
    assert await ledgers.histories(objects) == {}


async def test_an_older_batch_is_folded_before_a_newer_one(objects: Objects):
    for night, event in enumerate([INTENDED, Refused("busy"), INTENDED], 1):
        # The older writer's clock is ahead: its entries still come first.
        ledger = await Ledger.open(objects, name=f"n{night}", clock=at(5000 - night))
        await ledger.record(job("a"), event)
        await ledger.close()

    entries = await ledgers.read(objects)

    assert [type(entry.event) for entry in entries] == [Intended, Refused, Intended]
    assert (await ledgers.histories(objects))[job("a")].attempts == 2


async def test_forgotten_job_keeps_its_final_state(objects: Objects):
    """The ledger forgets an ended job's history, but keeps its final state."""
    ledger = await Ledger.open(objects, name="night")
    for event in (INTENDED, Accepted(TICKET), Generated(), Published("u", FACTS)):
        await ledger.record(job("over"), event)
    await ledger.record(job("open"), INTENDED)

    ledger.forget([job("over"), job("open")])

    assert set(ledger.lives) == {job("open")}
    assert ledger.history(job("over")) == History(state=State.PUBLISHED)
    asked = numbers.keys([job("over"), job("new"), job("open")])
    assert list(ledger.states(asked)) == ["published", "pending", "in_doubt"]
    await ledger.close()


async def test_a_batch_that_ended_well_is_bound_and_reads_the_same(objects: Objects):
    ledger = await Ledger.open(objects, name="one")
    for n in range(5):
        await ledger.record(job(n), INTENDED)
    await ledger.close()

    assert "ledger/index/000001.parquet" in await keys(objects)
    told = await ledgers.read(objects)
    assert [entry.job for entry in told] == [job(n) for n in range(5)]
    assert (await ledgers.histories(objects)).keys() == {job(n) for n in range(5)}


# -- damage is reported, never guessed at


async def test_a_segment_that_is_gone_is_noticed(objects: Objects):
    ledger = await Ledger.open(objects, name="night")
    for n in range(3):
        await ledger.record(job(n), INTENDED)
    await ledger.close()
    for key in await keys(objects, "ledger/000001-night/main/parts"):
        await objects.delete(key)
    await objects.delete("ledger/000001-night/main/0000000002.jsonl.zst")

    with pytest.raises(LedgerError, match="000001-night/main: number 2 is missing"):
        await Ledger.open(objects, name="next")


async def test_a_claim_that_is_gone_is_noticed(objects: Objects):
    for name in ("one", "two"):
        await (await Ledger.open(objects, name=name)).close()
    await objects.delete("ledger/epochs/000001.json")

    with pytest.raises(
        LedgerError, match=r"epochs/000001.json: missing, but ledger/000001-one"
    ):
        await ledgers.read(objects)


async def test_damage_is_named_with_its_epoch(objects: Objects):
    ledger = await Ledger.open(objects, name="night")
    await ledger.record(job("a"), INTENDED)
    segment = "ledger/000001-night/main/0000000001.jsonl.zst"
    await objects.put(segment, b"\0" * 40)

    with pytest.raises(DamagedError, match=r"0000000001.jsonl.zst: damaged: zstd"):
        await ledgers.read(objects)
    await ledger.close()


# -- one writer


async def test_eight_opens_at_once_leave_one_writer(root: str):
    """If eight runs open a root at once, one opens it and seven are refused."""
    tries = [Ledger.open(Objects.open(root), name=f"night {n}") for n in range(8)]

    results = await asyncio.gather(*tries, return_exceptions=True)

    opened = [ledger for ledger in results if isinstance(ledger, Ledger)]
    refused = [error for error in results if isinstance(error, HeldError)]
    assert (len(opened), len(refused)) == (1, 7)
    await opened[0].record(job("a"), INTENDED)
    await opened[0].close()


async def test_eight_takeovers_at_once_leave_one_writer(root: str):
    """If eight runs take over at once, one of them can write."""
    tries = [
        Ledger.open(Objects.open(root), name=f"night {n}", take_over=True)
        for n in range(8)
    ]

    results = await asyncio.gather(*tries, return_exceptions=True)
    opened = [ledger for ledger in results if isinstance(ledger, Ledger)]
    recorded = await asyncio.gather(
        *(ledger.record(job(ledger.batch), INTENDED) for ledger in opened),
        return_exceptions=True,
    )

    assert all(isinstance(x, Ledger | FencedError) for x in results)
    assert all(isinstance(x, tuple | FencedError) for x in recorded)
    alive = [
        ledger
        for ledger, result in zip(opened, recorded, strict=True)
        if isinstance(result, tuple)
    ]
    assert len(alive) == 1
    written = await ledgers.read(Objects.open(root))
    assert [entry.job for entry in written] == [job(alive[0].batch)]
    for ledger in opened:
        await ledger.close()


async def test_who_was_taken_over_can_record_nothing_more(objects: Objects):
    old = await Ledger.open(objects, name="old")
    await old.record(job("a"), INTENDED)
    new = await Ledger.open(objects, name="new", take_over=True)

    with pytest.raises(FencedError, match="a later batch has taken over"):
        await old.record(job("b"), INTENDED)
    with pytest.raises(FencedError):
        await old.record(job("c"), INTENDED)
    await old.close()

    assert set(new.lives) == {job("a")}
    assert [entry.job for entry in await ledgers.read(objects)] == [job("a")]
    await new.record(job("b"), INTENDED)
    await new.close()


async def test_takeover_fails_all_waiting_records(objects: Objects):
    """When a successor takes over, every waiting record is fenced."""
    old = await Ledger.open(objects, name="old")
    new = await Ledger.open(objects, name="new", take_over=True)
    tasks = [asyncio.create_task(old.record(job(n), INTENDED)) for n in range(20)]
    await asyncio.sleep(0)

    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(result, FencedError) for result in results[1:])
    await old.close()
    await new.close()


async def test_a_ledger_that_cannot_be_read_leaves_its_root_free(objects: Objects):
    await open_root(objects, at(0.0))
    await objects.create("ledger/epochs/000001.json", claimant(1, "one", 0.0).dump())
    await objects.create("ledger/000001-one/main/0000000001.jsonl.zst", b"not zstd")

    for _ in range(2):
        with pytest.raises(DamagedError, match="jsonl"):
            await Ledger.open(objects, name="two", clock=at(1000))


async def test_claim_of_a_dead_run_harms_no_other_run(objects: Objects):
    """A run that died right after its claim does not disturb other runs."""
    first = await Ledger.open(objects, name="first")
    await first.record(job("a"), INTENDED)
    # A zombie that wakes between a successor's claim and its seal still writes...
    dead = replace(claimant(2, "dead", 1000.0), born="1")
    await objects.create(layout.claim(2), dead.dump())
    await first.record(job("b"), INTENDED)

    third = await Ledger.open(objects, name="third")

    assert set(third.lives) == {job("a"), job("b")}
    # ... but not after a successor has read.
    with pytest.raises(FencedError):
        await first.record(job("c"), INTENDED)
    await first.close()
    await third.close()


async def test_a_lost_answer_to_a_segment_does_not_fence_its_owner(
    s3_root: str, proxy: FaultyProxy, through
):
    async with proxy.serve() as port:
        through(port)
        ledger = await Ledger.open(Objects.open(s3_root), name="night")
        proxy.fault.lose_answers = 1

        await ledger.record(job("a"), INTENDED)
        await ledger.record(job("a"), Accepted(TICKET))
        await ledger.close()

        entries = await ledgers.read(Objects.open(s3_root))

    assert [type(entry.event) for entry in entries] == [Intended, Accepted]


# -- kill -9

CHILD = """
import asyncio, sys
from decimal import Decimal
from manifests.lifecycle import Accepted, Intended, Ticket
from storage.ledger import Ledger
from storage.objects import DamagedError, Objects

async def job(ledger, worker):
    for n in range(1_000_000):
        name = f"{LIVES:08d}{worker:08d}{n:016d}"
        await ledger.record(
            name, Intended(lane="a", route="b/c", price_usd=Decimal("0.1"), seed=1)
        )
        print("intended", name, flush=True)
        await ledger.record(name, Accepted(Ticket("fal", name)))
        print("accepted", name, flush=True)

async def main():
    ledger = await Ledger.open(Objects.open(sys.argv[1]), name="killed")
    async with asyncio.TaskGroup() as tasks:
        for worker in range(20):
            tasks.create_task(job(ledger, worker))

asyncio.run(main())
"""


@pytest.mark.slow
async def test_acknowledged_records_survive_kill_9(tmp_path: Path):
    """Every acknowledged record survives a kill -9."""
    root = str(tmp_path / "root")
    made(root)
    acknowledged: set[tuple[str, str]] = set()
    for lines in (30, 400, 111):
        acknowledged |= await asyncio.to_thread(killed_after, lines, root)

    started = time.monotonic()
    ledger = await Ledger.open(Objects.open(root), name="after")
    await ledger.close()

    # The dead process is known to be dead: the test does not wait for its lease.
    assert time.monotonic() - started < 30
    histories = ledger.lives
    for what, life in acknowledged:
        assert histories[life].accepted_at is not None or what == "intended"
        assert histories[life].submitted_at is not None
    assert len(acknowledged) >= 541
    assert ledger.batch == "000004-after"


def killed_after(lines: int, root: str) -> set[tuple[str, str]]:
    # Different jobs each time: a name contains the number of lines that its process
    # wrote.
    program = CHILD.replace("LIVES", str(lines))
    with subprocess.Popen(
        [sys.executable, "-c", program, root], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        seen = [next(child.stdout) for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        seen += child.stdout.readlines()
    whole = [line.split() for line in seen if line.endswith("\n")]
    return {(what, life) for what, life in whole}
