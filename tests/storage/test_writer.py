"""Streams are paced, bound in parts, separate for each shard, and wait for their
store."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from manifests import job_keys as numbers
from manifests.lifecycle import Accepted, Generated, History, Intended, Refused, State
from storage import layout
from storage import ledger as ledgers
from storage.ledger import FencedError, Ledger, LedgerError, checkpoint
from storage.ledger import segments as epochs
from storage.ledger.spilled_entry import UNSENT
from storage.objects import Objects
from tests.storage.lives import INTENDED, TICKET, job, keys
from tests.storage.simulated import Simulated, run

pytestmark = pytest.mark.anyio


@pytest.fixture
def simulated() -> Simulated:
    return Simulated()


def segments(store: Simulated) -> list[float]:
    """The times at which segments were put."""
    return [
        when for what, path, when in store.asked if what == "put" and "/main/0" in path
    ]


async def recorded(ledger: Ledger, times: int, *, for_s: float) -> list[float]:
    """Record entries, evenly spread over some seconds; returns how long each one
    waited."""
    now = asyncio.get_running_loop().time

    async def one(n: int) -> float:
        await asyncio.sleep(n * for_s / times)
        began = now()
        await ledger.record(job(n), INTENDED)
        return now() - began

    return await asyncio.gather(*map(one, range(times)))


# -- pace


@pytest.mark.parametrize(("shards", "a_second"), [(0, 5), (1, 5), (3, 15), (9, 20)])
def test_a_busy_remote_store_gets_so_many_segments_a_second(
    simulated: Simulated, shards: int, a_second: int
):
    async def night() -> None:
        ledger = await Ledger.open(simulated.objects(), name="night")
        with contextlib.ExitStack() as opened:
            for _ in range(shards):
                opened.enter_context(ledger.shard())
            await recorded(ledger, 100, for_s=2.0)
        await ledger.close()

    simulated.delay_s = 0.03
    run(night)

    # The last segment is the seal.
    *puts, _ = segments(simulated)
    assert (len(puts) - 1) / (puts[-1] - puts[0]) <= 1.05 * a_second
    assert len(puts) >= a_second


def test_an_idle_ledger_writes_at_once(simulated: Simulated):
    async def night() -> list[float]:
        ledger = await Ledger.open(simulated.objects(), name="night")
        waits = await recorded(ledger, 5, for_s=5.0)
        await ledger.close()
        return waits

    simulated.delay_s = 0.03

    assert max(run(night)) < 0.04


# -- parts


def test_a_long_stream_is_bound_in_parts_while_it_is_written(simulated: Simulated):
    async def night() -> None:
        objects = simulated.objects()
        ledger = await Ledger.open(objects, name="night")
        for n in range(600):
            await ledger.record(job(n), INTENDED)
        await asyncio.sleep(1)
        main = "ledger/000001-night/main"
        parts = [f"{main}/parts/0000000{span}.jsonl.zst" for span in SPANS]
        assert await keys(objects, f"{main}/parts") == parts
        written = [job(n) for n in range(600)]

        simulated.asked.clear()
        assert [entry.job for entry in await ledgers.read(objects)] == written
        asked = [path for what, path, _ in simulated.asked if what == "get"]
        assert len([path for path in asked if path.startswith(main)]) < 100

        # The segments of a lost part are still there.
        await objects.delete(parts[0])
        assert [entry.job for entry in await ledgers.read(objects)] == written
        for n in range(257, 513):
            await objects.delete(layout.segment(main, n))
        assert [entry.job for entry in await ledgers.read(objects)] == written
        # ... or they are missing too: then reading fails.
        await objects.delete(parts[1])
        with pytest.raises(LedgerError, match="main: number 257 is missing"):
            await ledgers.read(objects)

    run(night)


SPANS = ["001-0000000256", "257-0000000512"]


def test_failed_part_delays_no_record(
    simulated: Simulated, caplog: pytest.LogCaptureFixture
):
    """If a part cannot be written, records go on, and the failure is logged."""

    async def no_parts(what: str, path: str) -> None:
        if what == "put" and "/parts/" in path:
            raise PermissionError(13, "no", path)

    async def night() -> None:
        ledger = await Ledger.open(simulated.objects(), name="night")
        for n in range(300):
            await ledger.record(job(n), INTENDED)
        await ledger.close()
        assert len(await ledgers.read(simulated.objects())) == 300

    simulated.before = no_parts
    run(night)

    assert "ledger.part_not_merged" in caplog.text


# -- shards in separate processes


async def test_shard_writes_a_separate_stream(objects: Objects):
    """A shard writes a separate stream; readers merge it with the batch's."""
    ledger = await Ledger.open(objects, name="night")
    _, history = await ledger.record(job("before"), INTENDED)
    before = {job("before"): history}

    shard = await Ledger.join(
        Objects.open(objects.root), batch=ledger.batch, shard=7, before=before
    )
    await shard.record(job("before"), Accepted(TICKET))
    await shard.record(job("new"), INTENDED)
    await ledger.record(job("elsewhere"), INTENDED)
    await shard.close()
    await ledger.close()

    written = await keys(objects, "ledger/000001-night/shard-0007.01")
    # A remote store has the last segments a second time.
    assert [key for key in written if "/parts/" not in key] == [
        f"ledger/000001-night/shard-0007.01/000000000{n}.jsonl.zst" for n in range(1, 5)
    ]
    histories = await ledgers.histories(objects)
    assert histories[job("before")].state is State.ACCEPTED
    assert histories.keys() == {job("before"), job("new"), job("elsewhere")}


async def test_next_process_of_a_shard_knows_its_record(
    objects: Objects,
):
    """A shard's next process knows all that the one before it recorded."""
    ledger = await Ledger.open(objects, name="night")
    first = await Ledger.join(objects, batch=ledger.batch, shard=7)
    await first.record(job("a"), INTENDED)
    # ... and is paused, or cut off; its shard goes to another process.
    second = await Ledger.join(objects, batch=ledger.batch, shard=7)
    assert second.history(job("a")).state is State.IN_DOUBT
    await second.record(job("a"), Accepted(TICKET))

    with pytest.raises(FencedError):
        await first.record(job("a"), Refused("busy"))
    third = await Ledger.join(objects, batch=ledger.batch, shard=7)
    await third.record(job("a"), Generated())

    for opened in (first, second, third, ledger):
        await opened.close()
    told = [type(entry.event) for entry in await ledgers.read(objects)]
    assert told == [Intended, Accepted, Generated]


async def test_many_joins_as_one_shard_leave_one_writer(objects: Objects):
    """If many processes join as one shard, one of them can write."""
    ledger = await Ledger.open(objects, name="night")
    tries = [
        Ledger.join(Objects.open(objects.root), batch=ledger.batch, shard=7)
        for _ in range(6)
    ]

    joined = await asyncio.gather(*tries, return_exceptions=True)
    shards = [one for one in joined if isinstance(one, Ledger)]
    told = await asyncio.gather(
        *(one.record(job("a"), INTENDED) for one in shards), return_exceptions=True
    )

    assert all(isinstance(one, Ledger | FencedError) for one in joined)
    assert [one for one in told if not isinstance(one, FencedError)]
    assert sum(isinstance(one, tuple) for one in told) == 1
    for one in (*shards, ledger):
        await one.close()
    assert [entry.job for entry in await ledgers.read(objects)] == [job("a")]


async def test_a_successor_ends_every_shard_of_the_batch_before(objects: Objects):
    old = await Ledger.open(objects, name="old")
    shards = [
        await Ledger.join(objects, batch=old.batch, shard=number) for number in (1, 2)
    ]
    await shards[0].record(job("a"), INTENDED)

    new = await Ledger.open(objects, name="new", take_over=True)

    assert set(new.lives) == {job("a")}
    for one in (*shards, old):
        with pytest.raises(FencedError):
            await one.record(job("b"), INTENDED)
        await one.close()
    assert set(await ledgers.histories(objects)) == {job("a")}
    await new.close()


async def test_join_of_an_ended_or_unknown_batch_is_refused(objects: Objects):
    """A batch that has ended or never existed cannot be joined."""
    over = await Ledger.open(objects, name="over")
    await over.close()
    with pytest.raises(FencedError, match="'000001-over' is over"):
        await Ledger.join(objects, batch=over.batch, shard=1)

    pushed = await Ledger.open(objects, name="pushed out")
    new = await Ledger.open(objects, name="new", take_over=True)
    with pytest.raises(FencedError, match="'000002-pushed-out' is over"):
        await Ledger.join(objects, batch=pushed.batch, shard=1)

    for batch in ("000003-old", "000009-none", "none"):
        with pytest.raises(LedgerError, match=f"no batch '{batch}'"):
            await Ledger.join(objects, batch=batch, shard=1)
    await new.close()
    await pushed.close()


def test_unsealed_epoch_is_sealed_before_it_is_bound(
    simulated: Simulated, tmp_path: Path
):
    """An epoch whose run could not seal it is sealed before it is bound."""

    async def night() -> None:
        ledger = await Ledger.open(simulated.objects(), name="night")
        shard = await Ledger.join(simulated.objects(), batch=ledger.batch, shard=1)
        await ledger.record(job("a"), INTENDED)
        simulated.before = broken(PermissionError(13, "no"), folder="ledger/")
        await ledger.close()
        simulated.before = None

        await ledger.told(numbers.keys([job("a")]), tmp_path)

        assert await keys(simulated.objects(), "ledger/index")
        with pytest.raises(FencedError):
            await shard.record(job("b"), INTENDED)
        assert {*await ledgers.histories(simulated.objects())} == {job("a")}
        await shard.close()

    run(night)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_shard_that_joins_an_ending_batch_is_fenced(simulated: Simulated, moment: str):
    """A shard that joins while its batch is taken over is fenced, with no record."""

    async def succeed(what: str, path: str) -> None:
        if what == "put" and "/shard-0007.01/0000000001" in path:
            setattr(simulated, moment, None)
            successors.append(
                await Ledger.open(simulated.objects(), name="new", take_over=True)
            )

    async def night() -> None:
        old = await Ledger.open(simulated.objects(), name="old")
        setattr(simulated, moment, succeed)

        with pytest.raises(FencedError):
            await Ledger.join(simulated.objects(), batch=old.batch, shard=7)

        found = await epochs.streams(simulated.objects(), old.batch)
        assert found["shard-0007.01"].segments == 2
        assert await ledgers.read(simulated.objects()) == []
        await successors[0].close()
        await old.close()

    successors: list[Ledger] = []
    run(night)


# -- the store is away, or refuses


def broken(error: Exception, folder: str = "/main/0"):
    async def fail(what: str, path: str) -> None:
        if what == "put" and folder in path:
            raise error

    return fail


def test_a_store_that_is_away_is_waited_for(
    simulated: Simulated, caplog: pytest.LogCaptureFixture
):
    async def night() -> History:
        ledger = await Ledger.open(simulated.objects(), name="night")
        simulated.before = broken(ConnectionError("the network is down"))
        recording = asyncio.create_task(ledger.record(job("a"), INTENDED))
        await asyncio.sleep(580.0)
        assert not recording.done()
        simulated.before = None
        _, history = await recording
        await ledger.close()
        return history

    assert run(night).state is State.IN_DOUBT
    names = [one.split()[0] for one in caplog.messages]
    assert names == ["root.created", "store.unavailable", "store.recovered"]


@pytest.mark.parametrize(
    ("error", "limit_s", "told"),
    [
        (ConnectionError("the network is down"), 600, 0),
        (PermissionError(13, "Permission denied"), 30, 1),
        (OSError(28, "No space left on device"), 30, 1),
    ],
)
def test_failed_write_fails_all_records(
    simulated: Simulated, error: Exception, limit_s: float, told: int, tmp_path
):
    """When the ledger gives up on its store, every waiting record fails."""

    async def night() -> None:
        now = asyncio.get_running_loop().time
        ledger = await Ledger.open(
            simulated.objects(),
            name="night",
            spill_folder=tmp_path,
        )
        ledger.on_trouble(reasons.append)
        simulated.before = broken(error)
        began = now()
        results = await asyncio.gather(
            *(ledger.record(job(n), INTENDED) for n in range(3)), return_exceptions=True
        )
        assert limit_s <= now() - began < limit_s + 20
        assert all(isinstance(result, LedgerError) for result in results)
        with pytest.raises(LedgerError, match="not written"):
            await ledger.record(job("late"), INTENDED)
        simulated.before = None
        await ledger.close()
        assert await ledgers.read(simulated.objects()) == []

    reasons: list[str] = []
    run(night)

    assert len(reasons) == told
    # No submit had been sent, and the spill file tells the next run so.
    [boat] = tmp_path.rglob("*.jsonl")
    lines = boat.read_text().splitlines()
    assert [UNSENT.reason in line for line in lines] == [True] * 4


def test_listener_learns_at_once_why_records_wait(
    simulated: Simulated, caplog: pytest.LogCaptureFixture
):
    """A listener learns within a second, and once, why the ledger cannot record."""

    async def night() -> None:
        now = asyncio.get_running_loop().time
        ledger = await Ledger.open(simulated.objects(), name="night")
        ledger.on_trouble(lambda why: reasons.append((why, now() - began)))
        began = now()
        simulated.before = broken(PermissionError(13, "Permission denied"))
        recording = asyncio.create_task(ledger.record(job("a"), INTENDED))
        await asyncio.sleep(20)
        # Somebody may grant the permission again.
        simulated.before = None
        assert (await recording)[1].state is State.IN_DOUBT
        await ledger.close()

    reasons: list[tuple[str, float]] = []
    run(night)

    [(why, after_s)] = reasons
    segment = "000001-night/main/0000000001.jsonl.zst"
    assert f"{segment}: no permission" in why
    assert after_s < 1
    [_, line] = caplog.messages
    assert line.startswith(f"ledger.write_delayed key=ledger/{segment} ")


def test_listener_that_comes_late_learns_what_happened(simulated: Simulated):
    """Trouble that began before anybody listened is not lost."""

    async def night() -> None:
        ledger = await Ledger.open(simulated.objects(), name="night")
        simulated.before = broken(PermissionError(13, "Permission denied"))
        recording = asyncio.create_task(ledger.record(job("a"), INTENDED))
        await asyncio.sleep(5)
        ledger.on_trouble(reasons.append)
        simulated.before = None
        await recording
        await ledger.close()

    reasons: list[str] = []
    run(night)

    assert "no permission" in reasons[0]


# -- the end


async def test_close_writes_what_was_queued_a_moment_before(objects: Objects):
    """An entry that is queued, and that no writer has seen yet, is durable after close."""
    ledger = await Ledger.open(objects, name="night")
    recording = asyncio.create_task(ledger.record(job("a"), INTENDED))
    await asyncio.sleep(0)

    await ledger.close()

    await recording
    assert [*(await Ledger.open(objects, name="next")).lives] == [job("a")]


def test_epoch_with_unwritten_entries_is_not_compacted(simulated: Simulated):
    """Its checkpoint could lack entries that are spilled and recovered later."""
    failing = asyncio.Event()

    async def refuse(what: str, path: str) -> None:
        if failing.is_set() and what == "put" and "/main/" in path:
            raise PermissionError(path)

    async def night() -> None:
        objects = simulated.objects()
        ledger = await Ledger.open(objects, name="night")
        await ledger.record(job("a"), INTENDED)
        simulated.before = refuse
        failing.set()
        with pytest.raises(LedgerError):
            await ledger.record(job("b"), INTENDED)
        failing.clear()
        await ledger.close()

        assert await checkpoint.compacted(objects) == []

    run(night)
