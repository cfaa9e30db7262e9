"""Repairs: a damaged root is made usable, and what was lost in it is never bought again."""

import secrets
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from manifests.lifecycle import (
    Accepted,
    Adjusted,
    Discarded,
    Doubted,
    Entry,
    Event,
    Forgotten,
    Generated,
    History,
    Parked,
    Published,
    Refused,
    Rejected,
    Risked,
    State,
    Ticket,
)
from storage import layout
from storage.ledger import (
    Gap,
    HeldError,
    Ledger,
    LedgerError,
    gaps_of,
    histories,
    read,
    refuse_if_alive,
    release_gaps,
    repair_root,
    survey_root,
    withholding,
)
from storage.ledger.bridge import LOST_TICKET, Submits, bridge
from storage.ledger.checkpoint import compacted
from storage.ledger.gaps import withheld
from storage.objects import DamagedError, Objects
from tests.histories import ACCEPTED, FACTS, START, intended, ledger_entries
from tests.storage.lives import job, keys
from tests.storage.test_missing import without_checkpoints

pytestmark = pytest.mark.anyio

PUBLISHED = Published("memory://clip", FACTS)
MADE = (intended(), ACCEPTED, Generated(), PUBLISHED)
NOW = START + 10_000


@pytest.fixture
def memory() -> Objects:
    return Objects.open(f"memory://{secrets.token_hex(6)}")


async def died(objects: Objects, *events: tuple[str, Event]) -> str:
    """A run that records each event in a separate segment, and dies; its batch."""
    times = iter(range(10_000))
    ledger = await Ledger.open(objects, name="m", clock=lambda: START + next(times))
    for name, event in events:
        await ledger.record(job(name), event)
    await ledger.close()
    await without_checkpoints(objects)
    return ledger.batch


def main(batch: str, number: int) -> str:
    return layout.segment(layout.stream(batch, "main"), number)


async def repaired(objects: Objects) -> None:
    """Repair what the survey finds; nothing bad is left."""
    found = await survey_root(objects)
    assert found.bad
    await repair_root(objects, found, lambda: NOW)
    assert not (await survey_root(objects)).bad


async def test_sound_root_has_no_damage(memory: Objects):
    """Neither a compacted epoch nor one that died is damaged."""
    await died(memory, *(("a", event) for event in MADE))
    await (await Ledger.open(memory, name="next")).close()

    found = await survey_root(memory)

    assert (found.damages, found.epochs, found.claims) == ([], [], {})


@pytest.mark.parametrize("lost", range(1, 5))
async def test_lost_segment_of_finished_job(memory: Objects, lost: int):
    """Whichever event of a life is lost, the job is as it was, and costs what it did."""
    batch = await died(memory, *(("a", event) for event in MADE), ("b", intended()))
    await memory.delete(main(batch, lost))
    with pytest.raises(
        LedgerError, match=f"number {lost} is missing.*nightreel repair"
    ):
        await histories(memory)

    await repaired(memory)

    history = (await histories(memory))[job("a")]
    made = lost < 4
    assert history.state is (State.PUBLISHED if made else State.GENERATED)
    assert history.spent_usd == Decimal("0.15")


async def test_flipped_segment_is_set_aside(memory: Objects):
    """The damaged bytes stay below the root, for a person."""
    batch = await died(memory, *(("a", event) for event in MADE))
    key = main(batch, 2)
    damaged = (await memory.get(key))[:-3] + b"???"
    await memory.put(key, damaged)
    with pytest.raises(DamagedError, match=r"2.jsonl.zst: damaged.*nightreel repair"):
        await histories(memory)

    await repaired(memory)

    assert (await histories(memory))[job("a")].state is State.PUBLISHED
    aside = [one for one in await keys(memory) if one.endswith(f"/{key}")]
    assert [await memory.get(one) for one in aside] == [damaged]


async def test_only_the_repaired_gap_is_accepted(memory: Objects):
    """A segment that is lost after the repair is a new damage."""
    batch = await died(memory, *(("a", event) for event in MADE))
    await memory.delete(main(batch, 2))
    await repaired(memory)

    await memory.delete(main(batch, 3))

    with pytest.raises(LedgerError, match="number 3 is missing"):
        await histories(memory)


async def test_job_without_record_is_withheld(memory: Objects):
    """A job that only the lost segment knew is not bought until the gap is released."""
    batch = await died(memory, ("a", intended()), ("b", intended()), ("c", intended()))
    await memory.delete(main(batch, 2))
    await repaired(memory)

    ledger = await Ledger.open(memory, name="next")
    try:
        assert ledger.withheld(job("b")) is not None
        assert ledger.withheld(job("c")) is None
    finally:
        await ledger.close()

    await release_gaps(memory, NOW)
    assert await withholding(memory) == []


async def test_damaged_record_withholds_every_job_not_known(memory: Objects):
    """If the record of a repair is damaged, no job is bought that may be in its gap."""
    batch = await died(memory, ("a", intended()), ("b", intended()), ("c", intended()))
    await memory.delete(main(batch, 2))
    await repaired(memory)

    await memory.put(layout.repair(1), b"{}")

    [gap] = await withholding(memory)
    assert (gap.place, gap.usd) == (layout.repair(1), None)
    assert withheld([gap], History()) is gap
    assert withheld([gap], _refused_at(NOW + 1)) is gap


async def test_released_gap_stays_released(memory: Objects):
    """A later repair withholds only what it lost itself."""
    batch = await died(memory, ("a", intended()), ("b", intended()), ("c", intended()))
    await memory.delete(main(batch, 1))
    await repaired(memory)
    await release_gaps(memory, NOW)
    await memory.delete(main(batch, 2))

    await repaired(memory)

    assert [gap.first for gap in await withholding(memory)] == [2]


async def test_money_of_a_gap_is_bounded(memory: Objects):
    """The bound is a segment's most submits, at the dearest price beside it."""
    batch = await died(
        memory,
        ("a", intended("0.10")),
        ("b", intended("0.20")),
        ("c", intended("0.30", lane="other")),
    )
    await memory.delete(main(batch, 2))

    (gap,) = gaps_of(await survey_root(memory), NOW)

    assert gap.lanes == {"spicy": "0.10", "other": "0.30"}
    assert (gap.submits, gap.usd) == (2000, 600)
    assert gap.since is not None
    assert gap.since < gap.until < NOW


async def test_lost_segments_under_a_whole_index(memory: Objects):
    """The index knows all purchases: nothing is withheld."""
    batch = await died(memory, *(("a", event) for event in MADE))
    await (await Ledger.open(memory, name="next")).close()
    await memory.delete(main(batch, 2))
    await memory.put(layout.events(1), b"damaged")
    with pytest.raises(LedgerError, match="number 2 is missing"):
        await read(memory)

    await repaired(memory)

    assert await withholding(memory) == []
    assert len(await read(memory)) == 4


async def test_damaged_list_and_lost_tail(memory: Objects):
    """Without its list, nobody knows how many segments an epoch had: a seal ends it."""
    batch = await died(memory, *(("a", event) for event in MADE))
    await (await Ledger.open(memory, name="next")).close()
    await memory.put(layout.checkpoint(1), b"{}")
    for number in (5, 6):
        await memory.delete(main(batch, number))
    with pytest.raises(DamagedError):
        await histories(memory)

    await repaired(memory)

    assert (await histories(memory))[job("a")].state is State.PUBLISHED
    await (await Ledger.open(memory, name="again")).close()
    assert await compacted(memory) == [1, 2, 3]


async def test_claim_is_written_again(memory: Objects):
    """The folder of its streams has the batch's name: nothing is lost."""
    await died(memory, *(("a", event) for event in MADE))
    await memory.delete(layout.claim(1))

    await repaired(memory)

    assert (await histories(memory))[job("a")].state is State.PUBLISHED
    assert await withholding(memory) == []


async def test_damaged_claim_is_written_again(memory: Objects):
    await died(memory, *(("a", event) for event in MADE))
    data = await memory.get(layout.claim(1))
    await memory.put(layout.claim(1), data.replace(b'"m"', b'"n"'))

    await repaired(memory)

    assert (await histories(memory))[job("a")].state is State.PUBLISHED


async def test_epoch_without_any_trace(memory: Objects):
    """All of an epoch is lost: every job that is not on record is withheld."""
    batch = await died(memory, *(("a", event) for event in MADE))
    await (await Ledger.open(memory, name="next")).close()
    for key in await keys(memory):
        if batch in key or "000001" in key:
            await memory.delete(key)

    await repaired(memory)

    (gap,) = await withholding(memory)
    assert (gap.place, gap.usd) == ("ledger/000001-repaired", None)


async def test_earlier_writer_of_a_shard_is_lost(memory: Objects):
    """A whole stream is missing before a later one."""
    ledger = await Ledger.open(memory, name="m")
    for name in "ab":
        one = await Ledger.join(memory, batch=ledger.batch, shard=1)
        await one.record(job(name), intended())
        await one.close()
    await ledger.close()
    await without_checkpoints(memory)
    for key in await keys(memory, layout.stream(ledger.batch, "shard-0001.01")):
        await memory.delete(key)
    with pytest.raises(LedgerError, match=r"shard-0001.01: missing.*nightreel repair"):
        await histories(memory)

    await repaired(memory)

    assert [*await histories(memory)] == [job("b")]


async def test_identity_is_written_again(memory: Objects):
    """A damaged `root.json` keeps its id, if that can still be read."""
    await died(memory, ("a", intended()))
    data = await memory.get(layout.ROOT)
    await memory.put(layout.ROOT, data.replace(b"created", b"craeted"))

    await repaired(memory)

    assert data.split(b'"id"')[1][:40] in await memory.get(layout.ROOT)


@pytest.mark.parametrize("steps", range(6))
async def test_repair_that_is_killed_is_repaired(tmp_path: Path, steps: int):
    """After each of its puts, a killed repair leaves a root that can be repaired."""
    memory, killed = Objects.open(str(tmp_path)), Killed.open(str(tmp_path))
    batch = await died(memory, *(("a", event) for event in MADE), ("b", intended()))
    await memory.delete(layout.claim(1))
    await memory.put(main(batch, 1), b"damaged")
    for number in (3, 4):
        await memory.delete(main(batch, number))
    killed.left = steps

    with pytest.raises(KilledError):
        await repair_root(killed, await survey_root(killed), lambda: NOW)
    found = await survey_root(memory)
    if found.bad:
        await repair_root(memory, found, lambda: NOW)

    assert not (await survey_root(memory)).bad
    assert (await histories(memory)).keys() == {job("a"), job("b")}
    assert await withholding(memory)


class KilledError(Exception):
    """The process has died."""


class Killed(Objects):
    """Objects of a process that is killed after some puts."""

    left: int

    async def _write(self, *args, **kwargs) -> None:
        if not self.left:
            raise KilledError
        self.left -= 1
        await super()._write(*args, **kwargs)


async def test_repair_is_refused_while_a_run_is_alive(memory: Objects):
    """The run is this process, whose heartbeat is fresh; its claim may be lost."""
    ledger = await Ledger.open(memory, name="m")
    await memory.delete(layout.claim(1))
    try:
        with pytest.raises(HeldError):
            await refuse_if_alive(memory, sleep=_no_sleep)
    finally:
        await memory.create(layout.claim(1), b"?")
        await ledger.close()

    await refuse_if_alive(memory, sleep=_no_sleep)


async def _no_sleep(_: float) -> None:
    return


EVENTS: Sequence[Event] = (
    intended(),
    ACCEPTED,
    Doubted("?"),
    Risked("?"),
    Refused("?"),
    Discarded("?"),
    Forgotten("?"),
    Parked("?"),
    Rejected("?"),
    Generated(),
    PUBLISHED,
    Adjusted(attempt=1, usd=Decimal("0.01"), reason="?"),
)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("known", range(4))
def test_bridge_reaches_every_event(known: int, event: Event):
    """From each state that is no end, some lost events lead to each kind of event."""
    history = History()
    for entry in ledger_entries(job("a"), *MADE[:known]):
        history = history.after(entry)
    last = Entry(job("a"), START, event)

    for lost in bridge(history, last, Submits()):
        history = history.after(Entry(job("a"), START, lost))

    assert history.after(last).attempts >= 1


def test_bridged_submit_is_at_the_dearest_price():
    """Its lane is that of the ticket's provider, and its mark names this job."""
    submits = Submits()
    for entry in (
        *ledger_entries(job("x"), intended("0.2", mark=f"ab:{job('x')}-1 https://x")),
        *ledger_entries(job("x"), ACCEPTED),
        *ledger_entries(job("y"), intended("0.9", lane="dear")),
    ):
        submits.add(entry)
    last = Entry(job("a"), START, Accepted(Ticket("wavespeed", "remote-2")))

    (lost,) = bridge(History(), last, submits)

    assert lost == intended("0.2", seed=-1, mark=f"ab:{job('a')}-1 https://x")


def test_lost_ticket_is_named():
    """A ticket that was lost has its provider's name."""
    submits = Submits()
    for entry in ledger_entries(job("x"), intended(), ACCEPTED):
        submits.add(entry)
    history = History().after(Entry(job("a"), START, intended()))

    (lost,) = bridge(history, Entry(job("a"), START, Generated()), submits)

    assert lost == Accepted(Ticket("wavespeed", LOST_TICKET))


def test_submit_after_the_gap_is_not_withheld(memory: Objects):
    """A job that was refused after the gap was certainly not in flight in it."""
    found = [
        withheld([_gap(until=START + until)], _refused_at(START)) for until in (-1, 1)
    ]

    assert [one is not None for one in found] == [False, True]


def _gap(until: float):
    return Gap(place="x", first=1, last=1, since=None, until=until, submits=1)


def _refused_at(at: float) -> History:
    history = History().after(Entry(job("a"), at, intended()))
    return history.after(Entry(job("a"), at, Refused("?")))
