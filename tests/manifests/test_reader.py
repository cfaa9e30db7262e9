"""A manifest becomes jobs: each clip once for all rows that want it, and no others."""

import hashlib
import random
from dataclasses import replace
from decimal import Decimal

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.catalogue import load
from manifests.input import ManifestError, check, embedded_images, orders
from manifests.job_keys import ids
from manifests.jobs import SEEDS
from manifests.uris import unsigned

URI = "s3://bucket/in/m.parquet"
ROUTES = [*load().routes.values()]


@pytest.fixture
def manifest(tmp_path):
    """Writes columns as a manifest, and returns its path."""

    def write(columns, **how):
        path = tmp_path / "m[1].parquet"
        pl.DataFrame(columns).write_parquet(path, **how)
        return path

    return write


class Kept:
    """A place for embedded stills that remembers them."""

    def __init__(self):
        self.stills = {}

    def __call__(self, sha256, content):
        self.stills[sha256] = content
        return f"memory://{sha256}"


def ordered(path, plan, keep=None, uri=URI):
    return [*orders(path, uri, plan.wanted, keep or Kept())]


def test_row_with_required_columns_only_gets_defaults(manifest):
    """A row with only the required columns becomes a job with our defaults."""
    path = manifest({"image": ["stills/a.jpg"], "prompt": ["slow dolly in"]})

    (order,) = ordered(path, check(path, URI, ROUTES))

    job = order.job
    assert job.image == order.still == "s3://bucket/in/stills/a.jpg"
    assert (job.resolution, job.duration_s, job.aspect_ratio) == ("480p", 5, "auto")
    assert (job.seed, job.take, order.priority, order.max_usd) == (None, 1, 0, None)


def test_every_column_reaches_the_job(manifest):
    path = manifest(
        {
            "image": ["https://h/a.jpg"],
            "prompt": ["p"],
            "negative_prompt": ["text"],
            "model": ["wan-2.2"],
            "resolution": ["720p"],
            "duration_s": [8],
            "aspect_ratio": ["1:1"],
            "seed": [0],
            "take": [2],
            "content": ["general"],
            "priority": [3],
            "max_usd": [0.15],
        }
    )

    (order,) = ordered(path, check(path, URI, ROUTES))

    job = order.job
    assert (job.negative_prompt, job.model) == ("text", "wan-2.2")
    assert job.content == "general"
    assert (job.resolution, job.duration_s, job.aspect_ratio) == ("720p", 8, "1:1")
    assert (job.seed, job.take) == (0, 2)
    assert (order.priority, order.max_usd) == (3, Decimal("0.15"))


def test_two_rows_wanting_the_same_clip_are_one_job_and_two_rows(manifest):
    path = manifest(
        {
            "image": ["a.jpg", "b.jpg", "a.jpg"],
            "prompt": ["p", "p", "p"],
            "priority": [0, 1, 2],
            "max_usd": [0.2, 0.2, 0.5],
        }
    )

    plan = check(path, URI, ROUTES)

    assert (plan.rows, plan.jobs, plan.wanted.height) == (3, 2, 3)
    first, second = ordered(path, plan)
    assert first.job.image.endswith("a.jpg")
    assert (first.priority, first.max_usd) == (2, Decimal("0.5"))
    assert (second.priority, second.max_usd) == (1, Decimal("0.2"))


def test_one_row_without_a_limit_lifts_it_for_the_job(manifest):
    """One row without a limit lifts the limit for all rows of the job."""
    path = manifest(
        {"image": ["a.jpg"] * 2, "prompt": ["p"] * 2, "max_usd": [0.2, None]}
    )

    (order,) = ordered(path, check(path, URI, ROUTES))

    assert order.max_usd is None


def test_newly_signed_link_is_the_same_job(
    manifest,
):
    """A link signed anew gives the same job; its signature is used for reading only."""
    links = [f"https://h/a.jpg?X-Amz-Signature={s}&X-Amz-Date=1" for s in ("s1", "s2")]
    path = manifest({"image": links, "prompt": ["p", "p"]})

    plan = check(path, f"https://h/m.parquet?{links[0].partition('?')[2]}", ROUTES)
    (order,) = ordered(path, plan)

    assert plan.jobs == 1
    assert (order.job.image, order.still) == ("https://h/a.jpg", links[0])
    assert "s1" not in plan.uri


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("sftp://me:s3cret@h/a.jpg", "sftp://me@h/a.jpg"),
        (
            "zip://a.jpg::https://h/z.zip?X-Amz-Signature=s3cret",
            "zip://a.jpg::https://h/z.zip",
        ),
        ("https://h/a.jpg?v=%FF", "https://h/a.jpg?v=%FF"),
    ],
)
def test_job_names_its_still_exactly_and_without_secrets(manifest, place, name):
    """A job names its still to the letter, and without a secret."""
    path = manifest({"image": [place], "prompt": ["p"]})

    (order,) = ordered(path, check(path, URI, ROUTES))

    assert (order.job.image, order.still) == (name, place)


def test_a_scheme_in_capitals_is_the_same_still(manifest):
    images = ["https://h/a.jpg", "HTTPS://h/a.jpg"]
    path = manifest({"image": images, "prompt": ["p"] * 2})

    assert check(path, URI, ROUTES).jobs == 1


def test_the_same_rows_in_another_manifest_are_the_same_jobs(manifest):
    rows = {"image": ["s3://x/a.jpg", "s3://x/b.jpg"], "prompt": ["p", "q"]}

    one = check(manifest(rows), URI, ROUTES)
    path = manifest({**rows, "caption": ["other", "columns"]})
    other = check(path, "file:///elsewhere/n.parquet", ROUTES)

    assert ids(one.wanted) == ids(other.wanted)


def test_a_null_seed_and_minus_one_are_the_same_wish(manifest):
    path = manifest({"image": ["a.jpg"] * 2, "prompt": ["p"] * 2, "seed": [None, -1]})

    plan = check(path, URI, ROUTES)

    assert plan.jobs == 1
    assert ordered(path, plan)[0].job.seed is None


@pytest.mark.parametrize(
    "dtype", [pl.UInt8, pl.Int16, pl.UInt64, pl.Float32, pl.Float64, pl.Int64]
)
def test_whole_numbers_of_any_width_will_do(manifest, dtype):
    path = manifest(
        {
            "image": ["a.jpg", "b.jpg"],
            "prompt": ["p", "p"],
            "duration_s": pl.Series([8, None], dtype=dtype),
            "seed": pl.Series([5, None], dtype=dtype),
        }
    )

    plan = check(path, URI, ROUTES)

    assert plan.complaints.is_empty()
    assert [(o.job.duration_s, o.job.seed) for o in ordered(path, plan)] == [
        (8, 5),
        (5, None),
    ]


def test_missing_whole_number_from_pandas_is_missing(manifest):
    """The value that pandas writes for a missing whole number is read as missing."""
    nan = float("nan")
    path = manifest({"image": ["a.jpg"], "prompt": ["p"], "seed": [nan], "take": [nan]})

    plan = check(path, URI, ROUTES)

    assert plan.complaints.is_empty()
    assert ordered(path, plan)[0].job.take == 1


def test_categories_and_empty_strings_are_text_and_defaults(manifest):
    path = manifest(
        {
            "image": pl.Series(["a.jpg"], dtype=pl.Categorical),
            "prompt": pl.Series(["p"], dtype=pl.Enum(["p"])),
            "model": [""],
            "resolution": [None],
            "aspect_ratio": [""],
        }
    )

    (order,) = ordered(path, check(path, URI, ROUTES))

    assert (order.job.model, order.job.resolution) == ("", "480p")


@pytest.mark.parametrize(
    "models",
    [
        "premium, wan-2.2",
        " premium,wan-2.2,",
        ["premium", "wan-2.2"],
        ["premium", None, " wan-2.2", ""],
    ],
)
def test_preferred_models_are_comma_text_or_a_list(manifest, models):
    """Models in order of preference are text with commas, or a list."""
    path = manifest({"image": ["a.jpg"], "prompt": ["p"], "model": [models]})

    (order,) = ordered(path, check(path, URI, ROUTES))

    assert order.job.model == "premium,wan-2.2"
    assert order.job.models == ("premium", "wan-2.2")


def test_one_model_in_a_list_is_the_same_wish_as_its_name(manifest):
    rows = {"image": ["a.jpg"] * 2, "prompt": ["p"] * 2}

    listed = check(manifest({**rows, "model": [["wan-2.2"], []]}), URI, ROUTES)
    named = check(manifest({**rows, "model": ["wan-2.2", None]}), URI, ROUTES)

    assert listed.jobs == 2
    assert ids(listed.wanted) == ids(named.wanted)


def test_a_list_of_models_that_no_lane_makes_is_told_as_text(manifest):
    path = manifest({"image": ["a.jpg"], "prompt": ["p"], "model": [["wan-9", "x"]]})

    (found,) = check(path, URI, ROUTES).faults

    assert (found.column, found.value) == ("model", "wan-9,x")


def test_content_left_out_blank_or_null_is_the_same_wish(manifest):
    rows = {"image": ["a.jpg"] * 3, "prompt": ["p"] * 3}

    stated = check(manifest({**rows, "content": ["", None, "adult"]}), URI, ROUTES)
    left_out = check(manifest(rows), URI, ROUTES)

    assert (stated.jobs, left_out.jobs) == (2, 1)
    assert ids(stated.wanted)[:2] == ids(left_out.wanted)[:1] * 2


def test_embedded_stills_are_jobs_by_their_bytes(manifest):
    path = manifest(
        {
            "image": [None, "a.jpg", None],
            "image_bytes": [b"one", None, b"one"],
            "prompt": ["p", "p", "p"],
        }
    )
    keep = Kept()

    plan = check(path, URI, ROUTES)
    first, second = ordered(path, plan, keep)

    sha256 = hashlib.sha256(b"one").hexdigest()
    assert plan.jobs == 2
    assert (first.job.image, first.still) == (f"sha256:{sha256}", f"memory://{sha256}")
    assert second.still == "s3://bucket/in/a.jpg"
    assert keep.stills == {sha256: b"one"}


@pytest.mark.parametrize("row_group_size", [3, 7, 500])
def test_embedded_stills_stay_with_their_rows(manifest, row_group_size):
    """Embedded stills stay with their rows, whatever the layout of the file."""
    stills = [f"still {n}".encode() for n in range(200)]
    path = manifest(
        {
            "image_bytes": stills,
            "prompt": [f"prompt {n}" for n in range(200)],
            "priority": [n % 3 for n in range(200)],
        },
        row_group_size=row_group_size,
    )
    keep = Kept()

    plan = check(path, URI, ROUTES)
    got = [
        order for shard in plan.shards(17) for order in orders(path, URI, shard, keep)
    ]

    assert [o.priority for o in got] == sorted((o.priority for o in got), reverse=True)
    assert {o.job.id for o in got} == set(ids(plan.wanted))
    for order in got:
        still = keep.stills[order.job.image.removeprefix("sha256:")]
        assert still.split()[1] == order.job.prompt.split()[1].encode()


def test_an_embedded_still_is_kept_only_when_its_order_is_taken(manifest):
    path = manifest({"image_bytes": [b"one", b"two"], "prompt": ["p", "p"]})
    keep = Kept()

    taking = orders(path, URI, check(path, URI, ROUTES).wanted, keep)

    assert keep.stills == {}
    next(taking)
    assert len(keep.stills) == 1


def test_embedded_stills_out_of_order_are_read_and_kept_once(manifest, monkeypatch):
    """Embedded stills of rows in another order are read once and kept once."""
    stills = [f"still {n}".encode() for n in range(100)]
    rows = {"image_bytes": stills, "prompt": ["p"] * 100}
    path = manifest({**rows, "priority": [n * 37 % 100 for n in range(100)]})
    plan, read, kept = check(path, URI, ROUTES), [], []
    contents = embedded_images.contents

    def counted(*asked):
        read.append(asked)
        return contents(*asked)

    monkeypatch.setattr(embedded_images, "contents", counted)
    got = [*orders(path, URI, plan.wanted, lambda _, still: kept.append(still) or "m")]

    assert len(read) == 1
    assert sorted(kept) == sorted(stills)
    digests = [hashlib.sha256(stills[row]).hexdigest() for row in plan.wanted["row"]]
    assert [order.job.image for order in got] == [f"sha256:{d}" for d in digests]


def test_still_gone_since_the_check_is_the_manifests_fault(manifest):
    """A still that is gone since the check is an error of the manifest."""
    path = manifest({"image_bytes": [b"one"], "prompt": ["p"]})
    plan = check(path, URI, ROUTES)
    manifest({"image_bytes": pl.Series([None], dtype=pl.Binary), "prompt": ["p"]})

    with pytest.raises(ManifestError, match=f"^{URI}: row 0 has lost its image_bytes"):
        ordered(path, plan)


def test_urgent_jobs_come_first_then_manifest_order(manifest):
    """The most urgent jobs come first, the rest in the manifest's order."""
    path = manifest(
        {
            "image": [f"{n}.jpg" for n in range(6)],
            "prompt": ["p"] * 6,
            "priority": [0, 5, None, 5, -1, 0],
        }
    )

    plan = check(path, URI, ROUTES)

    names = [order.still.rpartition("/")[2] for order in ordered(path, plan)]
    assert names == ["1.jpg", "3.jpg", "0.jpg", "2.jpg", "5.jpg", "4.jpg"]


def test_shards_partition_the_plan(manifest):
    """The shards are the whole plan, and each clip is in exactly one of them."""
    drawn = random.Random(7)
    path = manifest(
        {
            "image": [f"{drawn.randrange(80)}.jpg" for _ in range(300)],
            "prompt": [f"p{drawn.randrange(2)}" for _ in range(300)],
            "priority": [drawn.randrange(-5, 5) for _ in range(300)],
        },
        row_group_size=32,
    )
    plan = check(path, URI, ROUTES)

    shards = [[*orders(path, URI, shard, Kept())] for shard in plan.shards(20)]

    jobs = [order.job.id for shard in shards for order in shard]
    assert jobs == ids(plan.wanted.filter("first"))
    assert len(jobs) == len(set(jobs)) == plan.jobs
    assert max(map(len, shards)) == 20


def test_the_first_rows_alone_are_a_plan_too(manifest):
    path = manifest({"image": ["a.jpg", "", "c.jpg"], "prompt": ["p", "p", "p"]})

    plan = check(path, URI, ROUTES)

    assert (plan.head(1).rows, plan.head(1).jobs, plan.head(1).bad_rows) == (1, 1, 0)
    assert (plan.head(2).rows, plan.head(2).jobs, plan.head(2).bad_rows) == (2, 1, 1)
    assert plan.head(9).rows == 3


def test_an_empty_manifest_is_a_plan_for_nothing(manifest):
    path = manifest({"image": [], "prompt": []}, statistics=False)

    plan = check(path, URI, ROUTES)

    assert (plan.rows, plan.jobs, plan.bad_rows) == (0, 0, 0)
    assert ordered(path, plan) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["a"]}, "no column 'prompt'; its columns are image"),
        ({"prompt": ["p"]}, "no column 'image' or 'image_bytes'"),
        ({"image": [1], "prompt": ["p"]}, "'image' holds Int64, not text"),
        ({"image_bytes": ["x"], "prompt": ["p"]}, "holds String, not bytes"),
        ({"image": ["a"], "prompt": [b"p"]}, "'prompt' holds Binary, not text"),
        (
            {"image": ["a"], "prompt": ["p"], "model": [[1]]},
            "'model' holds List(Int64), not text, or a list of texts",
        ),
        (
            {"image": ["a"], "prompt": ["p"], "content": [True]},
            "'content' holds Boolean, not text",
        ),
        (
            {"image": ["a"], "prompt": ["p"], "seed": ["1"]},
            "'seed' holds String, not a whole number",
        ),
        (
            {"image": ["a"], "prompt": ["p"], "take": [True]},
            "'take' holds Boolean, not a whole number",
        ),
        (
            {"image": ["a"], "prompt": ["p"], "max_usd": ["1"]},
            "'max_usd' holds String, not a number",
        ),
        (
            {"image": ["a"], "prompt": ["p"], "id": [1.5]},
            "'id' holds Float64, not text or a whole number",
        ),
    ],
)
def test_a_wrong_column_stops_before_any_row_is_read(manifest, columns, message):
    path = manifest(columns)

    with pytest.raises(ManifestError) as caught:
        check(path, URI, ROUTES)

    assert str(caught.value).startswith(f"{URI}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        *(("Max_USD", "max_usd"), ("Resolution", "resolution"), ("prompt ", "prompt")),
        *(("resoluton", "resolution"), ("max-usd", "max_usd"), ("maxUsd", "max_usd")),
        *(("prompt_x", "prompt"), ("seed.1", "seed"), ("\ufeffid", "id"), ("ID", "id")),
        *(("\uff4dodel", "model"), ("modèle", "model"), ("duration", "duration_s")),
        *(("negative prompt", "negative_prompt"), ("prioirty", "priority")),
    ],
)
def test_column_that_is_nearly_ours_is_refused(manifest, name, ours):
    """A misspelt column stops the run, unless the user declares it as their own."""
    path = manifest({"image": ["a.jpg"], "prompt": ["p"], name: ["1"]})

    with pytest.raises(ManifestError, match=f"did you mean '{ours}'") as caught:
        check(path, URI, ROUTES)

    assert repr(name) in str(caught.value)
    assert check(path, URI, ROUTES, carry=[name]).jobs == 1


@pytest.mark.parametrize(
    "name",
    [
        "sku",
        "title",
        "image_url",
        "content_type",
        "row",
        "ids_of",
        "seller",
        "model_id",
    ],
)
def test_column_of_a_name_of_its_own_is_carried(manifest, name):
    """Names that resemble none of ours need no declaration; `row` is one of them."""
    path = manifest({"image": ["a.jpg"], "prompt": ["p"], name: ["1"]})

    plan = check(path, URI, ROUTES)

    assert [order.job.image for order in ordered(path, plan)] == [
        "s3://bucket/in/a.jpg"
    ]


@pytest.mark.parametrize(
    ("text", "format_"),
    [
        ("image,prompt\na.jpg,p\n", "CSV"),
        ("image;prompt\r\na.jpg;p\r\n", "CSV"),
        ('{"image": "a.jpg", "prompt": "p"}\n', "JSON"),
        ('[{"image": "a.jpg"}]', "JSON"),
    ],
)
def test_text_table_is_named_with_its_conversion(tmp_path, text, format_):
    """A CSV or JSON file is called one, and the message says how to convert it."""
    path = tmp_path / "m.csv"
    path.write_text(text)

    with pytest.raises(ManifestError, match=f"is {format_}, not Parquet; convert it"):
        check(path, URI, ROUTES)


def test_decimals_of_snowflake_are_whole_numbers(manifest):
    """Snowflake unloads every whole number as DECIMAL(38, 0)."""
    numbers = {"seed": [7], "take": [2], "id": [41], "duration_s": [5]}
    schema = dict.fromkeys(numbers, pl.Decimal(38, 0))
    columns = pl.DataFrame({"image": ["a.jpg"], "prompt": ["p"], **numbers})
    path = manifest(columns.cast(schema))

    (order,) = ordered(path, check(path, URI, ROUTES))

    assert (order.job.seed, order.job.take, order.job.duration_s) == (7, 2, 5)


def test_missing_number_of_pandas_is_missing_in_every_column(manifest):
    """pandas writes a missing number as NaN: it is the default, not a complaint."""
    names = ["seed", "take", "duration_s", "priority", "max_usd"]
    missing = {name: [float("nan")] for name in names}
    path = manifest({"image": ["a.jpg"], "prompt": ["p"], **missing})

    plan = check(path, URI, ROUTES)

    assert plan.bad_rows == 0
    assert [order.max_usd for order in ordered(path, plan)] == [None]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"<html>not found</html>" * 99])
def test_what_is_not_parquet_stops_with_one_clear_message(tmp_path, content):
    path = tmp_path / "m.parquet"
    path.write_bytes(content)

    with pytest.raises(ManifestError, match=r"^https://h/m.parquet: not readable"):
        check(path, "https://h/m.parquet?X-Amz-Signature=secret", ROUTES)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_file_stops_with_one_clear_message(manifest, keep):
    path = manifest({"image": [f"{n}.jpg" for n in range(999)], "prompt": ["p"] * 999})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])

    with pytest.raises(ManifestError, match=f"^{URI}: not readable as Parquet"):
        check(path, URI, ROUTES)


def test_file_broken_inside_stops_with_one_clear_message(manifest):
    """A file that is damaged inside stops the check with one clear message."""
    path = manifest({"image_bytes": [b"x" * 999] * 99, "prompt": ["p"] * 99})
    whole = path.read_bytes()
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    path.write_bytes(whole[:start] + b"\xff" * 60 + whole[start + 60 :])

    with pytest.raises(ManifestError, match=f"^{URI}: not readable as Parquet"):
        check(path, URI, ROUTES)


def test_manifest_warns_of_stills_that_need_much_memory(
    manifest,
):
    """A manifest warns if its stills take more memory than a user would expect."""
    path = manifest({"image_bytes": [b"x" * 999] * 99, "prompt": ["p"] * 99})
    light = check(path, URI, ROUTES)
    heavy = replace(light, weight=1_200_000_000)

    assert 999 <= light.weight <= 99 * 1010
    assert light.heavy is None
    assert heavy.head(1).heavy == (
        f"{URI}: 1.2 GB of stills in one row group: reading them may take as much "
        "memory; write it with row_group_size=64"
    )


def test_failure_to_keep_a_still_is_no_manifest_error(manifest):
    """A still that cannot be kept is not reported as an error of the manifest."""
    path = manifest({"image_bytes": [b"one"], "prompt": ["p"]})

    def full(_sha256, _content):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        ordered(path, check(path, URI, ROUTES), full)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.from_regex(
                r"(https://[a-z.]{1,9}/|s3://b/|/|\.\./)?[A-Za-z0-9?&=#@%.é -]{1,20}",
                fullmatch=True,
            ),
            st.text(st.characters(codec="utf-8"), max_size=9),
            st.none() | st.integers(-3, SEEDS + 3),
        ),
        max_size=9,
    )
)
def test_each_row_is_one_job_or_has_a_complaint(tmp_path_factory, rows):
    """Each row is one job or has a complaint, whatever its values."""
    path = tmp_path_factory.mktemp("any") / "m.parquet"
    pl.DataFrame(
        rows,
        schema={"image": pl.String, "prompt": pl.String, "seed": pl.Int64},
        orient="row",
    ).write_parquet(path)

    plan = check(path, URI, ROUTES)

    bad = set(plan.complaints["row"])
    assert {*plan.wanted["row"], *bad} == set(range(len(rows)))
    assert not bad & {*plan.wanted["row"]}
    for order in ordered(path, plan):
        assert order.job.id in set(ids(plan.wanted))
        assert order.job.image == unsigned(order.still)


def test_column_of_hugging_face_images_is_told_how_to_convert(manifest):
    """Beside image_bytes, a pair is refused with the expression that converts it."""
    pair, more = {"bytes": b"still", "path": "a.jpg"}, {"image_bytes": [b"other"]}
    path = manifest({"image": [pair], "prompt": ["p"], **more})

    with pytest.raises(ManifestError, match=r"image_bytes=pl\.col\('image'\)"):
        check(path, path.as_uri(), [])
