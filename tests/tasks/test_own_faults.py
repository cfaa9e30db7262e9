"""Our own code fails on paid clips: they are kept, and the buying stops."""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from itertools import count

import pytest

from flows.batch import state_of
from flows.commands import status
from manifests.lifecycle import (
    Facts,
    History,
    Parked,
    Published,
    State,
)
from storage.ledger import read
from storage.media import BrokenClipError, mp4
from storage.objects import Objects
from tasks.dispatch import RateLimiter
from tasks.emulator import Emulator, Fault, running
from tasks.engine.engine import Rules
from tasks.engine.own_faults import IN_A_ROW, OwnFaultError, OwnFaults, explained, ours
from tasks.providers.http import Endpoint
from tasks.reconcile import opened
from tests.tasks.test_coordinator import away, over

pytestmark = pytest.mark.anyio

ATLAS, KLING = "atlas/wan-2.2-spicy", "kling/kling-2.5-turbo"
SPICY = "wavespeed/wan-2.2-spicy"
SLOTS = 2
MOST = SLOTS + IN_A_ROW + 2
"""Clips that a broken check may cost.

These are the row, the clips in progress when it is full, and a few that were ready but
unchecked. Kling refuses more than its slots at once.
"""
FAULT = "our own check of the clip failed: TypeError: no such parameter"
AGAIN = "it is paid for and is tried again by the next run"
FACTS = Facts(
    sha256="ab", bytes=1, seconds=1.0, fps=16.0, width=1, height=1, codec="c", frames=16
)
PUBLISHED = Published("file:///clip.mp4", FACTS)


def broken(data, *, decode):
    """Fails as the check did when a release of PyAV had dropped a parameter."""
    raise TypeError("no such parameter")


def odd(data, *, decode):
    """Finds a codec that no sidecar can hold."""
    return replace(mp4.check(data, decode=decode), codec=object())


def broken_for(numbers):
    """A check that fails on the clips with these numbers, in order of arrival."""
    coming = count(1)

    def check(data, *, decode):
        if next(coming) in numbers:
            raise TypeError("no such parameter")
        return mp4.check(data, decode=decode)

    return check


@pytest.fixture
def kling(worlds, clip):
    emulator = Emulator(
        latency_s=0.4, slots=SLOTS, submits_per_minute=100000, clip=clip
    )
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=[KLING], slots=SLOTS)


def failing(lane, error):
    """The lane, with an adapter that raises this at each poll."""
    known = lane.endpoint.provider

    class Failing(type(known)):
        def poll(self, ticket):
            yield from ()
            raise error

    lane.endpoint = Endpoint(Failing(known.route, known.key), lane.endpoint.base_url)
    return lane


def root(world):
    return (world.folder / "root").as_uri()


async def parked(world):
    entries = await read(Objects.open(root(world)))
    return [entry for entry in entries if isinstance(entry.event, Parked)]


async def test_broken_check_stops_buying_and_loses_nothing(kling):
    """A batch whose check fails buys few clips; the next one publishes them, and buys
    only the rest."""
    manifest = kling.manifest(12)
    kling.check = broken
    first = await kling.run(manifest)
    bought = sum(kling.bought.values())

    kling.check = mp4.check
    second = await kling.run(manifest)

    assert (first.published, first.pending, first.bought) == (0, 12, bought)
    assert IN_A_ROW <= bought <= MOST
    assert (second.published, second.bought, second.exit_code) == (12, 12 - bought, 0)
    assert set(kling.bought.values()) == {1}
    assert (second.broken, second.fault) == ({}, None)
    assert first.spent_usd + second.spent_usd == kling.owed


async def test_broken_check_is_reported_in_plain_words(kling):
    """The summary, the exit code, the tables and the status name the fault."""
    kling.check = broken
    summary = await kling.run(12)

    [(reason, jobs)] = summary.broken.items()
    assert reason.startswith(f"{FAULT} (")
    assert reason.endswith(f".py); {AGAIN}")
    assert jobs == summary.bought
    assert summary.exit_code == 4
    assert summary.fault is not None
    assert reason in summary.fault
    assert "no such parameter" in summary.lanes_closed["kling"]
    clips = kling.table("clips")
    assert Counter(clips["state"]) == {"pending": 12 - jobs, "generated": jobs}
    assert all("no such parameter" in why for why in clips["reason"])
    assert {*clips.filter(state="generated")["reason"]} == {reason}
    assert kling.table("left").height == 12
    state = state_of(summary, stopped=None, broken=jobs)
    assert (state.type.value, state.name) == ("FAILED", "Broken")
    assert "no such parameter" in state.message


async def test_status_reports_parked_clips(kling, capsys):
    """`nightreel status` gives the reason from the ledger alone."""
    kling.check = broken
    summary = await kling.run(12)
    [(reason, jobs)] = summary.broken.items()

    place = str(kling.folder / "root")
    await asyncio.to_thread(status.status, place, as_json=True)
    plain = json.loads(capsys.readouterr().out)
    await asyncio.to_thread(status.status, place)
    shown = " ".join(capsys.readouterr().out.split())

    assert plain["parked"] == {reason: jobs}
    assert f"{jobs} clips not kept: {reason}" in shown


async def test_rows_never_started_give_the_reason(kling):
    """Shards that were never started name the fault, too."""
    kling.check = broken
    summary = await kling.run(40, shard_rows=10)

    why = kling.batch_runs[-1].without_clip()
    assert summary.pending == 40
    assert all("no such parameter" in reason for _, reason in why.jobs)


async def test_next_run_that_is_still_broken_buys_few(kling):
    """Parked clips count as a row that is one short.

    The first new clip that fails stops the buying, and nothing is recorded twice.
    """
    manifest = kling.manifest(12)
    kling.check = broken
    await kling.run(manifest)
    before, recorded = sum(kling.bought.values()), len(await parked(kling))

    again = await kling.run(manifest)

    assert again.bought <= SLOTS + 3
    assert again.exit_code == 4
    assert len(await parked(kling)) - recorded == again.bought
    assert sum(kling.bought.values()) == before + again.bought
    assert set(kling.bought.values()) == {1}


async def test_few_failures_among_good_clips_stop_nothing(kling):
    """A clip on which our code fails is parked, and the others are bought."""
    kling.check = broken_for({2, 4, 6})
    manifest = kling.manifest(12)
    first = await kling.run(manifest)

    second = await kling.run(manifest)

    assert (first.published, first.pending, first.exit_code) == (9, 3, 1)
    assert first.fault is None
    assert sum(first.broken.values()) == 3
    assert (second.published, second.bought) == (12, 0)


async def test_bad_clip_of_the_provider_is_no_fault_of_ours(kling):
    """A clip that is broken itself ends its row, and is never bought again."""
    kling.rules = Rules(max_failure_rate=1.0)

    def check(data, *, decode):
        raise BrokenClipError("damaged: 3 of 80 frames", whole=True)

    kling.check = check
    summary = await kling.run(5)

    assert (summary.published, summary.unplayable, summary.fault) == (0, 5, None)
    assert summary.broken == {}
    assert not await parked(kling)
    assert [*kling.bought.values()] == [1] * 5


async def test_unforeseen_exception_in_an_adapter_stops_its_lane(worlds, emulator):
    """A lane whose adapter fails on polls is closed; the other lane makes the rest."""
    emulator.slots = SLOTS
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS, SPICY], slots=SLOTS)
        stumbling = failing(world.lane(ATLAS), RecursionError("too deep"))
        lanes = [stumbling, world.lane(SPICY)]
        manifest = world.manifest(24)
        first = await world.run(manifest, lanes=lanes)
        bought = sum(world.bought.values())
        second = await world.run(manifest)

    assert first.pending >= IN_A_ROW
    assert first.published + first.pending == 24
    assert [*first.lanes_closed] == ["atlas"]
    assert "RecursionError: too deep" in first.lanes_closed["atlas"]
    assert (bought, second.published, second.bought) == (24, 24, 0)
    assert set(world.bought.values()) == {1}


async def test_unreadable_answers_until_the_deadline_are_ours(kling):
    """A job whose answers are unreadable is parked at its deadline, with the reason."""
    kling.rules = Rules(deadline_s=0.5)
    lane = failing(kling.lane(KLING), KeyError("task_status"))
    summary = await kling.run(12, lanes=[lane])
    bought = sum(kling.bought.values())

    kling.rules = Rules()
    second = await kling.run(12)

    assert (summary.published, summary.exit_code) == (0, 4)
    [reason] = summary.broken
    assert reason.startswith("our own reading of the provider's answers failed: ")
    assert "KeyError: 'task_status'" in reason
    assert bought <= MOST
    assert (second.published, second.bought) == (12, 12 - bought)
    assert set(kling.bought.values()) == {1}


async def test_one_unreadable_answer_after_the_deadline_is_not_ours(kling):
    """The first poll of an old job may meet a word that is new: the next run asks again."""
    kling.emulator.faults["pan 0"] = [Fault.STUCK]
    kling.rules = Rules(deadline_s=0.2)
    await kling.run(1)

    lane = failing(kling.lane(KLING), KeyError("task_status"))
    summary = await kling.run(1, lanes=[lane])

    assert (summary.pending, summary.broken) == (1, {})
    assert {*kling.bought.values()} == {1}


async def test_submits_whose_answers_cannot_be_read_stop(worlds, emulator):
    """Jobs that are accepted without a ticket are in doubt: few are bought."""
    for number in range(12):
        emulator.faults[f"pan {number}"] = [Fault.MALFORMED_ACCEPT]
    with running(emulator) as url:
        # A doubt holds its slot for as long as a clip takes.
        world = worlds(emulator=emulator, url=url, routes=[ATLAS], slots=IN_A_ROW + 1)
        summary = await world.run(12)

    bought = sum(world.bought.values())
    assert IN_A_ROW <= bought <= IN_A_ROW + 1
    assert (summary.in_doubt, summary.published) == (bought, 0)
    assert summary.exit_code == 4
    assert summary.fault is not None
    assert "could not read the answers to" in summary.fault
    assert set(world.bought.values()) == {1}


async def test_own_failure_after_a_submit_leaves_a_doubt(worlds, emulator):
    """A job on which our code fails before the ticket is recorded is not sent again."""

    class Failing(RateLimiter):
        def accepted(self, now):
            super().accepted(now)
            raise ZeroDivisionError

    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ATLAS], slots=IN_A_ROW + 1)
        lane = world.lane(ATLAS)
        lane.limiter = Failing(lane.limits)
        summary = await world.run(30, lanes=[lane])

    # Its slot is free at once: a few more are sent before the first are recorded.
    assert IN_A_ROW <= summary.in_doubt == sum(world.bought.values()) <= 12
    assert summary.exit_code == 4
    assert summary.fault is not None
    assert "ZeroDivisionError (tasks/engine/submit.py)" in summary.fault


async def test_sidecar_that_cannot_be_written_parks_the_clip(kling):
    """A failure between the MP4 and its sidecar is ours: the next run keeps both."""
    kling.check = odd
    manifest = kling.manifest(3)
    first = await kling.run(manifest)

    kling.check = mp4.check
    second = await kling.run(manifest)

    [reason] = first.broken
    assert first.published == 0
    assert reason.startswith("our own keeping of the clip failed: ")
    assert (second.published, second.bought) == (3, 0)
    assert len([*(kling.folder / "root" / "clips").rglob("*.json")]) == 3


async def test_poster_that_fails_keeps_no_clip_off_the_record(kling):
    """A clip is published before it is shown, even if showing it fails."""

    def show(job, clip, sidecar):
        raise ZeroDivisionError

    summary = await kling.run(
        3, during=lambda batch_run: batch_run.engine.on_published(show)
    )

    assert (summary.published, summary.broken) == (3, {})


async def test_clips_of_an_earlier_batch_are_parked_too(kling):
    """A batch of other rows reports the clips that it cannot keep, and stops buying."""
    kling.check = broken
    await kling.run(kling.manifest(6, "monday"))
    owed = sum(kling.bought.values())
    tuesday = [{"prompt": f"tilt {n}"} for n in range(8)]

    second = await kling.run(kling.manifest(tuesday, "tuesday"))
    kling.check = mp4.check
    third = await kling.run(kling.manifest(tuesday, "tuesday"))

    assert second.exit_code == 4
    assert second.bought <= SLOTS + 3
    assert sum(second.broken.values()) == owed + second.bought
    assert third.published == 8
    assert kling.batch_runs[-1].engine.tally.fetched == owed
    assert set(kling.bought.values()) == {1}


async def test_reconcile_reports_parked_clips(kling):
    """`nightreel reconcile` names the clips it could not keep, and keeps them later."""
    kling.check = broken
    await kling.run(1)
    told = []
    for lane in (
        failing(kling.lane(KLING), RecursionError("too deep")),
        kling.lane(KLING),
    ):
        async with opened(
            root(kling), lanes=[lane], rules=kling.rules
        ) as reconciliation:
            await reconciliation.fetch()
        told.append(reconciliation.told)

    [reason] = told[0].parked
    assert "RecursionError: too deep" in reason
    assert [(one.fetched, sum(one.parked.values())) for one in told] == [(0, 1), (1, 0)]


@pytest.mark.timeout(900)
async def test_fault_in_shards_elsewhere_stops_the_batch(kling):
    """Shards in other processes report the fault: no shard buys any more."""
    kling.check = broken
    async with away(kling, 24, shard_rows=6) as (batch_run, _):
        await over(batch_run)
        summary = batch_run.summary()
    bought = sum(kling.bought.values())
    kling.check = mp4.check
    async with away(kling, 24, shard_rows=6) as (batch_run, _):
        await over(batch_run)
        again = batch_run.summary()

    assert (summary.published, summary.exit_code) == (0, 4)
    assert summary.fault is not None
    assert "no such parameter" in summary.fault
    # Kling has two slots for all shards; each shard may see a whole row.
    assert bought <= MOST + 3
    assert (again.published, again.bought) == (24, 24 - bought)
    assert set(kling.bought.values()) == {1}


@pytest.mark.timeout(900)
async def test_faults_of_small_shards_are_one_row(kling):
    """Shards that are too small for a whole row stop the batch together."""
    kling.check = broken
    async with away(kling, 12, shard_rows=1) as (batch_run, _):
        await over(batch_run, at_once=1)
        summary = batch_run.summary()

    assert (summary.published, summary.exit_code) == (0, 4)
    assert sum(kling.bought.values()) == IN_A_ROW


LANE, OTHER = "kling", "atlas"


def history(lane, *, parks=1, state=State.GENERATED):
    return History(state=state, lane=lane, parks=parks, reason="no")


def test_row_of_one_lane_stops_that_lane():
    """Another lane's code may work."""
    faults = OwnFaults()
    for _ in range(IN_A_ROW):
        faults.count(Parked("no"), history(LANE))

    assert faults.why_stop(LANE) is not None
    assert faults.why_stop(OTHER) is None


def test_row_of_two_lanes_stops_all():
    """A failure on every lane is not one lane's adapter."""
    faults = OwnFaults()
    for lane in (LANE, OTHER, LANE):
        faults.count(Parked("no"), history(lane))

    assert faults.why_stop("a third") is not None


def test_publication_of_another_lane_clears_no_lanes_row():
    """A lane none of whose clips is kept stops, even if the others work."""
    faults = OwnFaults()
    for _ in range(IN_A_ROW):
        faults.count(Parked("no"), history(LANE))
        faults.count(PUBLISHED, history(OTHER, parks=0, state=State.PUBLISHED))

    assert faults.why_stop(LANE) is not None
    assert faults.why_stop(OTHER) is None


def test_publication_begins_a_new_row():
    """The count of failures restarts at each publication."""
    faults = OwnFaults()
    for _ in range(2 * IN_A_ROW):
        faults.count(Parked("no"), history(LANE))
        faults.count(PUBLISHED, history(LANE, parks=0, state=State.PUBLISHED))

    assert faults.why_stop(LANE) is None


def test_clips_that_fail_in_every_run_stop_nothing_alone():
    """Old clips that stay parked are one short of a row; a new parked clip fills it."""
    faults = OwnFaults()
    faults.recall([history(LANE)] * 10)
    for _ in range(10):
        faults.count(Parked("no"), history(LANE, parks=2))
    before = faults.why_stop(LANE)
    faults.count(Parked("no"), history(LANE))

    assert before is None
    assert faults.why_stop(LANE) is not None


def test_reason_names_part_type_message_and_module():
    """The named module is our deepest one, not the library's below it."""
    with (
        pytest.raises(OwnFaultError) as caught,
        ours("our own check of the clip", BrokenClipError),
    ):
        mp4.check(None, decode=True)  # pyright: ignore[reportArgumentType]

    assert explained(caught.value) == (
        "our own check of the clip failed: TypeError: object of type 'NoneType' has no "
        "len() (storage/media/mp4.py)"
    )


def test_reason_quotes_no_signature():
    """A link in an exception's message loses its query, which may be signed."""
    error = ValueError("cannot read 'https://cdn.example/a.mp4?X-Signature=abc'\n")

    assert explained(error) == (
        "our own code failed: ValueError: cannot read 'https://cdn.example/a.mp4'"
    )
