"""How a root stands is what its entries come to, however little of them is remembered."""

from collections import Counter
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.accounting.totals import Standing
from manifests.lifecycle import (
    NEW,
    OVER,
    TRANSITIONS,
    Accepted,
    Discarded,
    Doubted,
    Entry,
    Facts,
    Generated,
    IllegalTransitionError,
    Intended,
    Published,
    Refused,
    Rejected,
    Risked,
    Settled,
    State,
    Ticket,
    fold,
)
from manifests.output.attempts import attempts

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


def bought(lane, usd="0.15"):
    return Intended(lane=lane, route=f"{lane}/m", price_usd=Decimal(usd), seed=7)


EVENTS = [
    bought("one"),
    bought("two", "0.28"),
    Accepted(Ticket("one", "r")),
    Doubted("silent"),
    Risked("allowed"),
    Refused("busy"),
    Discarded("black"),
    Rejected("no"),
    Rejected("no", charged=True),
    Generated(),
    Generated(usd=Decimal("0.10")),
    Published("u", FACTS),
    Settled(attempt=1, usd=Decimal("-0.05"), reason="refunded"),
    Settled(attempt=2, usd=Decimal("0.02"), reason="billed"),
]


def standing(entries, by=7):
    """As `status` counts them, some at a time."""
    told = Standing()
    parts = [entries[first : first + by] for first in range(0, len(entries), by)]
    for part in parts:
        told.add(part)
    for part in parts:
        told.place(part)
    return told


@st.composite
def ledgers(draw):
    """What may come of a few jobs, in any order."""
    past, entries = dict.fromkeys("abcd", NEW), []
    for at in range(draw(st.integers(0, 60))):
        life = draw(st.sampled_from("abcd"))
        able = TRANSITIONS[past[life].state]
        event = draw(st.sampled_from([e for e in EVENTS if type(e) in able]))
        try:
            past[life] = past[life].after(Entry(life, float(at), event))
        except IllegalTransitionError:
            continue
        entries.append(Entry(life, float(at), event))
    return entries


@settings(max_examples=200, deadline=None)
@given(ledgers())
def test_it_comes_to_what_the_histories_and_the_table_of_attempts_say(entries):
    told, past, rows = standing(entries), fold(entries), [*attempts(entries)]

    assert told.states == Counter(history.state for history in past.values())
    assert told.unplaced == {}
    assert told.spent_usd == sum(history.spent_usd for history in past.values())
    assert told.risks == sum(history.risks for history in past.values())
    assert told.lives == {
        life: history for life, history in past.items() if history.state not in OVER
    }
    lane, cost, accepted, outcome = 2, 10, 14, 11
    for name in ("one", "two"):
        theirs = [row for row in rows if row[lane] == name]
        share = told.lanes[name]
        assert share.spent_usd == sum(row[cost] for row in theirs)
        assert share.accepted == sum(row[accepted] is not None for row in theirs)
        assert share.published == sum(row[outcome] == "published" for row in theirs)


def test_what_is_over_is_not_remembered():
    lived = [bought("one"), Accepted(Ticket("one", "r")), Generated()]
    entries = [
        Entry(f"{job}", 0.0, event)
        for job in range(1000)
        for event in (*lived, Published("u", FACTS))
    ]

    told = standing(entries)

    assert (told.lives, told.unplaced) == ({}, {})
    assert told.states == {State.PUBLISHED: 1000}
