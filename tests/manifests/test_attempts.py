"""The attempts table: every intended submit and its cost, to the cent."""

from decimal import Decimal
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.accounting import Attempts
from manifests.accounting.attempts import attempts as attempts_of
from manifests.lifecycle import (
    OVER,
    Adjusted,
    Discarded,
    Doubted,
    Entry,
    Forgotten,
    Generated,
    Published,
    Refused,
    Rejected,
    Risked,
    fold,
)
from manifests.output import attempts_table
from manifests.output.attempts import ATTEMPTS, KEY, frame
from tests.histories import ACCEPTED, FACTS, intended, ledger_entries

PRICE = Decimal("0.15")
INTENDED = intended(PRICE)
PUBLISHED = Published("u", FACTS)


def refund(attempt=1, usd="-0.15"):
    return Adjusted(attempt=attempt, usd=Decimal(usd), reason="refunded")


@pytest.fixture
def attempts(tmp_path):
    """The attempts table of these entries."""

    def table(*entries, before=None):
        path = tmp_path / "attempts.parquet"
        with attempts_table(path, Attempts(before)) as add:
            add(entries)
        return pl.read_parquet(path)

    return table


def test_every_attempt_is_a_row_that_says_what_came_of_it(attempts):
    table = attempts(
        *ledger_entries(
            "j",
            *(INTENDED, Refused("busy")),
            *(INTENDED, Doubted("ReadTimeout"), Risked("allowed")),
            *(INTENDED, ACCEPTED, Generated(), Discarded("black")),
            *(INTENDED, ACCEPTED, Forgotten("restarted")),
            *(INTENDED, ACCEPTED, Generated(8), PUBLISHED),
        )
    )

    told = table.select("attempt", "outcome", "charged", "reason", "remote_id", "seed")
    assert told.rows() == [
        (1, "refused", False, "busy", None, 7),
        (2, "risked", None, "allowed", None, 7),
        (3, "discarded", True, "black", "remote-1", 7),
        (4, "forgotten", True, "restarted", "remote-1", 7),
        (5, "published", True, None, "remote-1", 8),
    ]
    assert table["charged_usd"].to_list() == [0, PRICE, PRICE, PRICE, PRICE]
    assert table["provider"].to_list() == ["wavespeed"] * 5
    assert table["ended_at"].null_count() == 0


@pytest.mark.parametrize(
    ("event", "charged", "cost"),
    [
        (Rejected("content policy"), False, Decimal(0)),
        (Rejected("content policy", charged=True), True, PRICE),
    ],
)
def test_a_rejection_costs_what_the_provider_takes_for_it(
    attempts, event, charged, cost
):
    table = attempts(*ledger_entries("j", INTENDED, ACCEPTED, event))

    told = table.select("outcome", "charged", "charged_usd")
    assert told.rows() == [("rejected", charged, cost)]


@pytest.mark.parametrize("doubts", [(), (Doubted("ReadTimeout"),)])
def test_attempt_in_doubt_counts_as_spent(attempts, doubts):
    """Nobody knows whether an attempt in doubt was charged; its price counts as spent."""
    table = attempts(*ledger_entries("j", INTENDED, *doubts))

    told = table.select("outcome", "charged", "charged_usd", "reason", "ended_at")
    reason = doubts[0].reason if doubts else None
    assert told.rows() == [("in_doubt", None, PRICE, reason, None)]


def test_what_is_settled_after_an_attempt_is_in_its_row(attempts):
    table = attempts(
        *ledger_entries(
            "j",
            *(INTENDED, ACCEPTED, Discarded("black")),
            *(INTENDED, ACCEPTED, Generated(), PUBLISHED),
            refund(1),
            refund(2, "-0.05"),
            refund(2, "0.01"),
        )
    )

    told = table.select("attempt", "outcome", "charged", "charged_usd", "reason")
    assert told.rows() == [
        (1, "discarded", False, Decimal(0), "black; refunded"),
        (2, "published", True, Decimal("0.11"), "refunded; refunded"),
    ]


def test_settled_risk_is_known_to_be_charged_or_not(attempts):
    """A correction of a risked attempt states whether it was charged."""
    free = ledger_entries("a", INTENDED, Doubted("?"), Risked("allowed"), refund())
    dear = ledger_entries(
        "b", INTENDED, Doubted("?"), Risked("allowed"), refund(usd="0")
    )

    told = attempts(*free, *dear).select("job", "charged", "charged_usd")

    assert told.rows() == [("a", False, Decimal(0)), ("b", True, PRICE)]


def test_a_ledger_with_nothing_in_it_leaves_an_empty_table(attempts):
    assert attempts().schema == ATTEMPTS
    assert attempts().height == 0


def test_attempt_is_in_the_table_of_the_batch_that_ended_it(attempts):
    """An attempt that ended in an earlier batch is in that batch's table only."""
    monday = [Entry("a", 1.0, INTENDED), Entry("a", 2.0, Refused("busy"))]
    tuesday = [Entry("a", 11.0, INTENDED), Entry("a", 12.0, ACCEPTED)]

    (row,) = attempts(*tuesday, before=fold(monday)).rows(named=True)

    assert (row["attempt"], row["outcome"]) == (2, "accepted")


def test_attempt_of_an_earlier_batch_changes_in_its_own_table(tmp_path):
    """A batch that ends an earlier batch's attempt has no row for it, and returns it."""
    monday = [Entry("a", 1.0, INTENDED), Entry("a", 2.0, ACCEPTED)]
    tuesday = [Entry("a", 11.0, Generated()), Entry("a", 12.0, PUBLISHED)]
    path = tmp_path / "attempts.parquet"

    with attempts_table(path, Attempts(fold(monday))) as add:
        changed = add(tuesday)

    assert pl.read_parquet(path).is_empty()
    assert changed == [*attempts_of([*monday, *tuesday])]


def test_it_does_not_matter_in_what_pieces_a_night_is_read(tmp_path):
    path, count = tmp_path / "attempts.parquet", 20_001
    entries = [Entry(f"{n:05}", 1.0, INTENDED) for n in range(count)]
    entries += [Entry(f"{n:05}", 2.0, Refused("busy")) for n in range(count)]

    with attempts_table(path, Attempts()) as add:
        for first in range(0, len(entries), 7_000):
            add(entries[first : first + 7_000])
        add([Entry("00003", 3.0, refund(usd="0.05"))])

    table = pl.read_parquet(path)
    assert table["job"].to_list() == [f"{n:05}" for n in range(count)]
    assert table["charged_usd"].sum() == Decimal("0.05")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cost_of_attempts_is_what_jobs_have_spent(tmp_path_factory, lives_of, data):
    """The attempts of all tables cost, to the cent, what the jobs have spent."""
    path = tmp_path_factory.mktemp("nights") / "attempts.parquet"
    entries = data.draw(lives_of(["a", "b"]))
    whole = frame(attempts_of(entries))
    assert whole.height == sum(each.attempts for each in fold(entries).values())
    assert whole["charged_usd"].sum() == sum(
        each.spent_usd for each in fold(entries).values()
    )

    # Settlements arrive between two nights; `settling` tests them.
    nights = [entry for entry in entries if not isinstance(entry.event, Adjusted)]
    begins = {*data.draw(st.lists(st.integers(0, len(nights)), max_size=3))}
    bounds = sorted({0, len(nights), *begins})
    tables, rows = [], {}
    for begin, end in pairwise(bounds):
        earlier = fold(nights[:begin])
        alive = {life: each for life, each in earlier.items() if each.state not in OVER}
        with attempts_table(path, Attempts(alive)) as add:
            changed = add(nights[begin:end])
        tables.append(pl.read_parquet(path))
        rows |= {(each.job, each.number): each for each in changed}

    every = frame(attempts_of(nights))
    told = pl.concat([every.clear(), *tables])
    assert told.select(KEY).is_unique().all()
    told = told.update(frame(rows.values()), on=KEY, include_nulls=True)
    assert told.sort(KEY).equals(every.sort(KEY))
