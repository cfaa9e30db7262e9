"""Attempts and their totals: what each submit cost, and the sums over them."""

from collections import Counter, defaultdict, deque
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.accounting import Attempts, LaneTotals, LedgerTotals, Outcome
from manifests.accounting.attempts import attempts
from manifests.lifecycle import (
    OVER,
    Accepted,
    Adjusted,
    Discarded,
    Doubted,
    Forgotten,
    Generated,
    Intended,
    Parked,
    Published,
    Refused,
    Rejected,
    Risked,
    State,
    Ticket,
    Unplayable,
    fold,
)
from tests.histories import FACTS, START, ledger_entries

PRICE = Decimal("0.28")
INTENDED = Intended(lane="kling", route="kling/kling-1.6", price_usd=PRICE, seed=1)
ACCEPTED = Accepted(Ticket("kling", "t-1"))
PUBLISHED = Published("u", FACTS)
JOBS = ["a", "b", "c"]


def totals_of(ledger, by=7):
    """The totals of a ledger that is read some entries at a time."""
    totals = LedgerTotals()
    parts = [ledger[first : first + by] for first in range(0, len(ledger), by)]
    for part in parts:
        totals.add(part)
    for part in parts:
        totals.add_adjustments(part)
    return totals


def without_adjustments(ledger):
    return [entry for entry in ledger if not isinstance(entry.event, Adjusted)]


@pytest.mark.parametrize(
    ("events", "outcome", "charged", "cost_usd"),
    [
        ((), "in_doubt", None, PRICE),
        ((Doubted("silence"),), "in_doubt", None, PRICE),
        ((Doubted("silence"), Risked("allowed")), "risked", None, PRICE),
        ((Refused("busy"),), "refused", False, 0),
        ((Rejected("no"),), "rejected", False, 0),
        ((Rejected("no", charged=True),), "rejected", True, PRICE),
        ((ACCEPTED, Generated(), Unplayable("page")), "unplayable", True, PRICE),
        ((ACCEPTED,), "accepted", True, PRICE),
        ((ACCEPTED, Refused("busy")), "refused", False, 0),
        ((ACCEPTED, Rejected("no")), "rejected", False, 0),
        ((ACCEPTED, Discarded("black")), "discarded", True, PRICE),
        ((ACCEPTED, Forgotten("restart")), "forgotten", True, PRICE),
        ((ACCEPTED, Parked("a bug")), "accepted", True, PRICE),
        ((ACCEPTED, Generated()), "generated", True, PRICE),
        ((ACCEPTED, Generated(usd=Decimal("0.2"))), "generated", True, Decimal("0.2")),
        ((ACCEPTED, Generated(), PUBLISHED), "published", True, PRICE),
        ((ACCEPTED, Generated(), Discarded("black")), "discarded", True, PRICE),
    ],
)
def test_attempt_outcome_and_cost(events, outcome, charged, cost_usd):
    """Each sequence of events gives one outcome, one charge and one cost."""
    [attempt] = attempts(ledger_entries("j", INTENDED, *events))

    assert (attempt.outcome, attempt.charged) == (outcome, charged)
    assert (attempt.price_usd, attempt.cost_usd) == (PRICE, cost_usd)


def test_attempt_records_ticket_seed_and_times():
    """An attempt has the ticket, the seed and the time of each of its events."""
    made = Generated(seed=9, stages='{"decode": 2}')
    [attempt] = attempts(
        ledger_entries("j", INTENDED, Doubted("?", "silent"), ACCEPTED, made)
    )

    assert (attempt.ticket, attempt.seed) == (ACCEPTED.ticket, 9)
    assert (attempt.stages, attempt.reason, attempt.lost) == (made.stages, None, None)
    times = (attempt.submitted_at, attempt.accepted_at, attempt.generated_at)
    assert times == (START, START + 2, START + 3)
    assert attempt.ended_at is None


def test_next_attempt_starts_afresh():
    """An attempt takes nothing from the one before it but its number."""
    first, second = attempts(
        ledger_entries(
            "j", INTENDED, ACCEPTED, Generated(9), Discarded("black"), INTENDED
        )
    )

    assert (first.number, second.number) == (1, 2)
    assert (first.reason, first.ended_at) == ("black", START + 3)
    assert (second.ticket, second.reason, second.seed) == (None, None, 1)
    assert (second.accepted_at, second.generated_at) == (None, None)


def test_adjustment_is_part_of_the_cost():
    """A refund after the end of an attempt leaves it uncharged, with both reasons."""
    refund = Adjusted(attempt=1, usd=-PRICE, reason="refunded")

    [attempt] = attempts(
        ledger_entries("j", INTENDED, ACCEPTED, Discarded("black"), refund)
    )

    assert (attempt.cost_usd, attempt.charged) == (0, False)
    assert (attempt.reason, attempt.ended_at) == ("black; refunded", START + 2)


@pytest.mark.parametrize("usd", [None, Decimal("0.2")])
def test_attempt_records_the_bill_of_its_clip(usd):
    """An attempt has the charge that the provider stated, to its end; else none."""
    [attempt] = attempts(
        ledger_entries("j", INTENDED, ACCEPTED, Generated(usd=usd), PUBLISHED)
    )

    assert attempt.billed_usd == usd


@pytest.mark.parametrize(
    ("events", "counted"),
    [
        ((Refused("busy"),), "free"),
        ((Rejected("no"),), "free"),
        ((Rejected("no", charged=True),), "lost"),
        ((ACCEPTED, Discarded("black")), "lost"),
        ((ACCEPTED, Forgotten("restart")), "lost"),
        ((ACCEPTED, Generated(), Unplayable("page")), "lost"),
        ((Doubted("silence"), Risked("allowed")), "risked"),
        ((ACCEPTED, Generated(), PUBLISHED), "clips"),
    ],
)
def test_ended_attempt_is_counted_by_its_outcome_and_charge(events, counted):
    """A charged attempt without a clip is lost; one without a charge is free."""
    total = totals_of(ledger_entries("j", INTENDED, *events)).lanes["kling"]

    kinds = ("clips", "free", "lost", "risked")
    assert [each for each in kinds if getattr(total, each)] == [counted]
    assert getattr(total, counted) == total.submits == 1


def test_attempt_without_a_beginning_is_left_out():
    """Events of an attempt that began before the first entry give no attempt."""
    assert [*attempts(ledger_entries("j", ACCEPTED, Refused("busy")))] == []
    [attempt] = attempts(ledger_entries("j", ACCEPTED, Refused("busy"), INTENDED))
    assert attempt.number == 1


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_cost_of_attempts_is_what_jobs_spent(lives_of, data):
    """The attempts of a job are as many, and cost as much, as its history says."""
    ledger = data.draw(lives_of(JOBS))

    spent, count = defaultdict(Decimal), Counter()
    for attempt in attempts(ledger):
        spent[attempt.job] += attempt.cost_usd
        count[attempt.job] += 1

    for job, history in fold(ledger).items():
        assert (count[job], spent[job]) == (history.attempts, history.spent_usd)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_last_attempt_agrees_with_history(lives_of, data):
    """The last attempt of a job has the fields that the job's history has of it."""
    ledger = data.draw(lives_of(JOBS))
    last = {each.job: each for each in attempts(without_adjustments(ledger))}

    for job, history in fold(ledger).items():
        attempt = last[job]
        assert attempt.state == history.state
        assert (attempt.number, attempt.lane) == (history.attempts, history.lane)
        assert (attempt.route, attempt.seed) == (history.route, history.seed)
        assert (attempt.mark, attempt.ticket) == (history.mark, history.ticket)
        assert (attempt.reason, attempt.lost) == (history.reason, history.lost)
        assert (attempt.stages, attempt.parks) == (history.stages, history.parks)
        assert attempt.submitted_at == history.submitted_at
        assert attempt.accepted_at == history.accepted_at
        assert attempt.generated_at == history.generated_at
        assert attempt.charged is False or attempt.cost_usd == history.price_usd


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_adjustments_change_only_money(lives_of, data):
    """Adjustments change the cost of an attempt, its charge and its reason only."""
    ledger = data.draw(lives_of(JOBS))
    adjusted = defaultdict(Decimal)
    for entry in ledger:
        if isinstance(entry.event, Adjusted):
            adjusted[entry.job, entry.event.attempt] += entry.event.usd

    pairs = zip(attempts(ledger), attempts(without_adjustments(ledger)), strict=True)

    for after, before in pairs:
        cost_usd = before.cost_usd + adjusted[before.job, before.number]
        assert after.cost_usd == cost_usd
        kept = {"charged": before.charged, "reason": before.reason}
        assert after._replace(**kept, cost_usd=before.cost_usd) == before


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_adjustments_may_come_in_any_order(lives_of, data):
    """The cost of an attempt is the same whenever its adjustments are recorded."""
    ledger = data.draw(lives_of(JOBS))
    late = [entry for entry in ledger if isinstance(entry.event, Adjusted)]
    shuffled = [*without_adjustments(ledger), *data.draw(st.permutations(late))]

    costs = {(each.job, each.number): each.cost_usd for each in attempts(ledger)}

    for each in attempts(shuffled):
        assert each.cost_usd == costs[each.job, each.number]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_jobs_do_not_affect_each_other(lives_of, data):
    """The attempts of a job depend on its own entries only, however they are mixed."""
    ledger = data.draw(lives_of(JOBS))
    queues = defaultdict(deque)
    for entry in ledger:
        queues[entry.job].append(entry)
    order = data.draw(st.permutations([entry.job for entry in ledger]))
    mixed = [queues[job].popleft() for job in order]

    for job in JOBS:
        alone = attempts(entry for entry in ledger if entry.job == job)
        assert [each for each in attempts(mixed) if each.job == job] == [*alone]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_fold_resumes_from_histories(lives_of, data):
    """A fold that starts from histories ends as one over all entries does."""
    ledger = without_adjustments(data.draw(lives_of(JOBS)))
    cut = data.draw(st.integers(0, len(ledger)))
    histories = {
        job: history
        for job, history in fold(ledger[:cut]).items()
        if history.state not in OVER
    }
    whole, resumed = Attempts(), Attempts(histories)

    for number, entry in enumerate(ledger):
        expected = whole.add(entry)
        if number >= cut:
            attempt = resumed.add(entry)
            # A history has the provider's price in place of the listed one.
            prices = {"price_usd": None, "billed_usd": None}
            assert attempt._replace(**prices) == expected._replace(**prices)

    assert resumed.under_way.keys() == whole.under_way.keys()
    assert resumed.pending == whole.pending


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_totals_are_sums_over_attempts(lives_of, data):
    """The totals of each lane are those of its attempts, with their adjustments."""
    ledger = data.draw(lives_of(JOBS))
    expected = defaultdict(LaneTotals)
    for attempt in attempts(without_adjustments(ledger)):
        expected[attempt.lane].count(attempt)
    cost = defaultdict(Decimal)
    for attempt in attempts(ledger):
        cost[attempt.lane] += attempt.cost_usd

    totals = totals_of(ledger, by=data.draw(st.integers(1, 9)))

    for lane, total in expected.items():
        total.usd = cost[lane]
    assert dict(totals.lanes) == dict(expected)
    assert totals.adjustments == {}
    assert totals.every_lane.usd == sum(cost.values())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_totals_count_jobs_by_state(lives_of, data):
    """Jobs are counted by the states of their histories; those under way are kept."""
    ledger = data.draw(lives_of(JOBS))
    histories = fold(ledger)

    totals = totals_of(ledger)

    assert totals.states == Counter(each.state for each in histories.values())
    busy = {State.IN_DOUBT, State.ACCEPTED, State.GENERATED}
    assert totals.under_way.keys() == {
        job for job, history in histories.items() if history.state in busy
    }


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_unplaced_adjustments_count_in_all_lanes(lives_of, data):
    """Before the second pass finds their lanes, adjustments are part of the grand total."""
    ledger = data.draw(lives_of(JOBS))
    totals = LedgerTotals()

    totals.add(ledger)

    assert totals.every_lane.usd == sum(each.cost_usd for each in attempts(ledger))


def test_ended_jobs_are_not_kept_in_memory():
    """A job that is over leaves nothing in memory but a count."""
    lived = [INTENDED, ACCEPTED, Generated(), PUBLISHED]
    ledger = [each for n in range(1000) for each in ledger_entries(f"{n}", *lived)]

    totals = totals_of(ledger)

    assert (dict(totals.under_way), totals.adjustments) == ({}, {})
    assert totals.states == {State.PUBLISHED: 1000}
    assert totals.lanes["kling"].clips == 1000


@pytest.mark.parametrize("outcome", Outcome)
def test_a_lane_counts_each_outcome_once(outcome):
    """An attempt that has ended counts under exactly one heading."""
    charged = {"refused": False, "risked": None}.get(outcome, True)
    ended_at = None if outcome in {"in_doubt", "accepted", "generated"} else 1.0
    [attempt] = attempts(ledger_entries("j", INTENDED))
    lane = LaneTotals()

    lane.count(attempt._replace(outcome=outcome, charged=charged, ended_at=ended_at))

    headings = lane.clips + lane.free + lane.lost + lane.risked
    assert (lane.submits, headings) == (1, 0 if ended_at is None else 1)


def test_counting_and_taking_away_cancel_out():
    """A sum from which each attempt is taken away again is empty."""
    lane, events = LaneTotals(), (INTENDED, ACCEPTED, Refused("busy"), INTENDED)
    found = [*attempts(ledger_entries("j", *events))]
    for times in (1, -1):
        for attempt in found:
            lane.count(attempt, times)

    assert lane == LaneTotals()
