"""The clips table: every manifest row is in it, with its clip or the reason for none."""

from datetime import UTC, datetime
from decimal import Decimal

import polars as pl
import pytest

from manifests.catalogue import load
from manifests.input import check
from manifests.job_keys import ids
from manifests.lifecycle import (
    Adjusted,
    Discarded,
    Doubted,
    Generated,
    Published,
    Refused,
    Rejected,
    fold,
)
from manifests.output import Outcomes, write_clips, write_complaints
from manifests.output.clips import CLIPS
from tests.histories import ACCEPTED, FACTS, intended, ledger_entries

URI = "s3://bucket/in/m.parquet"
ROUTES = [*load().routes.values()]
INTENDED = intended()


@pytest.fixture
def clips(tmp_path):
    """The clips table of these columns, with each job's events as given."""

    def table(columns, lives=(), *, reasons=None):
        manifest, out = tmp_path / "m.parquet", tmp_path / "clips.parquet"
        pl.DataFrame(columns).write_parquet(manifest)
        plan = check(manifest, URI, ROUTES)
        jobs = ids(plan.wanted.filter("first").sort("row"))
        entries = [
            entry
            for job, events in zip(jobs, lives, strict=False)
            for entry in ledger_entries(job, *events)
        ]
        outcomes = Outcomes(
            histories=fold(entries),
            reasons={jobs[n]: why for n, why in (reasons or {}).items()},
        )
        write_clips(out, manifest, plan, lambda _: outcomes)
        return pl.read_parquet(out)

    return table


def test_a_published_clip_has_all_that_is_known_of_it(clips):
    table = clips(
        {"image": ["a.jpg"], "prompt": ["p"], "caption": ["a harbour"]},
        [
            (
                INTENDED,
                ACCEPTED,
                Generated(9),
                Published("s3://out/clips/ab/abcd.mp4", FACTS),
            )
        ],
    )

    (row,) = table.rows(named=True)
    assert row["caption"] == "a harbour"
    assert (row["row"], row["state"], row["reason"]) == (0, "published", None)
    assert row["uri"] == "s3://out/clips/ab/abcd.mp4"
    assert (row["lane"], row["provider"], row["model_used"]) == (
        "spicy",
        "wavespeed",
        "wan-2.2-spicy",
    )
    assert (row["remote_id"], row["seed_used"], row["attempts"]) == ("remote-1", 9, 1)
    assert (row["price_usd"], row["spent_usd"]) == (Decimal("0.15"), Decimal("0.15"))
    assert row["submitted_at"] == datetime(2027, 1, 15, 8, 0, 0, 500_000, UTC)
    assert row["published_at"] == datetime(2027, 1, 15, 8, 0, 3, 500_000, UTC)
    assert (row["sha256"], row["bytes"], row["frames"]) == ("ab" * 32, 1234, 81)
    assert (row["seconds"], row["fps"], row["codec"]) == (5.0625, 16.0, "h264")


def test_the_manifests_columns_come_first_and_ours_after_them(clips):
    table = clips({"caption": ["c"], "image": ["a.jpg"], "prompt": ["p"]})

    assert table.columns == ["caption", "image", "prompt", *CLIPS]
    assert dict(table.schema) | dict(CLIPS) == dict(table.schema)


def test_a_bad_row_says_all_that_is_wrong_with_it_and_has_no_job(clips):
    table = clips({"image": ["a.jpg", ""], "prompt": ["p", " "]})

    bad = table.row(1, named=True)
    assert (bad["row"], bad["job"], bad["state"]) == (1, None, "invalid")
    assert bad["reason"] == (
        "image is missing: there is nothing to animate; prompt is blank"
    )


def test_two_rows_of_one_job_tell_the_same_story(clips):
    table = clips(
        {"image": ["a.jpg", "a.jpg"], "prompt": ["p", "p"], "id": ["x", "y"]},
        [(INTENDED, ACCEPTED, Generated(), Published("u", FACTS))],
    )

    assert table["id"].to_list() == ["x", "y"]
    assert table["uri"].to_list() == ["u", "u"]
    assert table["job"].n_unique() == 1


@pytest.mark.parametrize(
    ("life", "state", "reason"),
    [
        ((), "pending", "not made yet"),
        ((INTENDED,), "in_doubt", "may have been charged"),
        ((INTENDED, Doubted("ReadTimeout")), "in_doubt", "ReadTimeout"),
        ((INTENDED, ACCEPTED), "accepted", "the provider has it"),
        ((INTENDED, ACCEPTED, Generated()), "generated", "the clip is at the provider"),
        ((INTENDED, Refused("busy")), "pending", "busy"),
        ((INTENDED, ACCEPTED, Discarded("black")), "pending", "black"),
        ((INTENDED, Rejected("content policy")), "rejected", "content policy"),
    ],
)
def test_a_row_without_a_clip_says_why(clips, life, state, reason):
    table = clips({"image": ["a.jpg"], "prompt": ["p"]}, [life])

    (row,) = table.rows(named=True)
    assert row["state"] == state
    assert reason in row["reason"]
    assert row["uri"] is None


def test_what_was_settled_later_is_in_what_a_job_cost(clips):
    refund = Adjusted(attempt=1, usd=Decimal("-0.05"), reason="refunded in part")
    table = clips(
        {"image": ["a.jpg"], "prompt": ["p"]},
        [(INTENDED, ACCEPTED, Generated(), Published("u", FACTS), refund)],
    )

    assert table["spent_usd"].item() == Decimal("0.10")


def test_the_wishes_of_a_row_are_carried_as_they_were_written(clips):
    table = clips(
        {
            "image": ["a.jpg", "b.jpg"],
            "prompt": ["p", "q"],
            "content": ["adult", None],
            "model": [["premium", "wan-2.2-spicy"], []],
        }
    )

    assert table["content"].to_list() == ["adult", None]
    assert table["model"].to_list() == [["premium", "wan-2.2-spicy"], []]


def test_a_run_may_know_better_why_a_job_rests(clips):
    table = clips(
        {"image": ["a.jpg"], "prompt": ["p"]}, reasons={0: "the budget is spent"}
    )

    assert table["reason"].item() == "the budget is spent"


def test_no_signature_is_kept_in_a_table(clips):
    table = clips(
        {"image": ["https://h/a.jpg?X-Amz-Signature=s3cret"], "prompt": ["p"]}
    )

    assert table["image"].item() == "https://h/a.jpg"


def test_the_stills_bytes_are_not_carried(clips):
    table = clips({"image_bytes": [b"still"], "prompt": ["p"]})

    assert "image_bytes" not in table.columns
    assert table.height == 1


def test_a_column_called_like_ours_goes_on_under_another_name(clips):
    table = clips(
        {
            "image": ["a.jpg"],
            "prompt": ["p"],
            "width": [640],
            "state": ["Ohio"],
            "state_in": ["taken"],
        }
    )

    (row,) = table.rows(named=True)
    assert (row["width_in"], row["state_in"], row["state_in_in"]) == (
        640,
        "taken",
        "Ohio",
    )
    assert (row["width"], row["state"]) == (None, "pending")


def test_columns_of_any_type_are_carried_through(clips):
    columns = {
        "image": ["a.jpg", "b.jpg"],
        "prompt": ["p", "q"],
        "tags": [["x", "y"], []],
        "camera": [{"lens": 35}, None],
        "kind": pl.Series(["day", "night"], dtype=pl.Categorical),
        "shot": [datetime(2026, 1, 2, tzinfo=UTC), None],
        "raw": [b"\x00", None],
    }

    table = clips(columns)

    wanted = pl.DataFrame(columns)
    assert table.select(wanted.columns).rows() == wanted.rows()


def test_a_manifest_of_many_slices_comes_out_whole_and_in_order(clips):
    count = 45_001
    table = clips(
        {"image": [f"{n}.jpg" for n in range(count)], "prompt": ["p"] * count}
    )

    assert table["row"].to_list() == list(range(count))
    assert table["image"][-1] == f"{count - 1}.jpg"
    assert table["job"].n_unique() == count


def test_what_became_of_the_jobs_is_asked_a_slice_at_a_time(tmp_path):
    manifest, out, count = tmp_path / "m.parquet", tmp_path / "clips.parquet", 45_001
    images = [f"{n}.jpg" for n in range(count - 1)]
    pl.DataFrame({"image": [*images, ""], "prompt": ["p"] * count}).write_parquet(
        manifest
    )
    plan, asked = check(manifest, URI, ROUTES), []

    def tell(keys):
        asked.append(keys)
        return Outcomes(histories={}, reasons={})

    write_clips(out, manifest, plan, tell)

    assert [keys.height for keys in asked] == [20_000, 20_000, 5_000]
    assert pl.concat(asked).equals(plan.wanted.select("key", "also"))


def test_an_empty_manifest_leaves_an_empty_table(clips):
    table = clips({"image": pl.Series([], dtype=pl.String), "prompt": []})

    assert table.height == 0
    assert table.columns == ["image", "prompt", *CLIPS]


def test_complaints_are_a_table_too(tmp_path):
    manifest, out = tmp_path / "m.parquet", tmp_path / "complaints.parquet"
    pl.DataFrame({"image": ["a.jpg"], "prompt": [""]}).write_parquet(manifest)

    write_complaints(out, check(manifest, URI, ROUTES))

    assert pl.read_parquet(out).rows() == [(0, "prompt", "", "is blank")]
