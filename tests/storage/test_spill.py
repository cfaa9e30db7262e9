"""A paid clip is not lost when the ledger cannot be written any more."""

import asyncio
from collections.abc import Callable, Coroutine
from decimal import Decimal
from pathlib import Path

import pytest

from manifests.lifecycle import (
    NEW,
    Accepted,
    Adjusted,
    Discarded,
    Doubted,
    Event,
    Generated,
    Intended,
    Refused,
    Risked,
    State,
    Ticket,
)
from storage import ledger as ledgers
from storage.ledger import FencedError, Ledger, LedgerError
from storage.objects import Objects
from tests.storage.lives import INTENDED, TICKET, job, keys, made
from tests.storage.simulated import Simulated, run

pytestmark = pytest.mark.anyio


@pytest.fixture
def simulated() -> Simulated:
    return Simulated()


def spill_files(folder: Path, kind: str = "jsonl") -> list[Path]:
    """The spill files that have entries; the reserved file of an open ledger has none."""
    found = folder.rglob(f"*.{kind}")
    return sorted(path for path in found if path.is_file() and lines(path))


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().rstrip(b"\0").splitlines()


async def refuse(what: str, path: str) -> None:
    if what == "put" and "/main/0" in path:
        raise PermissionError(13, "Permission denied", path)


async def slow_to_say_what_landed(what: str, path: str) -> None:
    if what == "get" and path.endswith("000001-w/main/0000000001.jsonl.zst"):
        await asyncio.sleep(60)


def lost_and_then_refused(
    store: Simulated,
) -> Callable[[str, str], Coroutine[None, None, None]]:
    """Store one segment but lose its answer, and refuse all later segments."""

    async def lose_answer(what: str, path: str) -> None:
        if what == "put" and "/main/0" in path:
            slow = store.before

            async def before(what: str, path: str) -> None:
                await refuse(what, path)
                if slow is not None:
                    await slow(what, path)

            store.before, store.after = before, None
            raise ConnectionError("reset")

    return lose_answer


async def spilled_batch(store: Simulated, folder: Path, **events: list[Event]) -> None:
    """Run a batch whose store refuses every event after each job's first one."""
    ledger = await Ledger.open(store.objects(), name="wrecked", spill_folder=folder)
    for name, (first, *_) in events.items():
        await ledger.record(job(name), first)
    store.before = refuse
    for at in range(1, max(len(some) for some in events.values())):
        told = await asyncio.gather(
            *(
                ledger.record(job(name), some[at])
                for name, some in events.items()
                if at < len(some)
            ),
            return_exceptions=True,
        )
        assert all(isinstance(one, LedgerError) for one in told)
    store.before = None
    await ledger.close()


def test_next_run_here_records_the_spill(
    simulated: Simulated, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The next run on this machine records the entries that an earlier run spilled."""

    async def night() -> None:
        await spilled_batch(
            simulated,
            tmp_path,
            # Its second event is recorded after the ledger had given up.
            a=[INTENDED, Accepted(TICKET), Generated(seed=3)],
            b=[INTENDED, Refused("busy")],
            c=[INTENDED, Doubted("ReadTimeout")],
        )
        [spill_file] = spill_files(tmp_path)
        assert spill_file.name == "000001-wrecked.jsonl"
        assert f"ledger.spilled file={spill_file} entries=3" in caplog.text

        saved = await Ledger.open(
            simulated.objects(), name="next", spill_folder=tmp_path
        )

        assert saved.history(job("a")).state is State.GENERATED
        assert saved.history(job("a")).ticket == TICKET
        assert saved.history(job("b")).state is State.PENDING
        assert saved.history(job("c")).reason == "ReadTimeout"
        assert not spill_files(tmp_path, "*")
        durable = await ledgers.histories(simulated.objects())
        assert durable[job("a")] == saved.history(job("a"))
        await saved.close()

    run(night)


def test_outdated_spilled_entry_is_kept_aside(
    simulated: Simulated, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A spilled entry of a job that has moved on is kept aside, and logged once."""

    async def night() -> None:
        await spilled_batch(
            simulated,
            tmp_path,
            a=[INTENDED, Accepted(TICKET)],
            b=[INTENDED, Refused("")],
        )
        # A run elsewhere learned that the provider does not know the job, and
        # continued.
        elsewhere = await Ledger.open(
            simulated.objects(), name="other", spill_folder=tmp_path / "elsewhere"
        )
        await elsewhere.record(job("a"), Refused("unknown to its provider"))
        await elsewhere.record(job("a"), INTENDED)
        await elsewhere.close()

        here = await Ledger.open(
            simulated.objects(), name="here", spill_folder=tmp_path
        )

        assert here.history(job("a")).state is State.IN_DOUBT
        assert here.history(job("b")).state is State.PENDING
        [kept] = spill_files(tmp_path, "kept")
        assert TICKET.id in kept.read_text()
        assert f"job {job('a')} was in_doubt at attempt 1" in caplog.text
        await here.close()
        # It is not examined again.
        await (
            await Ledger.open(simulated.objects(), name="next", spill_folder=tmp_path)
        ).close()
        assert spill_files(tmp_path, "kept") == [kept]

    run(night)


def test_spilled_entry_on_record_is_not_recorded_twice(
    simulated: Simulated, tmp_path: Path
):
    """A spilled entry that reached the ledger after all is not recorded again."""

    async def lose_answer(what: str, path: str) -> None:
        if what == "put" and path.endswith("/main/0000000002.jsonl.zst"):
            simulated.before = refuse
            raise ConnectionError("reset")

    async def night() -> None:
        ledger = await Ledger.open(
            simulated.objects(), name="night", spill_folder=tmp_path
        )
        await ledger.record(job("a"), INTENDED)
        simulated.after = lose_answer
        refund = Adjusted(attempt=1, usd=Decimal("-0.01"), reason="refund")
        told = await asyncio.gather(
            ledger.record(job("a"), Refused("busy")),
            ledger.record(job("a"), refund),
            return_exceptions=True,
        )
        simulated.before = simulated.after = None
        await ledger.close()

        following = await Ledger.open(
            simulated.objects(), name="next", spill_folder=tmp_path
        )

        assert all(isinstance(one, LedgerError) for one in told)
        assert following.history(job("a")).spent_usd == Decimal("-0.01")
        told = [type(entry.event) for entry in await ledgers.read(simulated.objects())]
        assert told == [Intended, Refused, Adjusted]
        assert not spill_files(tmp_path, "*")
        await following.close()

    run(night)


def test_given_up_intent_on_record_is_no_doubt(simulated: Simulated, tmp_path: Path):
    """An intent that was given up leaves no doubt, even if it is on record."""

    async def night() -> None:
        failed = await Ledger.open(simulated.objects(), name="w", spill_folder=tmp_path)
        simulated.after = lost_and_then_refused(simulated)
        told = await asyncio.gather(
            *(failed.record(job(name), INTENDED) for name in "abc"),
            return_exceptions=True,
        )
        simulated.before = simulated.after = None
        await failed.close()

        saved = await Ledger.open(
            simulated.objects(), name="next", spill_folder=tmp_path
        )

        # All intents failed for their callers, but all of them are on record.
        assert [type(one) for one in told] == [LedgerError] * 3
        for name in "abc":
            assert saved.before[job(name)].state is State.IN_DOUBT
            assert saved.history(job(name)).state is State.PENDING
            assert saved.history(job(name)).spent_usd == 0
        assert not spill_files(tmp_path, "*")
        await saved.close()

    run(night)


def test_given_up_intent_off_record_leaves_nothing(
    simulated: Simulated, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """An intent that was given up and is not on record leaves nothing behind."""

    async def night() -> None:
        failed = await Ledger.open(simulated.objects(), name="w", spill_folder=tmp_path)
        simulated.before = refuse
        with pytest.raises(LedgerError):
            await failed.record(job("a"), INTENDED)
        simulated.before = None
        await failed.close()
        assert spill_files(tmp_path)
        caplog.clear()

        following = await Ledger.open(
            simulated.objects(), name="n", spill_folder=tmp_path
        )

        assert following.history(job("a")) == NEW
        assert not spill_files(tmp_path, "*")
        assert not caplog.messages
        await following.close()
        assert await ledgers.read(simulated.objects()) == []

    run(night)


def test_an_intent_that_was_given_up_frees_no_later_one(
    simulated: Simulated, tmp_path: Path
):
    async def night() -> None:
        failed = await Ledger.open(simulated.objects(), name="w", spill_folder=tmp_path)
        simulated.after = lost_and_then_refused(simulated)
        with pytest.raises(LedgerError):
            await failed.record(job("a"), INTENDED)
        simulated.before = simulated.after = None
        await failed.close()
        # A run elsewhere found a doubt, risked it, submitted, and died.
        elsewhere = await Ledger.open(
            simulated.objects(), name="other", spill_folder=tmp_path / "elsewhere"
        )
        await elsewhere.record(job("a"), Risked("0.10 USD"))
        await elsewhere.record(job("a"), INTENDED)

        here = await Ledger.open(
            simulated.objects(), name="here", take_over=True, spill_folder=tmp_path
        )

        assert here.history(job("a")).state is State.IN_DOUBT
        assert here.history(job("a")).attempts == 2
        assert not spill_files(tmp_path, "*")
        await here.close()

    run(night)


def test_spilled_intent_with_a_ticket_is_not_unsent(
    simulated: Simulated, tmp_path: Path
):
    """A spilled ticket survives a run that could record only its intent."""

    async def night() -> None:
        failed = await Ledger.open(simulated.objects(), name="w", spill_folder=tmp_path)
        simulated.before = refuse
        meant = asyncio.create_task(failed.record(job("a"), INTENDED))
        await asyncio.sleep(0)
        # At the same moment, as if it had been sent.
        told = asyncio.create_task(failed.record(job("a"), Accepted(TICKET)))
        await asyncio.gather(meant, told, return_exceptions=True)
        simulated.before = None
        await failed.close()
        # The next run records the intent, gets no answer, and gives up before it has
        # reached the ticket.
        simulated.before = slow_to_say_what_landed
        simulated.after = lost_and_then_refused(simulated)
        with pytest.raises(LedgerError):
            await Ledger.open(simulated.objects(), name="next", spill_folder=tmp_path)
        simulated.before = simulated.after = None
        # The first spill file still holds all entries.
        assert not spill_files(tmp_path)

        last = await Ledger.open(
            simulated.objects(), name="last", take_over=True, spill_folder=tmp_path
        )

        assert last.before[job("a")].state is State.IN_DOUBT
        assert last.history(job("a")).ticket == TICKET
        assert not spill_files(tmp_path, "*")
        await last.close()

    run(night)


async def test_record_after_a_takeover_is_spilled(objects: Objects, tmp_path: Path):
    """A run that was taken over spills what it can no longer record."""
    spill_folder = tmp_path / "spill"
    old = await Ledger.open(objects, name="old", spill_folder=spill_folder)
    await old.record(job("a"), INTENDED)
    new = await Ledger.open(
        objects, name="new", take_over=True, spill_folder=spill_folder
    )

    with pytest.raises(FencedError):
        await old.record(job("a"), Accepted(TICKET))

    await old.close()
    await new.close()
    last = await Ledger.open(objects, name="last", spill_folder=spill_folder)
    assert last.history(job("a")).ticket == TICKET
    await last.close()


async def test_record_after_close_is_spilled(objects: Objects, tmp_path: Path):
    """An event that arrives after the ledger is closed is spilled."""
    ledger = await Ledger.open(objects, name="night", spill_folder=tmp_path / "spill")
    await ledger.record(job("a"), INTENDED)
    await ledger.close()

    with pytest.raises(LedgerError, match="closed"):
        await ledger.record(job("a"), Accepted(TICKET))

    following = await Ledger.open(objects, name="next", spill_folder=tmp_path / "spill")
    assert following.history(job("a")).ticket == TICKET
    await following.close()


async def test_each_shard_has_its_own_spill_file(objects: Objects, tmp_path: Path):
    """A shard spills into a file with the shard's number."""
    folder = tmp_path / "spill"
    ledger = await Ledger.open(objects, name="night", spill_folder=folder)
    shard = await Ledger.join(objects, batch=ledger.batch, shard=3, spill_folder=folder)
    await shard.record(job("a"), INTENDED)
    newer = await Ledger.join(objects, batch=ledger.batch, shard=3, spill_folder=folder)
    with pytest.raises(FencedError):
        await shard.record(job("a"), Accepted(TICKET))

    assert [path.name for path in spill_files(folder)] == [
        "000001-night.shard-0003.01.jsonl"
    ]
    for one in (shard, newer, ledger):
        await one.close()


async def test_spill_of_a_worker_reaches_the_next_batch(
    objects: Objects, tmp_path: Path
):
    """A spill file on a machine that only runs shards reaches the next batch."""
    batch = await Ledger.open(objects, name="night", spill_folder=tmp_path / "ours")
    worker = tmp_path / "worker"
    shard = await Ledger.join(objects, batch=batch.batch, shard=3, spill_folder=worker)
    await shard.record(job("a"), INTENDED)
    newer = await Ledger.join(
        objects, batch=batch.batch, shard=3, spill_folder=tmp_path / "another"
    )
    with pytest.raises(FencedError):
        await shard.record(job("a"), Accepted(TICKET))
    assert spill_files(worker)
    assert await ledgers.spilled(objects, worker) == 1
    other = await Ledger.join(objects, batch=batch.batch, shard=4, spill_folder=worker)
    assert await ledgers.spilled(objects, tmp_path / "ours") == 1
    for one in (shard, newer, other, batch):
        await one.close()

    following = await Ledger.open(objects, name="next", spill_folder=tmp_path / "ours")

    assert following.history(job("a")).ticket == TICKET
    assert not [*spill_files(worker, "*.*"), *spill_files(tmp_path / "ours", "*.*")]
    assert [stored.key async for stored in objects.list("spill")] == []
    assert await ledgers.spilled(objects, tmp_path / "ours") == 0
    await following.close()


async def test_next_run_of_a_shard_records_its_spill(objects: Objects, tmp_path: Path):
    """A shard's next run records the entries that an earlier run of it spilled."""
    batch = await Ledger.open(objects, name="night", spill_folder=tmp_path / "ours")
    worker, another = tmp_path / "worker", tmp_path / "another"
    first = await Ledger.join(objects, batch=batch.batch, shard=3, spill_folder=worker)
    await first.record(job("a"), INTENDED)
    second = await Ledger.join(
        objects, batch=batch.batch, shard=3, spill_folder=another
    )
    with pytest.raises(FencedError):
        await first.record(job("a"), Accepted(TICKET))
    # Another shard does not touch it.
    other = await Ledger.join(objects, batch=batch.batch, shard=4, spill_folder=worker)
    assert not other.recovered
    assert await keys(objects, "spill")

    third = await Ledger.join(objects, batch=batch.batch, shard=3, spill_folder=another)

    assert third.recovered == {job("a")}
    assert third.history(job("a")).ticket == TICKET
    assert not await keys(objects, "spill")
    await third.record(job("a"), Generated())
    fourth = await Ledger.join(objects, batch=batch.batch, shard=3, spill_folder=worker)
    assert not fourth.recovered
    assert fourth.history(job("a")).state is State.GENERATED
    for one in (first, second, other, third, fourth, batch):
        await one.close()


async def test_spill_is_split_between_shards_and_batch(
    objects: Objects, tmp_path: Path
):
    """Each shard records its own jobs' spilled entries, and the batch the others."""
    worker, ours = tmp_path / "worker", tmp_path / "ours"
    old = await Ledger.open(objects, name="old", spill_folder=worker)
    for name in "abc":
        await old.record(job(name), INTENDED)
    batch = await Ledger.open(objects, name="new", take_over=True, spill_folder=ours)
    told = await asyncio.gather(
        *(
            old.record(job(name), Accepted(Ticket("fal", f"t-{name}")))
            for name in "abc"
        ),
        return_exceptions=True,
    )
    assert {type(one) for one in told} == {FencedError}
    await old.close()

    shards = [
        await Ledger.join(
            objects,
            batch=batch.batch,
            shard=number,
            before={job(name): batch.history(job(name))},
            spill_folder=worker,
        )
        for number, name in enumerate("ab")
    ]

    assert [one.recovered for one in shards] == [{job("a")}, {job("b")}]
    for one in (*shards, batch):
        await one.close()
    last = await Ledger.open(objects, name="last", spill_folder=ours)
    for name in "abc":
        assert last.history(job(name)).ticket == Ticket("fal", f"t-{name}")
    events = [entry.event for entry in await ledgers.read(objects)]
    assert len([one for one in events if isinstance(one, Accepted)]) == 3
    assert not [*spill_files(worker, "*.*"), *spill_files(ours, "*.*")]
    await last.close()


async def test_outdated_ticket_is_picked_up_by_no_shard(
    objects: Objects, tmp_path: Path
):
    """No shard picks up a spilled ticket of a job that has a newer attempt."""
    batch = await Ledger.open(objects, name="night", spill_folder=tmp_path / "ours")
    worker, another = tmp_path / "worker", tmp_path / "another"
    first = await Ledger.join(objects, batch=batch.batch, shard=3, spill_folder=worker)
    await first.record(job("a"), INTENDED)
    second = await Ledger.join(
        objects, batch=batch.batch, shard=3, spill_folder=another
    )
    with pytest.raises(FencedError):
        await first.record(job("a"), Accepted(TICKET))
    await second.record(job("a"), Risked("0.10 USD"))
    await second.record(job("a"), INTENDED)

    third = await Ledger.join(objects, batch=batch.batch, shard=3, spill_folder=worker)

    assert third.history(job("a")).state is State.IN_DOUBT
    assert not third.recovered
    # A person may want to know of it: the next batch keeps it aside, and reports it.
    assert await keys(objects, "spill")
    for one in (first, second, third, batch):
        await one.close()


async def test_shards_that_begin_at_once_share_a_spill(
    objects: Objects, tmp_path: Path
):
    """Shards that begin at once on one machine send its spill file without loss."""
    batch = await Ledger.open(objects, name="night", spill_folder=tmp_path / "ours")
    worker = tmp_path / "worker"
    first = await Ledger.join(objects, batch=batch.batch, shard=1, spill_folder=worker)
    await first.record(job("a"), INTENDED)
    newer = await Ledger.join(
        objects, batch=batch.batch, shard=1, spill_folder=tmp_path / "another"
    )
    with pytest.raises(FencedError):
        await first.record(job("a"), Accepted(TICKET))

    some = await asyncio.gather(
        *(
            Ledger.join(objects, batch=batch.batch, shard=shard, spill_folder=worker)
            for shard in range(2, 8)
        )
    )

    for one in (first, newer, *some, batch):
        await one.close()
    following = await Ledger.open(objects, name="next", spill_folder=tmp_path / "ours")
    assert following.history(job("a")).ticket == TICKET
    await following.close()


def test_a_loop_that_is_stopped_loses_no_answer(simulated: Simulated, tmp_path: Path):
    async def never(what: str, path: str) -> None:
        if what == "put" and path.endswith("0000000002.jsonl.zst"):
            await asyncio.Event().wait()

    async def night() -> None:
        ledger = await Ledger.open(
            simulated.objects(), name="night", spill_folder=tmp_path
        )
        await ledger.record(job("a"), INTENDED)
        simulated.before = never
        telling.append(asyncio.create_task(ledger.record(job("a"), Accepted(TICKET))))
        await asyncio.sleep(1)

    async def morning() -> None:
        ledger = await Ledger.open(
            simulated.objects(), name="next", take_over=True, spill_folder=tmp_path
        )
        assert ledger.history(job("a")).ticket == TICKET
        await ledger.close()

    telling: list[asyncio.Task[object]] = []
    run(night)
    simulated.before = None
    run(morning)


def test_half_recorded_spill_is_taken_by_the_next_run(
    simulated: Simulated, tmp_path: Path
):
    """If a run dies while it records a spill file, the next run records the rest."""

    async def night() -> None:
        await spilled_batch(simulated, tmp_path, a=[INTENDED, Accepted(TICKET)])
        simulated.before = refuse
        with pytest.raises(LedgerError):
            await Ledger.open(simulated.objects(), name="next", spill_folder=tmp_path)
        simulated.before = None

        last = await Ledger.open(
            simulated.objects(), name="last", take_over=True, spill_folder=tmp_path
        )

        assert last.history(job("a")).ticket == TICKET
        assert len(await ledgers.read(simulated.objects())) == 2
        assert not spill_files(tmp_path, "kept")
        await last.close()

    run(night)


def test_spilled_settlement_counts_once_after_a_crash(
    simulated: Simulated, tmp_path: Path
):
    """A spilled settlement counts once, even if a crash leaves its file behind."""

    async def night() -> None:
        ledger = await Ledger.open(
            simulated.objects(), name="wrecked", spill_folder=tmp_path
        )
        for event in (INTENDED, Accepted(TICKET), Discarded("black")):
            await ledger.record(job("a"), event)
        simulated.before = refuse
        refund = Adjusted(attempt=1, usd=Decimal("-0.04"), reason="refund")
        with pytest.raises(LedgerError):
            await ledger.record(job("a"), refund)
        simulated.before = None
        await ledger.close()
        [spill_file] = spill_files(tmp_path)
        saved = spill_file.read_bytes()

        for name in ("next", "last"):
            following = await Ledger.open(
                simulated.objects(), name=name, spill_folder=tmp_path
            )
            assert following.history(job("a")).spent_usd == Decimal("0.06")
            assert not spill_files(tmp_path, "*")
            await following.close()
            # A run leaves this file if it ends after all is on record but before its
            # deletion.
            spill_file.with_suffix(".0.recovering").write_bytes(saved)

        told = [entry.event for entry in await ledgers.read(simulated.objects())]
        assert told.count(refund) == 1

    run(night)


def test_a_line_that_cannot_be_read_costs_the_others_nothing(
    simulated: Simulated, tmp_path: Path
):
    async def night() -> None:
        await spilled_batch(simulated, tmp_path, a=[INTENDED, Accepted(TICKET)])
        [spill_file] = spill_files(tmp_path)
        spill_file.write_bytes(b"{torn\n" + spill_file.read_bytes())

        following = await Ledger.open(
            simulated.objects(), name="n", spill_folder=tmp_path
        )

        assert following.history(job("a")).ticket == TICKET
        assert len(spill_files(tmp_path, "kept")) == 1
        await following.close()

    run(night)


def test_log_has_the_entry_if_spilling_is_impossible(
    simulated: Simulated, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """If no spill file can be written, the log has the ticket of the unsaved entry."""
    (tmp_path / "spill").write_text("a file where a folder should be")

    async def night() -> None:
        await spilled_batch(
            simulated,
            tmp_path / "spill",
            a=[INTENDED, Accepted(Ticket("fal", "t-42"))],
        )

    run(night)

    [line] = [one for one in caplog.messages if one.startswith("ledger.entry_unsaved ")]
    assert '"t-42"' in line


async def test_each_root_has_its_own_spill_files(tmp_path: Path):
    """A run does not record spilled entries of another root."""
    folder = tmp_path / "spill"
    one, two = (made(str(tmp_path / name)) for name in ("one", "two"))
    ledger = await Ledger.open(one, name="night", spill_folder=folder)
    await ledger.record(job("a"), INTENDED)
    await ledger.close()
    with pytest.raises(LedgerError):
        await ledger.record(job("a"), Accepted(TICKET))

    other = await Ledger.open(two, name="night", spill_folder=folder)

    assert other.history(job("a")).state is State.PENDING
    assert len(spill_files(folder)) == 1
    await other.close()
