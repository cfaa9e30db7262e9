"""The ledger's promises: durable, in order, and one writer."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import get_args

import orjson
import pytest
import zstandard

from manifests.lifecycle import (
    Accepted,
    Discarded,
    Doubted,
    Entry,
    Event,
    Facts,
    Generated,
    History,
    IllegalTransitionError,
    Intended,
    Published,
    Refused,
    Rejected,
    Risked,
    Settled,
    State,
    Ticket,
)
from storage import ledger as ledgers
from storage.holder import BEAT_S, Holder, claimant
from storage.ledger import FencedError, HeldError, Ledger, LedgerError
from storage.objects import Objects, UnavailableError
from storage.records import pack, unpack

pytestmark = pytest.mark.anyio

INTENDED = Intended(
    lane="spicy",
    route="wavespeed/wan-2.2-spicy",
    price_usd=Decimal("0.10"),
    seed=7,
)
TICKET = Ticket("wavespeed", "t-1", {"poll": "https://api.example/t-1"})
FACTS = Facts(
    sha256="ab" * 32,
    bytes=1234,
    seconds=5.0625,
    fps=16.0,
    width=832,
    height=480,
    codec="h264",
    frames=81,
)
EVENTS = [
    INTENDED,
    replace(INTENDED, mark="nr-abcd-1"),
    Accepted(TICKET),
    Doubted("ReadTimeout"),
    Doubted("502 Bad Gateway", "gateway"),
    Risked("up to $0.50 may be risked on spicy"),
    Refused("503: süß \n busy"),
    Discarded("two bad downloads"),
    Rejected("content policy", charged=True),
    Generated(),
    Generated(seed=2**31),
    Published("s3://bucket/clips/ab/abcd.mp4", FACTS),
    Settled(attempt=2, usd=Decimal("-0.10"), reason="refunded"),
]


def at(seconds: float):
    return lambda: seconds


async def keys(objects: Objects, folder: str = "ledger") -> list[str]:
    return [stored.key async for stored in objects.list(folder)]


# -- what is kept


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_is_read_back_as_it_was_written(event: Event):
    entry = Entry("ab" * 16, 1_800_000_000.25, event)

    assert unpack(pack([entry]), "key") == [entry]


def test_no_kind_of_event_is_left_out_above():
    assert {type(event) for event in EVENTS} == set(get_args(Event))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"kind": "promoted"}, "promoted"),
        ({"kind": "refused"}, "reason"),
        ({"kind": "refused", "reason": "busy", "paid": True}, "paid"),
        ({"kind": "refused", "reason": None}, "None is not"),
        ({"kind": "intended", "lane": "a", "route": "b", "price_usd": "ten"}, "ten"),
        ({"kind": "accepted", "ticket": {"provider": "fal"}}, "id"),
        ({"kind": "doubted", "reason": "?", "lost": "eaten"}, "eaten"),
        ({"kind": "settled", "attempt": 1, "usd": 0.1, "reason": "?"}, "0.1 is not"),
    ],
)
def test_what_the_ledger_cannot_mean_is_named_with_its_place(line, complaint):
    good = pack([Entry("a", 1.0, INTENDED)])
    lines = zstandard.decompress(good) + orjson.dumps({"job": "a", "at": 2.0} | line)

    with pytest.raises(LedgerError, match=rf"seg\.zst line 2: .*{complaint}"):
        unpack(zstandard.compress(lines), "seg.zst")


def test_a_line_from_before_marks_and_kinds_of_doubt_means_what_it_meant():
    lines = [
        {
            "kind": "intended",
            "lane": "a",
            "route": "b/c",
            "price_usd": "0.1",
            "seed": 1,
        },
        {"kind": "doubted", "reason": "ReadTimeout"},
    ]
    segment = b"\n".join(orjson.dumps({"job": "a", "at": 1.0} | line) for line in lines)

    intended, doubted = unpack(zstandard.compress(segment), "key")

    assert intended.event == Intended(
        lane="a", route="b/c", price_usd=Decimal("0.1"), seed=1, mark=""
    )
    assert doubted.event == Doubted("ReadTimeout", "unclear")


async def test_what_was_recorded_is_there_for_the_next_to_open(objects: Objects):
    first = await Ledger.open(objects, name="Portraits, night 1", clock=at(1000))
    await first.record("a", INTENDED)
    told = await first.record("a", Accepted(TICKET))
    await first.close()

    second = await Ledger.open(objects, name="Portraits, night 2", clock=at(1001))

    assert told.state is State.ACCEPTED
    assert second.history("a") == told == first.history("a")
    assert second.histories() == {"a": told}
    assert second.history("b") == History()
    assert (first.batch, second.batch) == (
        "000001-portraits-night-1",
        "000002-portraits-night-2",
    )
    await second.close()


async def test_an_illegal_event_never_reaches_the_store(objects: Objects):
    ledger = await Ledger.open(objects, name="night")
    before = await keys(objects)

    with pytest.raises(IllegalTransitionError, match="Accepted while pending"):
        await ledger.record("a", Accepted(TICKET))

    assert await keys(objects) == before
    assert ledger.history("a") == History()
    await ledger.close()


async def test_amounts_are_kept_to_the_last_digit(objects: Objects):
    ledger = await Ledger.open(objects, name="night")
    await ledger.record("a", replace(INTENDED, price_usd=Decimal("0.1000000000000001")))
    await ledger.close()

    assert (await ledgers.histories(objects))["a"].spent_usd == Decimal(
        "0.1000000000000001"
    )


async def test_a_thousand_at_once_share_their_requests(objects: Objects):
    ledger = await Ledger.open(objects, name="night")

    await asyncio.gather(*(ledger.record(f"{n:04}", INTENDED) for n in range(1000)))
    await asyncio.gather(
        *(ledger.record(f"{n:04}", Accepted(TICKET)) for n in range(1000))
    )
    await ledger.close()

    segments = await keys(objects, "ledger/000001-night")
    assert len(segments) <= 10
    assert len(await ledgers.read(objects)) == 2000


async def test_one_alone_waits_for_nobody(objects: Objects):
    ledger = await Ledger.open(objects, name="night")

    await ledger.record("a", INTENDED)

    assert await keys(objects, "ledger/000001-night") == [
        "ledger/000001-night/0000000001.jsonl.zst"
    ]
    await ledger.close()


async def test_events_of_one_job_keep_their_order_while_the_first_is_being_written(
    objects: Objects,
):
    ledger = await Ledger.open(objects, name="night")

    intended = asyncio.create_task(ledger.record("a", INTENDED))
    accepted = asyncio.create_task(ledger.record("a", Accepted(TICKET)))

    assert (await intended).state is State.IN_DOUBT
    assert (await accepted).state is State.ACCEPTED
    await ledger.close()


async def test_nothing_is_history_before_it_is_durable(objects: Objects):
    ledger = await Ledger.open(objects, name="night")

    recording = asyncio.create_task(ledger.record("a", INTENDED))
    await asyncio.sleep(0)

    assert ledger.history("a").state is State.PENDING
    await recording
    assert ledger.history("a").state is State.IN_DOUBT
    await ledger.close()


async def test_a_caller_who_is_cancelled_has_recorded_once_and_harms_nobody(
    objects: Objects,
):
    ledger = await Ledger.open(objects, name="night")
    tasks = [asyncio.create_task(ledger.record(str(n), INTENDED)) for n in range(50)]
    await asyncio.sleep(0)

    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await ledger.close()

    assert all(isinstance(x, asyncio.CancelledError) for x in results[::2])
    assert all(isinstance(x, History) for x in results[1::2])
    entries = await ledgers.read(objects)
    assert sorted(int(entry.job) for entry in entries) == list(range(50))


async def test_what_is_queued_is_written_before_the_ledger_closes(objects: Objects):
    ledger = await Ledger.open(objects, name="night")
    recording = asyncio.create_task(ledger.record("a", INTENDED))
    await asyncio.sleep(0)

    await ledger.close()
    await ledger.close()

    assert (await recording).state is State.IN_DOUBT
    with pytest.raises(LedgerError, match="closed"):
        await ledger.record("a", Accepted(TICKET))


async def test_a_reader_may_look_while_a_batch_writes(objects: Objects):
    ledger = await Ledger.open(objects, name="night")

    async def write() -> None:
        for n in range(40):
            await ledger.record(str(n), INTENDED)

    writing = asyncio.create_task(write())
    seen: list[int] = []
    while not writing.done():
        entries = await ledgers.read(objects)
        assert [entry.job for entry in entries] == [str(n) for n in range(len(entries))]
        seen.append(len(entries))
    await writing

    assert seen == sorted(seen)
    await ledger.close()


async def test_an_empty_root_has_no_history(objects: Objects):
    assert await ledgers.read(objects) == []
    assert await ledgers.histories(objects) == {}


async def test_an_older_batch_is_folded_before_a_newer_one(objects: Objects):
    for night, event in enumerate([INTENDED, Refused("busy"), INTENDED], 1):
        # The older one's clock is ahead: its entries still come first.
        ledger = await Ledger.open(objects, name=f"n{night}", clock=at(5000 - night))
        await ledger.record("a", event)
        await ledger.close()

    entries = await ledgers.read(objects)

    assert [type(entry.event) for entry in entries] == [Intended, Refused, Intended]
    assert (await ledgers.histories(objects))["a"].attempts == 2


async def test_a_sealed_batch_is_bound_and_reads_the_same(objects: Objects):
    ledger = await Ledger.open(objects, name="one")
    for n in range(5):
        await ledger.record(str(n), INTENDED)
    await ledger.close()
    before = await ledgers.read(objects)

    await (await Ledger.open(objects, name="two")).close()
    for key in await keys(objects, "ledger/000001-one"):
        await objects.delete(key)

    assert "ledger/volumes/000001.jsonl.zst" in await keys(objects)
    assert await ledgers.read(objects) == before


# -- what is damaged is not guessed at


async def test_a_segment_that_is_gone_is_noticed(objects: Objects):
    ledger = await Ledger.open(objects, name="night")
    for n in range(3):
        await ledger.record(str(n), INTENDED)
    await ledger.close()
    await objects.delete("ledger/000001-night/0000000002.jsonl.zst")

    with pytest.raises(LedgerError, match="000001-night: number 2 is missing"):
        await Ledger.open(objects, name="next")


async def test_a_claim_that_is_gone_is_noticed(objects: Objects):
    for name in ("one", "two"):
        await (await Ledger.open(objects, name=name)).close()
    await objects.delete("ledger/epochs/000001.json")

    with pytest.raises(LedgerError, match="epochs: number 1 is missing"):
        await ledgers.read(objects)


async def test_a_damaged_segment_is_named(objects: Objects):
    ledger = await Ledger.open(objects, name="night")
    await ledger.record("a", INTENDED)
    await ledger.close()
    await objects.put("ledger/000001-night/0000000001.jsonl.zst", b"\0" * 40)

    with pytest.raises(LedgerError, match=r"000001-night/0000000001\.jsonl\.zst: "):
        await ledgers.read(objects)


# -- one writer


async def test_of_eight_who_open_at_once_one_is_alive(root: str):
    tries = [Ledger.open(Objects.open(root), name=f"night {n}") for n in range(8)]

    results = await asyncio.gather(*tries, return_exceptions=True)

    opened = [ledger for ledger in results if isinstance(ledger, Ledger)]
    refused = [error for error in results if isinstance(error, HeldError)]
    assert (len(opened), len(refused)) == (1, 7)
    await opened[0].record("a", INTENDED)
    await opened[0].close()


async def test_of_eight_who_take_over_at_once_one_is_alive(root: str):
    tries = [
        Ledger.open(Objects.open(root), name=f"night {n}", take_over=True)
        for n in range(8)
    ]

    results = await asyncio.gather(*tries, return_exceptions=True)
    opened = [ledger for ledger in results if isinstance(ledger, Ledger)]
    recorded = await asyncio.gather(
        *(ledger.record(ledger.batch, INTENDED) for ledger in opened),
        return_exceptions=True,
    )

    assert all(isinstance(x, Ledger | FencedError) for x in results)
    assert all(isinstance(x, History | FencedError) for x in recorded)
    alive = [
        ledger
        for ledger, result in zip(opened, recorded, strict=True)
        if isinstance(result, History)
    ]
    assert len(alive) == 1
    written = await ledgers.read(Objects.open(root))
    assert [entry.job for entry in written] == [alive[0].batch]
    for ledger in opened:
        await ledger.close()


async def test_who_was_taken_over_can_record_nothing_more(objects: Objects):
    old = await Ledger.open(objects, name="old")
    await old.record("a", INTENDED)
    new = await Ledger.open(objects, name="new", take_over=True)

    with pytest.raises(FencedError, match="a later batch has taken over"):
        await old.record("b", INTENDED)
    with pytest.raises(FencedError):
        await old.record("c", INTENDED)
    await old.close()

    assert set(new.histories()) == {"a"}
    assert [entry.job for entry in await ledgers.read(objects)] == ["a"]
    await new.record("b", INTENDED)
    await new.close()


async def test_all_who_wait_are_told_when_a_successor_takes_over(objects: Objects):
    old = await Ledger.open(objects, name="old")
    new = await Ledger.open(objects, name="new", take_over=True)
    tasks = [asyncio.create_task(old.record(str(n), INTENDED)) for n in range(20)]
    await asyncio.sleep(0)

    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(result, FencedError) for result in results[1:])
    await old.close()
    await new.close()


async def test_a_live_holder_is_named_and_not_pushed_out(objects: Objects):
    holder = await Ledger.open(objects, name="Portraits", clock=at(1_800_000_000))

    with pytest.raises(HeldError) as caught:
        await Ledger.open(objects, name="second", clock=at(1_800_000_042))

    assert str(caught.value) == (
        f"{objects.root}: batch 'Portraits' holds it: pid {os.getpid()} on "
        f"{os.uname().nodename}, since 2027-01-15 08:00:00 UTC, last beat 42 s ago; "
        "if that process is dead, it is free at 2027-01-15 08:01:00 UTC"
    )
    await holder.record("a", INTENDED)
    await holder.close()


async def test_a_root_is_free_as_soon_as_its_holder_closes(objects: Objects):
    await (await Ledger.open(objects, name="one", clock=at(1000))).close()

    await (await Ledger.open(objects, name="two", clock=at(1000))).close()


async def test_a_holder_that_fell_silent_is_succeeded(objects: Objects):
    silent = await Ledger.open(objects, name="one", clock=at(1000))

    successor = await Ledger.open(objects, name="two", clock=at(1061))

    with pytest.raises(FencedError):
        await silent.record("a", INTENDED)
    await silent.close()
    await successor.close()


async def test_a_beat_keeps_a_long_batch_its_root(objects: Objects):
    minutes = itertools.count(1000, 50)
    holder = await Ledger.open(
        objects, name="one", clock=lambda: next(minutes), beat_s=0.001
    )
    while (beat := json.loads(await objects.get("ledger/holder.json")))["beats"] < 3:
        continue

    with pytest.raises(HeldError, match="since 1970-01-01 00:16:40 UTC"):
        await Ledger.open(objects, name="two", clock=at(beat["at"] + 59))
    await holder.close()


async def test_a_pid_that_is_used_again_is_not_the_holder(objects: Objects):
    ours = claimant(1, "crashed", 1000.0)
    crashed = replace(ours, born="1")
    await objects.create("ledger/epochs/000001.json", crashed.dump())

    await (await Ledger.open(objects, name="two", clock=at(1001))).close()


async def test_a_process_on_another_machine_is_given_its_minute(objects: Objects):
    elsewhere = replace(claimant(1, "far", 1000.0), machine="other", born="1")
    await objects.create("ledger/epochs/000001.json", elsewhere.dump())

    with pytest.raises(HeldError, match="'far'"):
        await Ledger.open(objects, name="two", clock=at(1059))
    await (await Ledger.open(objects, name="two", clock=at(1060))).close()


async def test_a_beat_of_somebody_else_is_not_the_holders(objects: Objects):
    holder = replace(claimant(1, "gone", 1000.0), machine="other")
    fenced = replace(holder, token="another", at=1100.0)
    await objects.create("ledger/epochs/000001.json", holder.dump())
    await objects.put("ledger/holder.json", fenced.dump())

    await (await Ledger.open(objects, name="two", clock=at(1101))).close()


def test_two_claims_are_never_the_same_bytes():
    assert claimant(1, "night", 1000.0).dump() != claimant(1, "night", 1000.0).dump()


@pytest.mark.parametrize("name", ["", "///", "Ünïcode", "x" * 200])
def test_any_name_makes_a_key(name: str):
    batch = replace(claimant(3, "a", 0.0), name=name).batch

    assert batch.startswith("000003-")
    assert 8 <= len(batch) <= 47


def test_a_claim_is_read_back_as_it_was_written():
    claim = claimant(3, "night", 1000.0).beating(1000.0 + BEAT_S)

    assert Holder.load(claim.dump(), "uri") == claim


async def test_a_ledger_that_cannot_be_read_leaves_its_root_free(objects: Objects):
    await objects.create("ledger/epochs/000001.json", claimant(1, "one", 0.0).dump())
    await objects.create("ledger/000001-one/0000000001.jsonl.zst", b"not zstd")

    for _ in range(2):
        with pytest.raises(LedgerError, match="jsonl"):
            await Ledger.open(objects, name="two", clock=at(1000))


# -- the store is away


async def test_callers_wait_for_a_store_that_is_away(s3_root, proxy, through):
    async with proxy.serve() as port:
        through(port)
        ledger = await Ledger.open(Objects.open(s3_root, patience_s=0), name="night")
        # One more than one call's own patience: only the ledger's can outlast it.
        proxy.fault.refuse = 4

        told = await ledger.record("a", INTENDED)
        await ledger.close()

    assert told.state is State.IN_DOUBT


async def test_a_lost_answer_to_a_segment_does_not_fence_its_owner(
    s3_root, proxy, through
):
    async with proxy.serve() as port:
        through(port)
        ledger = await Ledger.open(Objects.open(s3_root), name="night")
        proxy.fault.lose_answers = 1

        await ledger.record("a", INTENDED)
        await ledger.record("a", Accepted(TICKET))
        await ledger.close()

        entries = await ledgers.read(Objects.open(s3_root))

    assert [type(entry.event) for entry in entries] == [Intended, Accepted]


async def test_when_patience_ends_all_who_wait_are_told(
    s3_root, proxy, through, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ledgers, "PATIENCE_S", 0.0)
    async with proxy.serve() as port:
        through(port)
        ledger = await Ledger.open(Objects.open(s3_root, patience_s=0), name="night")
        proxy.fault.refuse = 1000

        results = await asyncio.gather(
            *(ledger.record(str(n), INTENDED) for n in range(3)), return_exceptions=True
        )
        with pytest.raises(LedgerError, match="not written"):
            await ledger.record("late", INTENDED)
        proxy.fault.refuse = 0
        await ledger.close()

    assert all(isinstance(result, LedgerError) for result in results)
    assert not any(isinstance(result, UnavailableError) for result in results)


# -- kill -9

CHILD = """
import asyncio, sys
from decimal import Decimal
from manifests.lifecycle import Accepted, Intended, Ticket
from storage.ledger import Ledger
from storage.objects import Objects

async def job(ledger, worker):
    for n in range(1_000_000):
        name = f"{worker}-{n}"
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


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path):
    root = str(tmp_path / "root")
    acknowledged: set[tuple[str, str]] = set()
    for lines in (30, 400, 111):
        acknowledged |= await asyncio.to_thread(killed_after, lines, root)

    started = time.monotonic()
    ledger = await Ledger.open(Objects.open(root), name="after")
    await ledger.close()

    # The dead process is known to be dead: nobody waits for its minute to pass.
    assert time.monotonic() - started < 30
    past = ledger.histories()
    for what, job in acknowledged:
        assert past[job].accepted_at is not None or what == "intended"
        assert past[job].submitted_at is not None
    assert len(acknowledged) >= 541
    assert ledger.batch == "000004-after"


def killed_after(lines: int, root: str) -> set[tuple[str, str]]:
    # Its own jobs each time: a name carries the number of lines it lived for.
    program = CHILD.replace('f"{worker}-{n}"', f'f"{lines}-{{worker}}-{{n}}"')
    with subprocess.Popen(
        [sys.executable, "-c", program, root], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        seen = [next(child.stdout) for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        seen += child.stdout.readlines()
    whole = [line.split() for line in seen if line.endswith("\n")]
    return {(what, job) for what, job in whole}
