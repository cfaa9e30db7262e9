"""The state index gives the same answers from full histories and from a few bytes."""

import secrets
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import job_keys as numbers
from manifests.job_keys import keys
from manifests.lifecycle import NEW, History, State
from storage.ledger import StateIndex
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
    """The state index forgets an ended job's history, but keeps its state."""
    state_index = StateIndex()
    state_index.keep(A, PUBLISHED)
    state_index.keep(B, ACCEPTED)

    state_index.forget([A, B, C])

    assert state_index.lives == {B: ACCEPTED}
    assert state_index.history(A) == History(state=State.PUBLISHED)
    assert state_index.history(B) == ACCEPTED
    assert state_index.history(C) is NEW
    assert (
        state_index.states(keys([C, A, B])).to_list()
        == "pending published accepted".split()
    )


def test_new_history_replaces_a_forgotten_one():
    """A new history of a forgotten job replaces its old state."""
    state_index = StateIndex()
    state_index.keep(A, PUBLISHED)
    state_index.forget([A])
    state_index.keep(A, ACCEPTED)

    assert state_index.history(A) == ACCEPTED
    assert state_index.states(keys([A])).to_list() == ["accepted"]
    assert state_index.forgotten([A]) == []


@pytest.mark.parametrize("life", ["a", A[1:], A + "~", A.replace("0", "G"), ""])
def test_invalid_job_id_is_refused(life):
    """A string that is no job id is refused, and the message quotes it."""
    with pytest.raises(ValueError, match=f"'{life}' is no job's id"):
        StateIndex().keep(life, PUBLISHED)
    with pytest.raises(ValueError, match=f"'{life}' is no job's id"):
        StateIndex().history(life)


def test_latest_fifty_durations_are_kept_once_each():
    """Each clip's duration counts once, and a lane keeps the latest 50."""
    state_index = StateIndex()
    for n in range(60):
        done = History(
            state=State.GENERATED, lane="spicy", accepted_at=0.0, generated_at=float(n)
        )
        state_index.keep(f"{n:032x}", done)
        state_index.keep(f"{n:032x}", done)

    assert list(state_index.latencies["spicy"]) == [float(n) for n in range(10, 60)]


def test_an_epoch_begins_with_the_lives_as_they_stood():
    state_index = StateIndex()
    state_index.keep(A, ACCEPTED)
    state_index.begin(3)
    state_index.keep(A, PUBLISHED)
    state_index.forget([A])

    assert state_index.unbound == {3: {A: ACCEPTED}}


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
    state_index, truth = StateIndex(), {}
    for some in learned:
        new = {life: state for life, state in some.items() if life not in truth}
        truth |= new
        given = {life: truth[life] for life in some}
        states = pl.Series("state", [*given.values()], pl.String)
        state_index.learn(keys(given).with_columns(states))
    for some in kept:
        for life, state in some.items():
            truth[life] = state
            state_index.keep(life, History(state=state))
        state_index.forget([])

    everyone = [f"{n // 7:016x}{n % 7:016x}" for n in range(50)]
    known = [truth.get(life, State.PENDING) for life in everyone]
    assert state_index.states(keys(everyone)).to_list() == known
    assert [state_index.history(life).state for life in everyone] == known
    gone = [
        life for life in everyone if life in truth and life not in state_index.lives
    ]
    assert sorted(state_index.forgotten(everyone)) == gone


def test_many_lives_are_found_among_many(monkeypatch):
    monkeypatch.setattr(reconciliation, "_FRESH", 100)
    monkeypatch.setattr(reconciliation, "_SLICE", 1000)
    ids = [secrets.token_hex(16) for _ in range(5000)]
    states = {
        life: [State.PUBLISHED, State.REJECTED][n % 2] for n, life in enumerate(ids)
    }
    state_index = StateIndex()

    for n, life in enumerate(ids):
        state_index.keep(life, History(state=states[life]))
        if n % 37 == 0:
            state_index.forget([*state_index.lives])

    unknown = [secrets.token_hex(16) for _ in range(500)]
    asked = keys([*unknown, *ids])
    assert state_index.states(asked).to_list() == ["pending"] * 500 + [*states.values()]
    assert all(
        state_index.history(life).state is state for life, state in states.items()
    )
    assert len(state_index.forgotten([*unknown, *ids])) == len(ids) - len(
        state_index.lives
    )


def test_nothing_is_known_of_no_keys():
    assert StateIndex().states(keys([])).to_list() == []
