"""Keys: job ids as numbers, and the search for equal ones among very many."""

import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import job_keys as module
from manifests.job_keys import KEY, alike, held, ids, keys

NUMBERS = st.integers(0, 2**64 - 1)


IDS = st.lists(st.from_regex("[0-9a-f]{32}", fullmatch=True))


@given(IDS, st.sampled_from([0, module.FEW]))
def test_a_key_is_its_id_and_nothing_is_lost(known, few):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEW", few)

        assert ids(keys(known)) == known
        assert keys(known).schema == KEY


@pytest.fixture
def small_parts(monkeypatch):
    """Compare a hundred rows in parts, as the product compares ten million."""
    monkeypatch.setattr(module, "_PART", 7)


@pytest.mark.usefixtures("small_parts")
def test_rows_that_are_alike_are_found_in_whatever_part_they_are():
    drawn = random.Random(3)
    some = [(drawn.randrange(2**64), drawn.randrange(2**64)) for _ in range(60)]
    edges = [(0, 0), (2**64 - 1, 2**64 - 1), (2**63, 0), (2**63 - 1, 0)]
    pairs = [*drawn.choices(some + edges, k=100), (some[0][0], 1), (1, some[0][1])]
    rows = pl.DataFrame(
        [(row + 10, *pair) for row, pair in enumerate(pairs)],
        {"row": pl.UInt32, "key": pl.UInt64, "also": pl.UInt64},
        orient="row",
    )

    found = pl.concat(alike(rows, pl.col("row").max().alias("latest"))).sort("at")

    where = {pair: [n for n, p in enumerate(pairs) if p == pair] for pair in pairs}
    assert found.select("at", "row", "earliest", "latest").rows() == [
        (at, at + 10, where[pair][0] + 10, where[pair][-1] + 10)
        for at, pair in enumerate(pairs)
        if len(where[pair]) > 1
    ]


@pytest.mark.parametrize("fewer", [0, module.FEW])
def test_wanted_rows_are_found_in_order_by_whole_key(monkeypatch, fewer):
    """A few wanted rows are found in order, by their whole key."""
    monkeypatch.setattr(module, "FEW", fewer)
    rows = keys([f"{n:016x}{n % 3:016x}" for n in (5, 1, 4, 2, 3, 4)])
    few = keys([f"{4:016x}{1:016x}", f"{2:016x}{0:016x}", f"{5:016x}{2:016x}"])

    assert held(rows, few).rows() == [(5, 2), (4, 1), (4, 1)]
