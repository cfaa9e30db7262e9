"""Rewritten tables: later facts change the rows of their jobs, and no others."""

from datetime import UTC, datetime
from decimal import Decimal

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.accounting import Attempts
from manifests.accounting.attempts import attempts as attempts_of
from manifests.catalogue import load
from manifests.input import check
from manifests.job_keys import ids
from manifests.lifecycle import (
    Adjusted,
    Doubted,
    Entry,
    Generated,
    Published,
    Refused,
    Risked,
    fold,
)
from manifests.output import (
    Outcomes,
    attempts_table,
    retold_attempts,
    retold_clips,
    write_clips,
)
from manifests.output.attempts import KEY
from tests.histories import ACCEPTED, FACTS, intended

URI = "s3://bucket/in/m.parquet"
ROUTES = [route for route in load().routes.values() if not route.retired]
PRICE = Decimal("0.15")
INTENDED = intended(PRICE)
MADE = (ACCEPTED, Generated(), Published("u", FACTS))
REFUND = Adjusted(attempt=1, usd=-PRICE, reason="refunded")
MANIFEST = {
    "image": ["a.jpg", "", "c.jpg", "a.jpg"],
    "prompt": ["p"] * 4,
    "caption": ["w", "x", "y", "z"],
    "kind": pl.Series(["day", "night", None, "day"], dtype=pl.Categorical),
    "size": pl.Series(["S", "M", "S", None], dtype=pl.Enum(["S", "M"])),
    "shot": [datetime(2026, 1, 2, tzinfo=UTC), None, None, None],
    "tags": [["x", "y"], [], None, []],
    "state": ["Ohio", "Utah", None, "Iowa"],
}


def lived(job, *events, start=0):
    return [Entry(job, 1000.0 + start + n, event) for n, event in enumerate(events)]


def outcomes(entries, reasons=None):
    return Outcomes(histories=fold(entries), reasons=reasons or {})


class Batch:
    """A batch over MANIFEST, its tables, and its two jobs: of rows 0 and 3, and of 2."""

    def __init__(self, folder):
        self.folder = folder
        self.clips, self.attempts = folder / "clips.parquet", folder / "at.parquet"
        self.manifest, self.out = folder / "m.parquet", folder / "out.parquet"
        pl.DataFrame(MANIFEST).write_parquet(self.manifest)
        self.plan = check(self.manifest, URI, ROUTES)
        self.one, self.other = ids(self.plan.wanted.filter("first"))

    def tell(self, entries, reasons=None):
        told = outcomes(entries, reasons)
        write_clips(self.clips, self.manifest, self.plan, lambda _: told)
        with attempts_table(self.attempts, Attempts()) as add:
            add(entries)

    def retold_clips(self, entries, jobs):
        changed = retold_clips(self.clips, self.out, outcomes(entries), jobs)
        return changed, pl.read_parquet(self.clips), pl.read_parquet(self.out)

    def retold_attempts(self, entries, jobs):
        some = [entry for entry in entries if entry.job in jobs]
        changed = retold_attempts(self.attempts, self.out, attempts_of(some))
        return changed, pl.read_parquet(self.attempts), pl.read_parquet(self.out)


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


def test_resolved_doubt_changes_every_row_of_its_job(batch):
    """A doubt that was resolved changes every row of its job."""
    doubt = lived(batch.one, INTENDED, Doubted("ReadTimeout"))
    batch.tell([*doubt, *lived(batch.other, INTENDED, Refused("busy"))])

    entries = [*doubt, *lived(batch.one, *MADE, start=10)]
    changed, before, after = batch.retold_clips(entries, [batch.one])

    assert changed
    assert after["state"].to_list() == ["published", "invalid", "pending", "published"]
    assert after["uri"].to_list() == ["u", None, None, "u"]
    assert after["reason"][0] is None
    # The other job's history is unknown here, as its row is not this job's.
    assert after[1:3].equals(before[1:3])


def test_what_the_manifest_said_stays_as_it_was(batch):
    doubt = lived(batch.one, INTENDED)
    batch.tell(doubt)

    _, before, after = batch.retold_clips(
        [*doubt, *lived(batch.one, *MADE, start=9)], [batch.one]
    )

    carried = ["state_in" if name == "state" else name for name in MANIFEST]
    assert after.select(carried).equals(before.select(carried))
    assert pq.read_schema(batch.out) == pq.read_schema(batch.clips)
    assert after.columns == before.columns


def test_clips_of_which_nothing_new_is_known_are_not_changed(batch):
    entries = lived(batch.one, INTENDED, *MADE)
    batch.tell(entries, {batch.other: "the budget is spent"})

    for jobs in ([batch.one], ["unknown"], []):
        changed, before, after = batch.retold_clips(entries, jobs)

        assert not changed
        assert after.equals(before)


def test_a_refund_is_told_in_what_the_clip_and_the_attempt_cost(batch):
    made = lived(batch.one, INTENDED, *MADE)
    batch.tell(made)
    entries = [*made, *lived(batch.one, REFUND, start=9)]

    _, _, clips = batch.retold_clips(entries, [batch.one])
    assert clips["spent_usd"].to_list() == [0, None, 0, 0]

    changed, _, attempts = batch.retold_attempts(entries, [batch.one])
    assert changed
    told = attempts.select("outcome", "charged", "charged_usd", "reason")
    assert told.rows() == [("published", False, 0, "refunded")]


def test_attempts_of_other_jobs_stay_as_they_were(batch):
    """The attempts of other jobs, and their order, stay as they were."""
    entries = [
        *lived("x", INTENDED, Doubted("?")),
        *lived("y", INTENDED, Doubted("?"), start=2),
        *lived("z", INTENDED, Refused("busy"), start=4),
    ]
    batch.tell(entries)

    late = [
        Entry("x", 1010.0, Risked("allowed")),
        Entry("y", 1011.0, Refused("not there")),
    ]
    _, before, after = batch.retold_attempts([*entries, *late], ["y"])

    assert after["job"].to_list() == before["job"].to_list() == ["z", "x", "y"]
    assert after["outcome"].to_list() == ["refused", "in_doubt", "refused"]
    assert after[:2].equals(before[:2])
    assert pq.read_schema(batch.out) == pq.read_schema(batch.attempts)


def test_later_attempts_are_not_added_to_an_earlier_table(batch):
    """The attempts of a later batch are not added to an earlier batch's table."""
    monday = lived("j", INTENDED, Refused("busy"))
    batch.tell(monday)

    tuesday = lived("j", INTENDED, Refused("again"), start=9)
    changed, before, after = batch.retold_attempts([*monday, *tuesday], ["j"])

    assert not changed
    assert after.equals(before)


def test_empty_tables_are_told_anew_too(batch):
    batch.tell([])
    pl.read_parquet(batch.clips).clear().write_parquet(batch.clips)

    assert batch.retold_attempts([], ["j"])[0] is False
    changed, before, after = batch.retold_clips([], [batch.one])
    assert not changed
    assert after.schema == before.schema


def test_a_table_of_many_slices_keeps_its_order(tmp_path):
    path, out = tmp_path / "attempts.parquet", tmp_path / "out.parquet"
    count = 45_001
    entries = [Entry(f"{n:05}", 1.0, INTENDED) for n in range(count)]
    with attempts_table(path, Attempts()) as add:
        add(entries)

    late = [Entry(f"{n:05}", 2.0, Refused("not there")) for n in (7, 20_000, 45_000)]
    jobs = {entry.job for entry in late}
    some = [entry for entry in [*entries, *late] if entry.job in jobs]
    retold_attempts(path, out, attempts_of(some))

    after = pl.read_parquet(out)
    assert after["job"].to_list() == [f"{n:05}" for n in range(count)]
    assert after.filter(pl.col("outcome") == "refused")["job"].to_list() == [
        *("00007", "20000", "45000")
    ]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_tables_told_anew_agree_with_the_ledger_to_the_cent(
    tmp_path_factory, lives_of, data
):
    batch = Batch(tmp_path_factory.mktemp("batch"))
    jobs = [batch.one, batch.other]
    begun = data.draw(lives_of(jobs))
    batch.tell(begun)
    late = data.draw(lives_of(jobs, over=True, begun=begun))
    entries, touched = [*begun, *late], {entry.job for entry in late}

    changed_clips, *_, clips = batch.retold_clips(entries, touched)
    changed, _, attempts = batch.retold_attempts(entries, touched)

    spent = sum(each.spent_usd for each in fold(entries).values())
    assert clips.unique("job")["spent_usd"].sum() == spent
    assert attempts["charged_usd"].sum() == spent
    assert attempts.select(KEY).is_unique().all()
    batch.tell(entries)
    assert clips.equals(pl.read_parquet(batch.clips))
    assert attempts.sort(KEY).equals(pl.read_parquet(batch.attempts).sort(KEY))
    if not touched:
        assert not changed
        assert not changed_clips
