"""Rows of Parquet: every entry and every history comes back as it was."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.checkpoint import EVENTS, JOBS
from manifests.checkpoint.rows import (
    INDEX,
    entries,
    event_rows,
    histories,
    index_rows,
    job_rows,
    line_rows,
    made_rows,
    whole,
)
from manifests.lifecycle import (
    Accepted,
    Adjusted,
    Entry,
    Event,
    Generated,
    History,
    Intended,
    Published,
    Ticket,
    fold,
)
from storage.ledger import codec

WHOLE = st.integers(-(2**63), 2**64 - 1)
AMOUNTS = st.decimals(allow_nan=False, allow_infinity=False) | st.decimals(
    "-99", "99", places=4
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
st.register_type_strategy(Decimal, AMOUNTS)
st.register_type_strategy(float, FLOATS)
st.register_type_strategy(int, WHOLE)
st.register_type_strategy(
    Ticket,
    st.builds(Ticket, st.text(), st.text(), st.dictionaries(st.text(), st.text())),
)
LIVES = st.integers(0, 2**128 - 1).map(lambda n: f"{n:032x}")
EVENT = st.one_of([st.from_type(kind) for kind in get_args(Event)])
ENTRIES = st.lists(st.builds(Entry, LIVES, st.floats(0, 4e9), EVENT))
INTENDED = Intended(lane="spicy", route="a/b", price_usd=Decimal("0.1"), seed=1)
KINDS = {line: kind for kind, line in codec.LINES.items()}


def decoded(some):
    return codec.lines(b"".join(map(codec.dump, some)), "here")


@given(ENTRIES)
@settings(deadline=None)
def test_entries_come_back_from_their_rows_in_order(some):
    rows = event_rows(some)

    assert rows.schema == EVENTS
    assert entries(rows) == some


@given(ENTRIES)
@settings(deadline=None)
def test_rows_of_lines_equal_those_of_entries(some):
    """Decoded lines make the rows of their entries, or none if a column cannot hold one."""
    rows = line_rows(decoded(some), KINDS)

    expected = event_rows(some)
    assert (rows is None) == (expected["exact"].null_count() < len(some))
    assert rows is None or rows.equals(expected)


@given(
    st.dictionaries(
        LIVES,
        st.tuples(
            *(
                st.builds(lambda at, event: (at, event), FLOATS, st.from_type(kind))
                for kind in (Intended, Accepted, Generated, Published)
            )
        ),
        min_size=1,
    )
)
@settings(deadline=None)
def test_rows_of_jobs_made_at_once_equal_their_fold(made):
    """Jobs published at their first submit have the rows that their fold has."""
    some = [Entry(job, *step) for job, steps in made.items() for step in steps]
    lines = decoded(some)
    steps = {job: tuple(lines[4 * n : 4 * n + 4]) for n, job in enumerate(made)}

    rows = made_rows(steps)

    expected = job_rows(fold(some))
    assert (rows is None) == (expected["exact"].null_count() < len(made))
    assert rows is None or rows.equals(expected)


@given(st.dictionaries(LIVES, st.from_type(History)))
@settings(deadline=None, max_examples=25)
def test_histories_come_back_from_their_rows(known):
    rows, index = job_rows(known), index_rows(known)

    assert rows.schema == JOBS
    assert index.schema == INDEX
    assert histories(rows) == known
    assert whole(index) == known


def test_what_comes_back_is_of_the_same_types(tmp_path: Path):
    history = History(spent_usd=Decimal("0.30")).after(Entry("ab" * 16, 1.5, INTENDED))
    job_rows({"ab" * 16: history}).write_parquet(tmp_path / "jobs.parquet")

    (told,) = histories(pl.read_parquet(tmp_path / "jobs.parquet")).values()

    assert told.state is history.state
    assert isinstance(told.spent_usd, Decimal)
    assert told.ticket is None
    assert told.facts is None


def test_a_row_is_one_a_person_can_query():
    (row,) = event_rows([Entry("ab" * 16, 1.25, INTENDED)]).rows(named=True)

    assert row["job"] == "ab" * 16
    assert row["at"] == datetime(1970, 1, 1, 0, 0, 1, 250_000, UTC)
    assert row["kind"] == "intended"
    assert row["price_usd"] == Decimal("0.1")
    assert row["exact"] is None


@pytest.mark.parametrize(
    ("usd", "column"),
    [
        ("0.1234567", Decimal("0.123457")),
        ("0.1000000", Decimal("0.1")),
        ("1E+3", Decimal(1000)),
        ("1E+12", None),
        ("1E-30", Decimal(0)),
    ],
)
def test_an_amount_that_no_column_holds_is_kept_beside_it(usd, column):
    entry = Entry("ab" * 16, 1.0, Adjusted(attempt=1, usd=Decimal(usd), reason="?"))

    rows = event_rows([entry])

    assert rows["usd"].to_list() == [column]
    assert entries(rows) == [entry]
    assert rows["exact"].null_count() == (column == Decimal(usd))
