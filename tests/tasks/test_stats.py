"""Money and submits of a run, as sums over the attempts that it made."""

from collections import defaultdict
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.accounting import LaneTotals
from manifests.accounting.attempts import attempts
from manifests.lifecycle import (
    NEW,
    TRANSITIONS,
    Accepted,
    Discarded,
    Doubted,
    Entry,
    Forgotten,
    Generated,
    Intended,
    Parked,
    Published,
    Refused,
    Rejected,
    Risked,
    Ticket,
)
from tasks.dispatch import Budget
from tasks.engine.stats import Tally
from tests.histories import FACTS, intended


def bought(lane, usd):
    return intended(usd, lane=lane, route=f"{lane}/m")


EVENTS = [
    bought("one", "0.15"),
    bought("two", "0.28"),
    Accepted(Ticket("one", "r")),
    Doubted("silent"),
    Risked("allowed"),
    Refused("busy"),
    Discarded("black"),
    Forgotten("restarted"),
    Parked("our own check failed"),
    Rejected("no"),
    Rejected("no", charged=True),
    Generated(),
    Generated(usd=Decimal("0.10")),
    Published("u", FACTS),
]


@st.composite
def ledgers(draw):
    """Some legal sequence of events of a few jobs, a second apart."""
    histories, entries = dict.fromkeys("abc", NEW), []
    for second in range(draw(st.integers(0, 40))):
        job = draw(st.sampled_from("abc"))
        able = TRANSITIONS[histories[job].state]
        events = [event for event in EVENTS if type(event) in able]
        if events:
            entry = Entry(job, float(second), draw(st.sampled_from(events)))
            histories[job] = histories[job].after(entry)
            entries.append(entry)
    return entries


@settings(max_examples=200, deadline=None)
@given(ledgers(), st.integers(0, 40))
def test_run_counts_its_own_attempts_only(ledger, began):
    """The sums of a run are those of the attempts that were intended after it began."""
    tally, expected = Tally(Budget()), defaultdict(LaneTotals)
    for entry in ledger[began:]:
        if isinstance(entry.event, Intended):
            tally.budget.reserve(entry.event.price_usd)
        tally.count(entry, NEW)

    for attempt in attempts(ledger[began:]):
        expected[attempt.lane].count(attempt)
    assert tally.bill.counts() == expected
    assert tally.budget.spent_usd == sum(lane.usd for lane in expected.values())


def test_price_of_another_run_is_not_settled():
    """A refusal of an attempt that an earlier run made gives this run no money."""
    tally = Tally(Budget(Decimal(1)))

    assert tally.count(Entry("a", 1.0, Refused("busy")), NEW) is None

    assert (tally.budget.spent_usd, tally.bill.counts()) == (0, {})


def test_time_of_a_clip_is_from_accepted_to_generated():
    """The median of a lane is of the seconds between acceptance and clip."""
    tally = Tally(Budget())
    for at, event in [(0.0, EVENTS[0]), (5.0, EVENTS[2]), (65.0, Generated())]:
        tally.count(Entry("a", at, event), NEW)

    assert tally.bill["one"].median_s == 60.0
