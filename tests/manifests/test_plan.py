"""A plan has each clip once, by its most urgent row, and no job that is over."""

from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import job_keys as keys_module
from manifests import parquet
from manifests.catalogue import load
from manifests.input import check, demand, orders, todo
from manifests.input import plan as plans
from manifests.job_keys import ids, keys
from manifests.lifecycle import State

URI = "s3://bucket/in/m.parquet"
ROUTES = [route for route in load().routes.values() if not route.retired]
STATES = pl.Enum([state.value for state in State])


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    """Process a few rows at a time, in place of some hundred thousand."""
    monkeypatch.setattr(keys_module, "_PART", 5)
    monkeypatch.setattr(parquet, "_SPAN", 4)
    monkeypatch.setattr(plans, "_SLICE", 3)


def written(folder, rows, **how):
    path = folder / "m.parquet"
    types = {
        "image": pl.String,
        "prompt": pl.String,
        "priority": pl.Int64,
        "max_usd": pl.Float64,
        "id": pl.String,
    }
    pl.DataFrame(rows, types, orient="row").write_parquet(path, **how)
    return path


def states(**by_job):
    """States by job id, as a ledger gives them; pending for jobs it does not know."""

    def of(asked):
        known = [by_job.get(f"j{job}", "pending") for job in ids(asked)]
        return pl.Series(known, dtype=STATES)

    return of


ROW = st.tuples(
    st.sampled_from(["a.jpg", "b.jpg", "c.jpg", "d.jpg", ""]),
    st.sampled_from(["p", "q"]),
    st.none() | st.sampled_from([-(2**40), -1, 0, 1, 300]),
    st.none() | st.sampled_from([0.05, 0.25, 99.0, 5000.0]),
    st.none() | st.text("xyz", min_size=1, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROW, max_size=30), size=st.integers(1, 9))
def test_job_takes_the_best_priority_and_limit_of_its_rows(
    tmp_path_factory, rows, size
):
    """A job takes the best priority and limit of its rows; the most urgent come first."""
    path = written(tmp_path_factory.mktemp("any"), rows, row_group_size=size)

    plan = check(path, URI, ROUTES)

    seen, good = set(), []
    for n, (image, prompt, *_, name) in enumerate(rows):
        if image and (name is None or name not in seen):
            good.append((n, (image, prompt)))
        seen.add(name)
    wish = {}
    for n, clip in good:
        wish.setdefault(clip, []).append((rows[n][2] or 0, rows[n][3]))
    best = {clip: max(level for level, _ in wishes) for clip, wishes in wish.items()}
    limits = {clip: [usd for _, usd in wishes] for clip, wishes in wish.items()}
    order = sorted(good, key=lambda one: (-best[one[1]], one[0]))
    assert plan.wanted["row"].to_list() == [n for n, _ in order]
    assert plan.wanted["priority"].to_list() == [best[clip] for _, clip in order]
    assert plan.wanted["max_usd"].to_list() == [
        0 if None in limits[clip] else round(max(limits[clip]) * 1e6)
        for _, clip in order
    ]
    firsts = {clip: n for n, clip in reversed(good)}
    assert plan.wanted["first"].to_list() == [firsts[clip] == n for n, clip in order]
    assert plan.jobs == len(wish)
    assert plan.bad_rows == len(rows) - len(good)
    told = [*orders(path, URI, plan.wanted, lambda sha256, _: sha256)]
    assert [order.job.id for order in told] == ids(plan.wanted.filter("first"))
    assert [order.max_usd for order in told] == [
        None if None in limits[clip] else Decimal(str(max(limits[clip])))
        for n, clip in order
        if firsts[clip] == n
    ]
    if told:
        assert demand(path, URI, plan.wanted)["count"].sum() == plan.jobs


def test_numbers_are_as_small_as_they_may_be(tmp_path):
    rows = [("a.jpg", "p", 300, 0.25, None), ("b.jpg", "p", None, None, None)]

    plan = check(written(tmp_path, rows), URI, ROUTES)

    assert plan.wanted.schema == {
        "row": pl.UInt32,
        "key": pl.UInt64,
        "also": pl.UInt64,
        "first": pl.Boolean,
        "priority": pl.Int16,
        "max_usd": pl.UInt32,
    }


@pytest.fixture
def plan(tmp_path):
    rows = [(f"{n % 8}.jpg", "p", n % 3, None, None) for n in range(10)]
    return check(written(tmp_path, rows), URI, ROUTES)


def test_ended_jobs_are_left_out_and_the_order_stays(plan):
    """Jobs that are over are not to be done again, and the others keep their order."""
    jobs = ids(plan.wanted.filter("first"))
    over = {f"j{jobs[1]}": "published", f"j{jobs[4]}": "rejected"}

    left = todo(plan, states(**over, **{f"j{jobs[0]}": "in_doubt"}))

    assert ids(left) == [job for n, job in enumerate(jobs) if n not in {1, 4}]
    assert left.schema == plan.wanted.schema


def test_only_what_nothing_was_bought_for_may_be_asked_for_too(plan):
    jobs = ids(plan.wanted.filter("first"))

    left = todo(plan, states(**{f"j{jobs[0]}": "accepted"}), among={State.PENDING})

    assert ids(left) == jobs[1:]


def test_nothing_is_to_be_done_of_nothing(tmp_path):
    plan = check(written(tmp_path, []), URI, ROUTES)

    assert todo(plan, states()).height == 0


def test_jobs_that_are_struck_out_are_complained_of_row_by_row(plan):
    bad = ids(plan.wanted.filter(pl.col("row") == 1))[0]

    less = plan.without({bad: ("1.jpg", "is not there")})

    assert less.jobs == plan.jobs - 1
    assert [str(each) for each in less.faults] == [
        "row 1: image '1.jpg' is not there",
        "row 9: image '1.jpg' is not there",
    ]
    assert keys([bad]).join(less.wanted, ["key", "also"]).is_empty()
    assert plan.without({}) is plan
