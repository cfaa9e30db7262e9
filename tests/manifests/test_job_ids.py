"""The ids of rows, thousands at once, are the ids that their jobs have one by one."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.input.job_ids import DECISIVE, keyed
from manifests.job_keys import ids
from manifests.jobs import Job
from manifests.uris import absolute, unsigned

TYPES = dict.fromkeys(DECISIVE, pl.String) | {
    "duration_s": pl.Int64,
    "seed": pl.Int64,
    "take": pl.Int64,
    "still": pl.String,
}
URIS = [
    "s3://bucket/in/m.parquet",
    "https://h/in/m.parquet?X-Amz-Signature=s3cret",
    "https://me:s3cret@h/in/a@b/m.parquet",
    "zip://in/m.parquet::s3://b/z.zip",
    "zip::https://h/x/m.parquet",
    "/data/#1/m.parquet",
    "file:///data/é/m.parquet",
    "m.parquet",
]
TEXT = st.text(max_size=12) | st.text("ab \"\\/\x00\x1f\x7f\n\té日😀&<>'", max_size=12)
PLACES = st.from_regex(
    r"(https?://[a-z.]{1,9}/|[sS]3://b/|sftp://me:pw@h/|/|\.\./|\./|zip://a\.jpg::|x::)?"
    r"[A-Za-z0-9?&=#@%.:/é \"\\-]{1,20}(\?X-Amz-Signature=s|\?sv=1&sig=2|#x)?",
    fullmatch=True,
)


def job_of(row, uri):
    still, image = row["still"], row["image"]
    named = f"sha256:{still}" if still else unsigned(absolute(image, uri))
    return Job(**{name: row[name] for name in DECISIVE} | {"image": named})


def keyed_ids(rows, uri):
    frame = pl.DataFrame(rows, schema=TYPES, orient="row")
    return ids(keyed(frame, uri)), [job_of(row, uri).id for row in rows]


ROW = st.fixed_dictionaries(
    {
        "prompt": TEXT,
        "negative_prompt": st.just("") | TEXT,
        "model": st.sampled_from(["", "wan-2.2", "premium,wan-2.2", 'é"']),
        "resolution": st.sampled_from(["480p", "720p", "1080p"]),
        "duration_s": st.integers(-(2**63), 2**63 - 1),
        "aspect_ratio": st.sampled_from(["auto", "16:9"]),
        "seed": st.none() | st.integers(0, 2**31),
        "take": st.integers(1, 2**63 - 1),
        "content": st.sampled_from(["", "adult", "general"]),
    }
)
STILL = st.fixed_dictionaries(
    {"image": st.none(), "still": st.from_regex("[0-9a-f]{64}", fullmatch=True)}
)
PLACE = st.fixed_dictionaries({"image": PLACES | TEXT.filter(bool), "still": st.none()})


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.builds(dict.__or__, ROW, PLACE | STILL), min_size=1, max_size=6),
    st.sampled_from(URIS),
)
def test_the_id_of_any_row_is_the_id_of_its_job(rows, uri):
    found, wanted = keyed_ids(rows, uri)

    assert found == wanted


@pytest.mark.parametrize("uri", URIS)
@pytest.mark.parametrize(
    "image",
    [
        *("a.jpg", "x/../a.jpg", "./a.jpg", "..", "a/.", "..a/b..", "/a.jpg", "//a"),
        *("50%20off.jpg", "/a%b.jpg", "file:///a%20b.jpg", "https://h/a%20b.jpg"),
        *("S3://b/a.jpg", "s3://B/../a.jpg", "a:b/c.jpg", "a::b/../c.jpg", "A::b"),
        *("https://h/a.jpg?v=1", "https://me:pw@h/a.jpg", "a@b.jpg", "a#b.jpg", "a?b"),
        *("zip://a.jpg::https://h/z.zip?X-Amz-Signature=s", "é/日.jpg", 'a"b\\c.jpg'),
    ],
)
def test_a_place_is_made_absolute_and_loses_its_signature(uri, image):
    row = dict.fromkeys(DECISIVE, "") | {"image": image, "still": None}
    row |= {"duration_s": 5, "seed": None, "take": 1}

    found, wanted = keyed_ids([row], uri)

    assert found == wanted


def test_no_rows_have_no_ids():
    assert keyed(pl.DataFrame(schema=TYPES), URIS[0]).height == 0
