"""The left rows are a manifest of the same jobs that runs alone and from anywhere."""

from datetime import UTC, datetime
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.catalogue import load
from manifests.input import ManifestError, check, orders
from manifests.job_keys import ids
from manifests.lifecycle import (
    Generated,
    Published,
    Refused,
    Rejected,
    fold,
)
from manifests.output import Outcomes, write_left
from manifests.output.remaining import LEFT
from tests.histories import ACCEPTED, FACTS, intended, ledger_entries

URI = "s3://bucket/in/m.parquet"
ELSEWHERE = "file:///data/tomorrow.parquet"
ROUTES = [route for route in load().routes.values() if not route.retired]
INTENDED = intended()
MADE = (INTENDED, ACCEPTED, Generated(), Published("u", FACTS))


def nothing(_keys):
    """The outcomes of jobs without any event."""
    return Outcomes(histories={}, reasons={})


@pytest.fixture
def night(tmp_path):
    """Writes the left rows of a manifest, with the events of each job given by row."""

    def run(columns, lives=None, *, uri=URI, reasons=None, **how):
        manifest, path = tmp_path / "m.parquet", tmp_path / "left.parquet"
        if isinstance(columns, pa.Table):
            pq.write_table(columns, manifest, **how)
        else:
            pl.DataFrame(columns).write_parquet(manifest, **how)
        plan = check(manifest, uri, ROUTES)
        jobs = dict(zip(plan.wanted["row"], ids(plan.wanted), strict=True))
        entries = [
            entry
            for n, events in (lives or {}).items()
            for entry in ledger_entries(jobs[n], *events)
        ]
        told = Outcomes(
            histories=fold(entries),
            reasons={jobs[n]: why for n, why in (reasons or {}).items()},
        )
        count = write_left(path, manifest, plan, lambda _: told)
        assert count == pq.read_metadata(path).num_rows
        return Night(path, jobs)

    return run


class Night:
    """A night's left manifest, and which job each of its rows was."""

    def __init__(self, path, jobs):
        self.path = path
        self.jobs = jobs
        self.left = pl.read_parquet(path)

    @property
    def tomorrow(self):
        """The jobs of the left manifest when it is run alone, by row."""
        return ids(check(self.path, ELSEWHERE, ROUTES).wanted.sort("row"))


def test_rows_that_became_clips_are_not_left_and_all_others_are(night):
    images = ["a.jpg", "b.jpg", "", "d.jpg"]
    done = night({"image": images, "prompt": ["p"] * 4}, {0: MADE, 1: (INTENDED,)})

    assert done.left["left_state"].to_list() == ["in_doubt", "invalid", "pending"]
    assert done.tomorrow == [done.jobs[1], done.jobs[3]]


def test_two_rows_of_one_clip_are_both_done_or_both_left(night):
    columns = {"image": ["a.jpg", "b.jpg", "a.jpg", "b.jpg"], "prompt": ["p"] * 4}

    done = night(columns, {0: MADE})

    assert done.left["image"].to_list() == ["s3://bucket/in/b.jpg"] * 2


def test_a_row_that_is_left_says_why_where_and_what_it_cost(night):
    done = night(
        {"image": ["a.jpg", "b.jpg", "c.jpg"], "prompt": ["p", "p", " "]},
        {0: (INTENDED, ACCEPTED), 1: (INTENDED, Rejected("not allowed"))},
    )

    why = "the provider has it: the batch ended before it was ready"
    assert done.left.select(LEFT.names()).rows() == [
        ("accepted", why, "spicy", "remote-1", Decimal("0.15")),
        ("rejected", "not allowed", "spicy", None, Decimal(0)),
        ("invalid", "prompt is blank", None, None, None),
    ]


def test_a_run_may_know_better_why_a_row_is_left(night):
    done = night(
        {"image": ["a.jpg"], "prompt": ["p"]}, reasons={0: "the budget is spent"}
    )

    assert done.left["left_reason"].item() == "the budget is spent"


@pytest.mark.parametrize(
    "columns",
    [
        {"image": ["a.jpg", "../b.jpg", "x/./c.jpg", "/d.jpg", "é ü.jpg"]},
        {"image": ["https://h/a.jpg", "HTTPS://h/a.jpg?v=1", "s3://b/a#1.jpg"]},
        {
            "image": [
                "https://h/a.jpg?X-Amz-Signature=s3cret&X-Amz-Date=1",
                "https://me:s3cret@h/b.jpg?v=2",
                "sftp://me:s3cret@h/c.jpg",
                "zip://a.jpg::https://h/z.zip?X-Amz-Signature=s3cret",
            ]
        },
        {"image_bytes": [b"one", b"two", b"three"]},
        {"image": [None, "a.jpg", ""], "image_bytes": [b"one", None, b"two"]},
        {
            "image": ["a.jpg"] * 3,
            "model": ["premium,draft", " wan-2.2 ,standard", None],
        },
        {"image": ["a.jpg"] * 3, "model": [["premium", "draft"], ["wan-2.2"], []]},
        {"image": ["a.jpg"] * 3, "content": ["adult", None, ""], "take": [1, 2, 3]},
        {"image": ["a.jpg"] * 3, "seed": [5.0, float("nan"), -1.0]},
        {"image": pl.Series(["a.jpg", "b.jpg"], dtype=pl.Categorical)},
        {"image": pl.Series(["a.jpg", "b.jpg"], dtype=pl.Enum(["a.jpg", "b.jpg"]))},
    ],
)
@pytest.mark.parametrize(
    "uri",
    [
        URI,
        "https://me:s3cret@h/x/m.parquet?X-Amz-Signature=s3cret",
        "zip://in/m.parquet::s3://b/z.zip",
    ],
)
def test_its_rows_are_the_same_jobs_wherever_it_is_run(night, columns, uri):
    rows = len(next(iter(columns.values())))

    done = night({**columns, "prompt": ["p"] * rows}, uri=uri)

    assert len(done.jobs) == rows
    assert done.tomorrow == [done.jobs[n] for n in range(rows)]
    assert b"s3cret" not in done.path.read_bytes()


def test_tomorrows_orders_are_tonights(night, tmp_path):
    done = night(
        {
            "image": ["a.jpg", None],
            "image_bytes": [None, b"one"],
            "prompt": ["p", "q"],
            "priority": [1, 2],
            "max_usd": [0.5, None],
        }
    )

    def taken(path, uri):
        wanted = check(path, uri, ROUTES).wanted
        return [*orders(path, uri, wanted, lambda sha256, _: sha256)]

    assert taken(done.path, ELSEWHERE) == taken(tmp_path / "m.parquet", URI)


def test_second_left_manifest_has_each_column_once(night, tmp_path):
    """A second left manifest has each column once, with the latest values."""
    columns = {"image": ["a.jpg", "b.jpg"], "prompt": ["p", "q"], "caption": ["x", "y"]}
    first = night(columns, {0: (INTENDED, Refused("busy"))})

    again = night(first.left, {1: MADE}, uri="file:///elsewhere/left.parquet")

    assert again.left.columns == first.left.columns
    (row,) = again.left.rows(named=True)
    assert (row["caption"], row["left_reason"]) == (
        "x",
        "not made yet: the batch ended before its turn",
    )
    assert again.tomorrow == first.tomorrow[:1]


def test_a_wrong_row_stays_as_wrong_as_it_was(night, tmp_path):
    images = [
        *("C:\\stills\\a.jpg", "data:image/png;base64,AA", " a.jpg", "file://x/a.jpg"),
        *("htps://h/a.jpg?X-Amz-Signature=s3cret", "https://[h/a.jpg", None, "b.jpg"),
    ]
    columns = {"image": images, "prompt": ["p"] * 7 + [""]}

    done = night(columns)

    before = check(tmp_path / "m.parquet", URI, ROUTES)
    after = check(done.path, ELSEWHERE, ROUTES)
    assert [str(c) for c in after.faults] == [str(c) for c in before.faults]
    assert done.left["image"][-1] == "s3://bucket/in/b.jpg"
    assert b"s3cret" not in done.path.read_bytes()


def test_only_the_rows_that_the_night_was_for_are_left(tmp_path):
    manifest, path = tmp_path / "m.parquet", tmp_path / "left.parquet"
    pl.DataFrame({"image": ["a.jpg"] * 9, "prompt": ["p"] * 9}).write_parquet(manifest)

    count = write_left(path, manifest, check(manifest, URI, ROUTES).head(2), nothing)

    assert count == pl.read_parquet(path).height == 2


def test_columns_of_any_type_are_kept_as_they_are(night):
    columns = {
        "image": ["a.jpg", "b.jpg"],
        "image_bytes": pl.Series([None, None], dtype=pl.Binary),
        "prompt": ["p", "q"],
        "id": pl.Series([7, 8], dtype=pl.UInt16),
        "seed": pl.Series([1, None], dtype=pl.Float32),
        "tags": [["x", "y"], []],
        "camera": [{"lens": 35}, None],
        "kind": pl.Series(["day", "night"], dtype=pl.Categorical),
        "size": pl.Series(["S", None], dtype=pl.Enum(["S", "M"])),
        "shot": [datetime(2026, 1, 2, tzinfo=UTC), None],
        "raw": [b"\x00", None],
        "pair": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int8, 2)),
    }

    done = night(columns)

    wanted = pl.DataFrame(columns)
    kept = done.left.select(wanted.columns)
    assert kept.schema == wanted.schema
    assert kept.drop("image").equals(wanted.drop("image"))
    assert done.left.schema == pl.Schema({**wanted.schema, **LEFT})


def test_what_others_write_is_kept_too(night):
    table = pa.table(
        {
            "image": pa.array(["a.jpg", "b.jpg"], pa.string_view()),
            "prompt": pa.array(["p", "q"], pa.string()),
            "hash": pa.array([b"1234", b"5678"], pa.binary(4)),
            "tags": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
            "day": pa.array([1, None], pa.date32()),
        },
        metadata={"by": "hand"},
    )

    done = night(table)

    schema = pq.read_schema(done.path)
    assert schema.metadata[b"by"] == b"hand"
    for field in table.schema:
        assert schema.field(field.name) == field
    assert done.tomorrow == [done.jobs[0], done.jobs[1]]


@pytest.mark.parametrize("lives", [{0: MADE, 1: MADE}, None])
def test_nothing_left_is_an_empty_manifest_with_every_column(night, lives):
    rows = 2 if lives else 0
    columns = {
        "image_bytes": pl.Series([b"one", b"two"][:rows], dtype=pl.Binary),
        "prompt": pl.Series(["p", "q"][:rows], dtype=pl.String),
        "model": pl.Series([[], []][:rows], dtype=pl.List(pl.String)),
    }

    done = night(columns, lives)

    assert done.left.height == 0
    assert done.left.schema == pl.Schema({**pl.DataFrame(columns).schema, **LEFT})
    assert done.tomorrow == []


@pytest.mark.parametrize("row_group_size", [3, 50, 700])
def test_embedded_stills_stay_with_their_rows(night, row_group_size):
    """Embedded stills stay with their rows, whatever the layout of the file."""
    columns = {
        "image_bytes": [f"still {n}".encode() for n in range(300)],
        "prompt": [f"prompt {n}" for n in range(300)],
    }

    done = night(
        columns,
        {n: MADE for n in range(300) if n % 7 and not 100 < n < 140},
        row_group_size=row_group_size,
    )

    left = [n for n in range(300) if n % 7 == 0 or 100 < n < 140]
    assert done.left["image_bytes"].to_list() == [b"still %d" % n for n in left]
    assert done.left["prompt"].to_list() == [f"prompt {n}" for n in left]
    assert done.tomorrow == [done.jobs[n] for n in left]


def test_large_stills_are_written_in_several_row_groups(night):
    rows = 130
    columns = {
        "image_bytes": [bytes([n]) * 600_000 for n in range(rows)],
        "prompt": ["p"] * rows,
    }

    done = night(columns, compression="uncompressed")

    file = pq.ParquetFile(done.path)
    groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert groups == [64, 64, 2]


def test_a_manifest_that_has_become_unreadable_is_named(tmp_path):
    manifest, path = tmp_path / "m.parquet", tmp_path / "left.parquet"
    pl.DataFrame({"image": ["a.jpg"], "prompt": ["p"]}).write_parquet(manifest)
    plan = check(manifest, f"{URI}?X-Amz-Signature=s3cret", ROUTES)
    manifest.write_bytes(b"<html>")

    with pytest.raises(ManifestError, match=f"^{URI}: not readable as Parquet"):
        write_left(path, manifest, plan, nothing)


PLACES = st.from_regex(
    r"(https://[a-z.]{1,9}/|[sS]3://b/|/|\.\./| |C:|data:|zip://a\.jpg::)?"
    r"[A-Za-z0-9?&=#@%.:é \[\]-]{0,20}",
    fullmatch=True,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | PLACES, max_size=9), st.sampled_from([URI, "/m.parquet"]))
def test_whatever_the_rows_say_tomorrow_they_say_the_same(
    tmp_path_factory, images, uri
):
    folder = tmp_path_factory.mktemp("any")
    manifest, path = folder / "m.parquet", folder / "left.parquet"
    rows = {"image": pl.Series(images, dtype=pl.String), "prompt": ["p"] * len(images)}
    pl.DataFrame(rows).write_parquet(manifest)
    plan = check(manifest, uri, ROUTES)

    write_left(path, manifest, plan, nothing)

    again = check(path, ELSEWHERE, ROUTES)
    assert again.wanted.rows() == plan.wanted.rows()
    assert [*again.complaints["row"]] == [*plan.complaints["row"]]
