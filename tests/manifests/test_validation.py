"""Bad rows are listed with their number, column, value and reason; good rows go on."""

import polars as pl
import pytest

from manifests import parquet
from manifests.catalogue import load
from manifests.input import check, validation
from manifests.input.validation import Complaint
from manifests.output.clips import in_words
from manifests.uris import EMPTY_NAME

URI = "s3://bucket/in/m.parquet"
CATALOGUE = load()
ROUTES = [*CATALOGUE.routes.values()]
GOOD = {"image": "a.jpg", "prompt": "p"}

pytestmark = pytest.mark.core


@pytest.fixture
def complain(tmp_path):
    """The complaints about these rows, each laid over a good one."""

    def about(*rows, routes=ROUTES, schema=None):
        path = tmp_path / "m.parquet"
        full = [GOOD | row for row in rows]
        pl.DataFrame(full, schema_overrides=schema).write_parquet(path)
        return [*check(path, URI, routes).faults]

    return about


def test_a_good_row_has_nothing_said_of_it(complain):
    assert complain({}) == []


@pytest.mark.parametrize("prompt", ["", "  \n", None])
def test_a_blank_prompt(complain, prompt):
    schema = {"prompt": pl.String}

    assert complain({"prompt": prompt}, schema=schema) == [
        Complaint(0, "prompt", prompt or "", "is blank")
    ]


@pytest.mark.parametrize(
    "prompt", ["\u200b", "\u00a0\ufeff", "\u2800", "\u3164 \u202e"]
)
def test_prompt_of_invisible_characters_is_blank(complain, prompt):
    """A prompt that nobody can see asks for nothing."""
    (found,) = complain({"prompt": prompt})

    assert found.reason == "is blank"


@pytest.mark.parametrize("prompt", ["nan", "None", " NULL ", "<NA>", "#N/A"])
def test_prompt_that_an_export_left_out_is_refused(complain, prompt):
    """Exports write a missing text as a word; no clip is bought for it."""
    (found,) = complain({"prompt": prompt})

    assert found.reason == "stands for a missing value"


@pytest.mark.parametrize("image", ["", " ", None])
def test_no_image(complain, image):
    (found,) = complain({"image": image}, schema={"image": pl.String})

    assert (found.column, found.reason) == (
        "image",
        "is missing: there is nothing to animate",
    )


def test_an_image_and_its_bytes_at_once(complain):
    (found,) = complain({"image_bytes": b"x"})

    assert (found.column, found.value) == ("image", "a.jpg")
    assert "one still a row" in found.reason


def test_empty_bytes(complain):
    (found,) = complain(
        {"image": None, "image_bytes": b""}, schema={"image": pl.String}
    )

    assert (found.column, found.value, found.reason) == ("image_bytes", "", "is empty")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"resolution": "4k"}, "is not 480p or 720p or 1080p"),
        ({"content": "odd"}, "is not general or adult"),
        ({"aspect_ratio": "4:3"}, "is not 16:9 or 9:16 or 1:1 or auto"),
        ({"seed": 2**31}, "is not in 0 to 2147483647"),
        ({"seed": -2}, "is not in 0 to 2147483647"),
        ({"seed": 0.5}, "is not a whole number"),
        ({"seed": float("inf")}, "is not a whole number"),
        ({"duration_s": 5.5}, "is not a whole number"),
        ({"take": 0}, "is less than 1"),
        ({"take": -1}, "is less than 1"),
        ({"priority": 1e300}, "is not a whole number"),
        ({"max_usd": 0}, "is not a finite number above 0"),
        ({"max_usd": -0.1}, "is not a finite number above 0"),
        ({"max_usd": float("inf")}, "is not a finite number above 0"),
    ],
)
def test_a_value_out_of_range(complain, row, reason):
    ((column, value),) = row.items()

    (found,) = complain(row)
    assert (found.column, found.value.lower(), found.reason) == (
        column,
        str(value),
        reason,
    )


def test_a_number_too_large_to_hold_is_not_taken_for_the_default(complain):
    huge = 2**64 - 1

    (found,) = complain({"duration_s": huge}, schema={"duration_s": pl.UInt64})

    assert found == Complaint(0, "duration_s", str(huge), "is not a whole number")


def test_a_very_generous_limit_is_fine(complain):
    assert complain({"max_usd": 1e40}) == []


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("htps://h/a.jpg", "has a scheme that nothing here can open"),
        ("data:image/png;base64,AA", "has a scheme that nothing here can open"),
        ("C:\\stills\\a.jpg", "has a scheme that nothing here can open"),
        ("file://stills/a.jpg", "is not a file: that takes three slashes, file:///…"),
        ("https:///a.jpg", "names no host or bucket"),
        ("s3://", "names no host or bucket"),
        ("s3://b/a//b.jpg", EMPTY_NAME),
        ("az://b//a.jpg", EMPTY_NAME),
        ("https://h/a.jpg ", "has white space around it, or control characters in it"),
        ("https://h/a\n.jpg", "has white space around it, or control characters in it"),
        ("https://[h/a.jpg", "is not a URI"),
        ("sftp://h[1]/a.jpg", "is not a URI"),
        ("https://h:x/a.jpg", "has a port that is not a number"),
    ],
)
def test_an_image_that_nothing_here_can_open(complain, image, reason):
    (found,) = complain({"image": image})

    assert (found.column, found.reason) == ("image", reason)


@pytest.mark.parametrize(
    "image",
    [
        "https://h/a.jpg",
        "HTTPS://h/a.jpg",
        "https://me:pw@h:8443/a:b@2x[1].jpg?v=[1]",
        "http://[::1]:8080/a.jpg",
        "s3://arn:aws:s3:eu-west-1:123:accesspoint/stills/a.jpg",
        "gs://b/a.jpg",
        "az://c/a.jpg",
        "hf://datasets/x/y/a.jpg",
        "memory://a.jpg",
        "file:///a.jpg",
        "/a.jpg",
        "zip://a.jpg::s3://b/z.zip",
        "a b.jpg",
        "é/ü.jpg",
        "2024:01:02.jpg",
    ],
)
def test_an_image_that_may_be_opened_is_left_to_the_opening(complain, image):
    assert complain({"image": image}) == []


@pytest.mark.parametrize(
    "image",
    [
        "htps://h/a.jpg?X-Amz-Signature=s3cret",
        "https:///a.jpg?X-Amz-Signature=s3cret",
        "https://[h/a.jpg?X-Amz-Signature=s3cret",
        "https://me:s3cret@h/a.jpg ",
        "https://me:p/s3cret@h/a.jpg",
        "https://me:p#s3cret@h/a.jpg",
        "sftp://me:s3cret@[h/a.jpg",
        "htps://me:s3cret@h/a.jpg",
    ],
)
def test_no_complaint_repeats_a_signature(complain, image):
    (found,) = complain({"image": image})

    assert "s3cret" not in str(found)


def test_a_long_value_is_repeated_in_part(complain):
    (found,) = complain({"aspect_ratio": "4" * 999})

    assert found.value == "4" * 200


def test_a_model_that_no_lane_in_use_makes(complain):
    routes = [CATALOGUE.route("fal/wan-2.2"), CATALOGUE.route("fal/wan-2.1")]

    assert complain({"model": "wan-2.2-spicy"}, routes=routes) == [
        Complaint(
            0,
            "model",
            "wan-2.2-spicy",
            "is made by no lane in use; they make wan-2.2 or wan-2.1",
        )
    ]


@pytest.mark.parametrize(
    ("model", "meant"), [("Wan-2.2-Spicy", "wan-2.2-spicy"), ("premum", "premium")]
)
def test_misspelt_model_is_told_the_nearest(complain, model, meant):
    """The complaint about an unknown name proposes the model or tier that it resembles."""
    (found,) = complain({"model": model})

    assert found.reason.startswith(f"did you mean {meant}?; is made by no lane in use")


def test_a_duration_that_its_model_does_not_make(complain):
    paid = [route for route in ROUTES if any(route.prices_usd.values())]

    (found,) = complain({"model": "wan-2.2", "duration_s": 6}, routes=paid)

    assert (found.row, found.column, found.value) == (0, "duration_s", "6")
    assert found.reason == (
        "wavespeed/wan-2.2 makes 5 or 8 s at 480p; "
        "fal/wan-2.2 makes 5 or 8 or 10 s at 480p; "
        "replicate/wan-2.2 makes 5 s at 480p"
    )


def test_a_resolution_that_its_model_does_not_make(complain):
    (found,) = complain(
        {"model": "wan-2.1", "resolution": "1080p"},
        {"model": "kling-2.5-turbo", "resolution": "1080p"},
    )

    assert (found.row, found.column, found.value) == (0, "resolution", "1080p")
    assert found.reason == (
        "wavespeed/wan-2.1 makes 480p or 720p; fal/wan-2.1 makes 480p or 720p"
    )


def test_complaint_about_a_retired_model_names_its_successor(
    complain,
):
    """The complaint about a retired model states since when, and its successor."""
    live = [route for route in ROUTES if not route.retired]

    found = complain(
        {"model": "gen3a-turbo"},
        {"model": "gen3a-turbo,wan-9", "prompt": "q"},
        {"model": "gen3a-turbo,gen4-turbo", "resolution": "720p"},
        routes=live,
    )

    assert [(c.row, c.column) for c in found] == [(0, "model"), (1, "model")]
    for complaint in found:
        assert complaint.reason.startswith(
            "is withdrawn by Runway on 2026-07-30: use gen4-turbo, its successor; "
            "is made by no lane in use; they make wan-2.2-spicy or "
        )


def test_a_tier_that_no_lane_in_use_makes(complain):
    routes = [CATALOGUE.route("fal/wan-2.2")]

    (found,) = complain({"model": "premium"}, {"model": "standard"}, routes=routes)

    assert (found.row, found.column, found.value) == (0, "model", "premium")


def test_content_that_no_lane_in_use_is_for(complain):
    routes = [CATALOGUE.route("fal/wan-2.2"), CATALOGUE.route("fal/wan-2.1")]

    complaints = complain(
        {"content": "adult"}, {"content": "general"}, {}, routes=routes
    )

    assert complaints == [
        Complaint(
            0,
            "content",
            "adult",
            "fal/wan-2.2 is for general content; fal/wan-2.1 is for general content",
        )
    ]


def test_one_lane_that_serves_the_row_is_enough(complain):
    assert complain({"duration_s": 6}, {"duration_s": 10}, {"duration_s": 8}) == []


def test_a_row_is_served_by_one_route_and_not_by_several_in_part(complain):
    routes = [
        CATALOGUE.route("fal/wan-2.2"),
        CATALOGUE.route("wavespeed/wan-2.2-spicy"),
    ]

    (found,) = complain(
        {"model": "wan-2.2-spicy", "aspect_ratio": "1:1"}, routes=routes
    )

    assert found.column == "aspect_ratio"


def test_a_negative_prompt_that_no_route_would_take(complain):
    routes = [CATALOGUE.route("wavespeed/wan-2.2-spicy")]

    assert complain({"negative_prompt": "text"}, routes=routes) == [
        Complaint(0, "negative_prompt", "text", "wavespeed/wan-2.2-spicy takes none")
    ]
    assert complain({"negative_prompt": ""}, routes=routes) == []


def test_the_second_row_of_an_id_is_the_one_that_is_refused(complain):
    rows = [{"id": i} for i in ("x", "y", "x", None, None, "x")]

    assert complain(*rows) == [
        Complaint(2, "id", "x", "is the id of row 0 too"),
        Complaint(5, "id", "x", "is the id of row 0 too"),
    ]


def test_id_that_is_a_signed_link_is_shown_unsigned(complain):
    """A complaint repeats an id that is a signed link without its signature."""
    link = {"id": "https://me:s3cret@h/a.jpg?X-Amz-Signature=s3cret"}

    assert complain(link, link) == [
        Complaint(1, "id", "https://h/a.jpg", "is the id of row 0 too")
    ]


def test_whole_numbers_are_ids_too(complain):
    assert complain({"id": 7}, {"id": 8}, {"id": 7}) == [
        Complaint(2, "id", "7", "is the id of row 0 too")
    ]


def test_ids_far_apart_are_compared_too(tmp_path):
    path = tmp_path / "m.parquet"
    rows = 120_000
    pl.DataFrame({"id": [n % (rows - 1) for n in range(rows)]}).with_columns(
        image=pl.lit("a.jpg"), prompt=pl.col("id").cast(pl.String)
    ).write_parquet(path)

    plan = check(path, URI, ROUTES)

    assert [*plan.faults] == [Complaint(rows - 1, "id", "0", "is the id of row 0 too")]
    assert plan.jobs == rows - 1


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"resolution": "4k"}, "resolution is not 480p or 720p or 1080p"),
        ({"id": "same"}, "id is the id of an earlier row too"),
    ],
)
def test_mistake_in_every_row_is_listed_briefly_for_each(
    tmp_path, monkeypatch, columns, reason
):
    """A mistake in every row is listed for each row, in few words."""
    monkeypatch.setattr(validation, "TOLD", 20)
    monkeypatch.setattr(parquet, "_SPAN", 10)
    path = tmp_path / "m.parquet"
    rows = pl.DataFrame({"image": [f"{n}.jpg" for n in range(100)]})
    filled = {"prompt": "p", **columns}
    rows.with_columns(pl.lit(v).alias(k) for k, v in filled.items()).write_parquet(path)

    plan = check(path, URI, ROUTES)

    bad = plan.bad_rows
    assert bad == plan.complaints.height >= 99
    values = plan.complaints["value"].to_list()
    assert set(values[:20]) == {*columns.values()}
    assert set(values[-70:]) == {""}
    words = in_words(plan.complaints).sort("row")
    assert words["row"].to_list() == [*range(100 - bad, 100)]
    assert words["reason"][-1] == reason


def test_all_complaints_come_at_once_in_row_order(complain):
    """All complaints about a row come at once, and in the order of rows."""
    found = complain({"prompt": ""}, {}, {"take": 0, "resolution": "4k", "seed": -5})

    assert [(c.row, c.column) for c in found] == [
        (0, "prompt"),
        (2, "resolution"),
        (2, "seed"),
        (2, "take"),
    ]


def test_a_complaint_reads_as_a_sentence():
    text = str(Complaint(3, "duration_s", "6", "is not a whole number"))

    assert text == "row 3: duration_s '6' is not a whole number"
