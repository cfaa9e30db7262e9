"""No run loses its root by accident, and no run is locked out for ever."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from storage import layout
from storage.layout import HOLDER
from storage.ledger import (
    SILENT_S,
    FencedError,
    HeldError,
    Holder,
    Ledger,
    claimant,
    open_root,
)
from storage.ledger.owner import BEAT_S, born
from storage.objects import Objects
from tests.storage.lives import INTENDED, at, job, keys
from tests.storage.simulated import Simulated, run

pytestmark = pytest.mark.anyio


@pytest.fixture
def simulated() -> Simulated:
    return Simulated()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this machine, which lives until the test ends it."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


async def given_a_holder(
    objects: Objects, *, elsewhere: bool = True, **facts: object
) -> Holder:
    """A process that claimed epoch 1, wrote one heartbeat, and is silent since."""
    holder = replace(claimant(1, "first", 1000.0), **facts)
    holder = replace(holder, machine="another") if elsewhere else holder
    await open_root(objects, at(1000.0))
    await objects.create("ledger/epochs/000001.json", holder.dump())
    await objects.put(HOLDER, holder.beating(1000.0).dump())
    return holder


# -- a recent heartbeat


async def test_a_live_holder_is_named_and_not_pushed_out(objects: Objects):
    holder = await Ledger.open(objects, name="Portraits", clock=at(1_800_000_000))

    with pytest.raises(HeldError) as caught:
        await Ledger.open(objects, name="second", clock=at(1_800_000_000))

    message = str(caught.value)
    assert message.startswith(
        f"{objects.root}: batch 'Portraits' holds it: pid {os.getpid()} on "
        f"{os.uname().nodename}, since 2027-01-15 08:00:00 UTC by that machine's clock. "
        "Its last beat was seen "
    )
    assert re.search(r" s ago; if it is dead, the root is free in \d+ s$", message)
    await holder.record(job("a"), INTENDED)
    await holder.close()


async def test_refused_run_leaves_no_trace(objects: Objects):
    """A run that is refused leaves no file on the root."""
    holder = await Ledger.open(objects, name="first")
    await holder.record(job("a"), INTENDED)

    with pytest.raises(HeldError):
        await Ledger.open(objects, name="second")

    assert not await keys(objects, layout.CLOCK)
    assert not [key for key in await keys(objects) if "000002" in key]
    await holder.close()


async def test_a_root_is_free_as_soon_as_its_holder_closes(objects: Objects):
    await (await Ledger.open(objects, name="one")).close()

    await (await Ledger.open(objects, name="two")).close()


# -- a process that has exited


async def test_a_process_of_this_machine_that_is_gone_holds_nothing(objects: Objects):
    # Its pid now belongs to another process: this one.
    await given_a_holder(objects, elsewhere=False, born="1")

    await (await Ledger.open(objects, name="two")).close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
async def test_holder_hidden_by_proc_lives_until_it_is_gone(
    objects: Objects,
    process: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    error: type[OSError],
):
    """A holder that /proc hides, as another user's, holds its root until it exits."""
    await given_a_holder(
        objects, elsewhere=False, pid=process.pid, born=born(process.pid)
    )
    read = Path.read_text

    def hidden(path: Path) -> str:
        if path == Path(f"/proc/{process.pid}/stat"):
            raise error(path)
        return read(path)

    monkeypatch.setattr(Path, "read_text", hidden)
    with pytest.raises(HeldError, match=f"pid {process.pid} "):
        await Ledger.open(objects, name="two")

    process.kill()
    process.wait()

    await (await Ledger.open(objects, name="two")).close()


async def test_a_process_that_has_ended_and_is_not_waited_for_is_gone(
    objects: Objects, process: subprocess.Popen[bytes]
):
    await given_a_holder(
        objects, elsewhere=False, pid=process.pid, born=born(process.pid)
    )
    process.kill()
    ended = os.WEXITED | os.WNOWAIT
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, ended)

    await (await Ledger.open(objects, name="two")).close()


async def test_holder_without_a_start_time_lives_with_its_process(
    objects: Objects,
):
    """A holder that recorded no start time holds its root while its process runs."""
    await given_a_holder(objects, elsewhere=False, born=None)

    with pytest.raises(HeldError, match=f"pid {os.getpid()} "):
        await Ledger.open(objects, name="two")


def test_heartbeat_of_another_run_does_not_count(simulated: Simulated):
    """Another run's heartbeat does not keep the holder's lease."""

    async def night() -> None:
        holder = await given_a_holder(simulated.objects())
        fenced = replace(holder, token="another").beating(5000.0)
        # The holder's own sign of life is its claim, which is old.
        simulated.clock = at(2000.0)
        await simulated.objects().put(HOLDER, fenced.dump())

        await (await Ledger.open(simulated.objects(), name="two")).close()

    simulated.clock = at(1000.0)
    run(night)


# -- an old heartbeat, by the store's own clock


def test_a_silent_holder_is_watched_and_then_succeeded(simulated: Simulated):
    async def night() -> float:
        await given_a_holder(simulated.objects())
        simulated.clock = at(1000.0 + SILENT_S)
        began = asyncio.get_running_loop().time()
        await (await Ledger.open(simulated.objects(), name="two")).close()
        return asyncio.get_running_loop().time() - began

    simulated.clock = at(1000.0)

    assert run(night) >= 1.5 * BEAT_S


def test_a_silent_holder_has_its_minute(simulated: Simulated):
    async def night() -> None:
        await given_a_holder(simulated.objects())
        simulated.clock = at(1000.0 + SILENT_S - 1)

        # The hosts' clocks do not matter: this one is a day ahead.
        with pytest.raises(HeldError, match=r"'first'.*last beat was seen 59 s ago"):
            await Ledger.open(simulated.objects(), name="two", clock=at(87_400.0))

    simulated.clock = at(1000.0)
    run(night)


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_clock_jump_does_not_push_out_a_live_holder(
    simulated: Simulated, jump_s: float
):
    """A jump of the store's clock does not push out a live holder."""

    async def night() -> None:
        holder = await Ledger.open(simulated.objects(), name="first")
        await holder.record(job("a"), INTENDED)
        simulated.clock = at(1e6 + jump_s)

        with pytest.raises(HeldError, match="'first'"):
            await Ledger.open(simulated.objects(), name="second")

        await holder.record(job("b"), INTENDED)
        await holder.close()

    simulated.clock = at(1e6)
    run(night)


def test_late_heartbeat_does_not_lose_the_root(
    simulated: Simulated,
):
    """A newcomer's slow request does not push out a holder whose heartbeat is late."""

    async def late(what: str, path: str) -> None:
        if (what, path) == ("put", HOLDER):
            await asyncio.sleep(2.5 * BEAT_S)

    async def night() -> None:
        holder = await Ledger.open(simulated.objects(), name="first")
        await asyncio.sleep(1.5 * BEAT_S)
        # Its heartbeat is younger than later writes; its next heartbeat is slow.
        simulated.clock, simulated.before = at(1e6 - 5.0), late

        with pytest.raises(HeldError, match="'first'"):
            await Ledger.open(simulated.objects(), name="second")

        simulated.before = None
        await holder.close()

    simulated.clock = at(1e6)
    run(night)


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_clock_jump_does_not_protect_a_dead_holder(simulated: Simulated, jump_s: float):
    """A jump of the store's clock does not prolong a dead holder's lease."""

    async def night() -> None:
        await given_a_holder(simulated.objects())
        simulated.clock = at(1e6 + jump_s)

        await (await Ledger.open(simulated.objects(), name="second")).close()

    simulated.clock = at(1e6)
    run(night)


async def test_a_local_folder_tells_how_old_a_sign_is(tmp_path: Path):
    objects = Objects.open(str(tmp_path))
    await given_a_holder(objects)
    with pytest.raises(HeldError):
        await Ledger.open(objects, name="two")
    put = (tmp_path / HOLDER).stat().st_mtime - SILENT_S

    os.utime(tmp_path / HOLDER, (put, put))

    await (await Ledger.open(objects, name="two", beat_s=0.001)).close()


# -- heartbeats


def test_a_beat_keeps_a_long_batch_its_root(simulated: Simulated):
    async def night() -> None:
        holder = await Ledger.open(simulated.objects(), name="one")
        for _ in range(3):
            await asyncio.sleep(100.0)
            with pytest.raises(HeldError, match="'one'"):
                await Ledger.open(simulated.objects(), name="two")
        await holder.close()

    run(night)


def test_a_holder_that_missed_many_beats_goes_on_trying(
    simulated: Simulated,
):
    async def away(what: str, path: str) -> None:
        if path == HOLDER and what == "put":
            raise ConnectionError("the network is down")

    async def night() -> None:
        holder = await Ledger.open(simulated.objects(), name="one")
        await asyncio.sleep(60)
        simulated.before = away
        await asyncio.sleep(300)
        silent = json.loads(simulated.kept[HOLDER][0])["beats"]
        simulated.before = None
        await asyncio.sleep(60)

        assert json.loads(simulated.kept[HOLDER][0])["beats"] > silent
        await holder.close()

    run(night)


def test_succeeded_run_stops_its_heartbeat(simulated: Simulated):
    """A run that was taken over writes no more heartbeats."""

    async def night() -> None:
        old = await Ledger.open(simulated.objects(), name="old")
        new = await Ledger.open(simulated.objects(), name="new", take_over=True)
        await asyncio.sleep(100)

        assert json.loads(simulated.kept[HOLDER][0])["name"] == "new"
        with pytest.raises(FencedError):
            await old.record(job("a"), INTENDED)
        await old.close()
        await new.close()

    run(night)


def test_busy_batch_on_a_slow_store_is_taken_over(
    simulated: Simulated,
):
    """A run can take over from a batch that writes faster than it can read the end."""

    async def write(old: Ledger) -> None:
        for n in range(100_000):
            await old.record(job(n), INTENDED)

    async def night() -> None:
        old = await Ledger.open(simulated.objects(), name="old")
        simulated.delay_s = 0.1
        with ExitStack() as shards:
            for _ in range(4):
                shards.enter_context(old.shard())
            writers = asyncio.create_task(write(old))
            await asyncio.sleep(3.0)
            async with asyncio.timeout(100):
                new = await Ledger.open(simulated.objects(), name="new", take_over=True)
            with pytest.raises(FencedError):
                await writers
        await old.close()
        await new.close()

    run(night)


def test_idle_run_learns_of_its_successor(simulated: Simulated):
    """A run without anything to record still learns of its successor."""
    told: list[str] = []

    async def night() -> None:
        old = await Ledger.open(simulated.objects(), name="old")
        old.on_trouble(told.append)
        new = await Ledger.open(simulated.objects(), name="new", take_over=True)
        await asyncio.sleep(2 * BEAT_S)

        assert told == ["a later batch has taken over"]
        # A listener that subscribes now is informed too.
        old.on_trouble(told.append)
        assert told[1:] == told[:1]
        await old.close()
        with pytest.raises(FencedError):
            old.refuse_if_taken_over()
        await new.close()
        new.refuse_if_taken_over()

    run(night)


async def test_closing_run_learns_of_its_successor(
    objects: Objects,
):
    """A run that had not learned of its successor learns of it on closing."""
    old = await Ledger.open(objects, name="old")
    new = await Ledger.open(objects, name="new", take_over=True)

    await old.close()

    with pytest.raises(FencedError):
        old.refuse_if_taken_over()
    assert not await keys(objects, "ledger/index")
    await new.close()


# -- claims


def test_run_that_may_not_delete_is_judged_all_the_same(
    simulated: Simulated,
):
    async def no_deletes(what: str, path: str) -> None:
        if what == "delete":
            raise PermissionError(13, "no", path)

    async def night() -> None:
        await given_a_holder(simulated.objects())
        simulated.before = no_deletes
        with pytest.raises(HeldError):
            await Ledger.open(simulated.objects(), name="two")

    run(night)


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


def test_claim_that_is_overtaken_at_once_is_given_up(simulated: Simulated):
    """A run that finds a later claim after its own raises before its first event."""

    async def overtake(what: str, path: str) -> None:
        if what == "put" and path.endswith(layout.claim(1)):
            later = path.replace(layout.claim(1), layout.claim(2))
            simulated.kept[later] = (claimant(2, "later", 1000.0).dump(), 1000.0)

    async def night() -> None:
        simulated.before = overtake
        with pytest.raises(FencedError, match="a later batch has taken over"):
            await Ledger.open(simulated.objects(), name="first")

    run(night)
