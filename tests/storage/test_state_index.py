"""The book gives the same answers from full histories and from a few bytes."""

import secrets
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import job_keys as numbers
from manifests.job_keys import keys
from manifests.lifecycle import NEW, History, State
from storage.ledger import Book
from storage.ledger import state_index as reconciliation

A, B, C = (f"{n:032x}" for n in (1, 1 << 64, (1 << 64) + 1))
"""Two of the jobs share a key."""
PUBLISHED = History(
    state=State.PUBLISHED,
    attempts=1,
    lane="spicy",
    price_usd=Decimal("0.1"),
    spent_usd=Decimal("0.1"),
    submitted_at=1000.0,
    accepted_at=1001.0,
    generated_at=1060.0,
    published_at=1061.0,
)
ACCEPTED = History(state=State.ACCEPTED, attempts=1, lane="spicy", accepted_at=1001.0)


def test_ended_job_keeps_only_its_state():
    """The book forgets an ended job's history, but keeps its state."""
    book = Book()
    book.keep(A, PUBLISHED)
    book.keep(B, ACCEPTED)

    book.forget([A, B, C])

    assert book.lives == {B: ACCEPTED}
    assert book.history(A) == History(state=State.PUBLISHED)
    assert book.history(B) == ACCEPTED
    assert book.history(C) is NEW
    assert (
        book.states(keys([C, A, B])).to_list() == "pending published accepted".split()
    )


def test_new_history_replaces_a_forgotten_one():
    """A new history of a forgotten job replaces its old state."""
    book = Book()
    book.keep(A, PUBLISHED)
    book.forget([A])
    book.keep(A, ACCEPTED)

    assert book.history(A) == ACCEPTED
    assert book.states(keys([A])).to_list() == ["accepted"]
    assert book.forgotten([A]) == []


@pytest.mark.parametrize("life", ["a", A[1:], A + "~", A.replace("0", "G"), ""])
def test_invalid_job_id_is_refused(life):
    """A string that is no job id is refused, and the message quotes it."""
    with pytest.raises(ValueError, match=f"'{life}' is no job's id"):
        Book().keep(life, PUBLISHED)
    with pytest.raises(ValueError, match=f"'{life}' is no job's id"):
        Book().history(life)


def test_latest_fifty_durations_are_kept_once_each():
    """Each clip's duration counts once, and a lane keeps the latest 50."""
    book = Book()
    for n in range(60):
        done = History(
            state=State.GENERATED, lane="spicy", accepted_at=0.0, generated_at=float(n)
        )
        book.keep(f"{n:032x}", done)
        book.keep(f"{n:032x}", done)

    assert list(book.latencies["spicy"]) == [float(n) for n in range(10, 60)]


def test_an_epoch_begins_with_the_lives_as_they_stood():
    book = Book()
    book.keep(A, ACCEPTED)
    book.begin(3)
    book.keep(A, PUBLISHED)
    book.forget([A])

    assert book.unbound == {3: {A: ACCEPTED}}


OVER = st.sampled_from([State.PUBLISHED, State.REJECTED])
ANY = st.sampled_from([*State])
IDS = st.integers(0, 40).map(lambda n: f"{n // 7:016x}{n % 7:016x}")


@given(
    st.lists(st.dictionaries(IDS, OVER, max_size=20), max_size=8),
    st.lists(st.dictionaries(IDS, ANY, max_size=4), max_size=8),
    st.sampled_from([0, numbers.FEW]),
)
@settings(deadline=None, max_examples=50)
def test_however_lives_are_put_down_each_is_found(learned, kept, few):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "FEW", few)
        patch.setattr(reconciliation, "FEW", few)
        _put_down_and_find(learned, kept)


def _put_down_and_find(learned, kept):
    # States of finished jobs do not change.
    book, truth = Book(), {}
    for some in learned:
        new = {life: state for life, state in some.items() if life not in truth}
        truth |= new
        given = {life: truth[life] for life in some}
        states = pl.Series("state", [*given.values()], pl.String)
        book.learn(keys(given).with_columns(states))
    for some in kept:
        for life, state in some.items():
            truth[life] = state
            book.keep(life, History(state=state))
        book.forget([])

    everyone = [f"{n // 7:016x}{n % 7:016x}" for n in range(50)]
    known = [truth.get(life, State.PENDING) for life in everyone]
    assert book.states(keys(everyone)).to_list() == known
    assert [book.history(life).state for life in everyone] == known
    gone = [life for life in everyone if life in truth and life not in book.lives]
    assert sorted(book.forgotten(everyone)) == gone


def test_many_lives_are_found_among_many(monkeypatch):
    monkeypatch.setattr(reconciliation, "_FRESH", 100)
    monkeypatch.setattr(reconciliation, "_SLICE", 1000)
    ids = [secrets.token_hex(16) for _ in range(5000)]
    states = {
        life: [State.PUBLISHED, State.REJECTED][n % 2] for n, life in enumerate(ids)
    }
    book = Book()

    for n, life in enumerate(ids):
        book.keep(life, History(state=states[life]))
        if n % 37 == 0:
            book.forget([*book.lives])

    unknown = [secrets.token_hex(16) for _ in range(500)]
    asked = keys([*unknown, *ids])
    assert book.states(asked).to_list() == ["pending"] * 500 + [*states.values()]
    assert all(book.history(life).state is state for life, state in states.items())
    assert len(book.forgotten([*unknown, *ids])) == len(ids) - len(book.lives)


def test_nothing_is_known_of_no_keys():
    assert Book().states(keys([])).to_list() == []
