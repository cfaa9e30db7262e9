"""A folder of Parquet files, and a pattern, are manifests."""

import io
import secrets

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.catalogue import shipped
from manifests.input import ManifestError
from storage.source_policy import SourcePolicy
from storage.sources import OpeningError
from tasks.batch import manifest_copy
from tasks.batch.manifest_copy import manifest_uri
from tasks.batch.request import MANIFEST, Wanted, ordered, planned
from tasks.dispatch import Lane, Limits
from tasks.providers import PROVIDERS
from tasks.providers.http import Endpoint
from tests.storage.test_stills import encoded

ROUTE = shipped().route("wavespeed/wan-2.2-spicy")
LANE = Lane(
    name="spicy",
    route=ROUTE,
    endpoint=Endpoint(PROVIDERS["wavespeed"](ROUTE, "key")),
    limits=Limits(slots=1, submits_per_minute=60),
)


def parquet(**columns):
    out = io.BytesIO()
    pl.DataFrame(columns).write_parquet(out)
    return out.getvalue()


def rows(*names, **more):
    return parquet(image=[*names], prompt=["pan"] * len(names), **more)


def put(base, **files):
    for name, content in files.items():
        with fsspec.open(f"{base}/{name}", "wb", auto_mkdir=True) as file:
            file.write(content)


@pytest.fixture(params=["local", "memory"])
def base(request, tmp_path):
    if request.param == "memory":
        return f"memory://{secrets.token_hex(6)}"
    return (tmp_path / "night").as_uri()


@pytest.fixture
def read(tmp_path_factory):
    """The plan, and the stills that its orders name."""

    def read(uri, **more):
        folder = tmp_path_factory.mktemp("work")
        wanted = Wanted(manifest=uri, root="", **more)
        plan = planned(wanted, folder, [LANE])
        orders = ordered(folder / MANIFEST, uri, plan.wanted.sort("row"), folder)
        return plan, [order.still for order in orders], folder / MANIFEST

    return read


def test_folder_of_spark_is_one_manifest_by_file_name(base, read):
    """Rows are in the order of the files' names, without marker and hidden files."""
    put(
        base,
        **{
            "part-00001.snappy.parquet": rows("c.jpg"),
            "part-00000.snappy.parquet": rows("a.jpg", "b.jpg"),
            "_SUCCESS": b"",
            "_metadata.parquet": b"no data",
            ".part-00002.parquet": b"no data",
            "readme.txt": b"about",
        },
    )

    plan, stills, _ = read(f"{base}/")

    assert (plan.rows, plan.bad_rows) == (3, 0)
    assert stills == [f"{base}/{name}.jpg" for name in "abc"]


def test_partitions_of_hive_become_columns(base, read):
    """Whole numbers are numbers, padded ones are text, and Hive's null is null."""
    put(
        base,
        **{
            "take=1/show=007/x.parquet": rows("a.jpg"),
            "take=2/show=__HIVE_DEFAULT_PARTITION__/x.parquet": rows("a.jpg"),
            "take=2/show=a%2Fb/x.parquet": rows("b.jpg"),
        },
    )

    plan, stills, copy = read(f"{base}/")

    assert plan.bad_rows == 0
    frame = pl.read_parquet(copy)
    assert frame["take"].to_list() == [1, 2, 2]
    assert frame["show"].to_list() == ["007", None, "a/b"]
    assert stills == [f"{base}/a.jpg", f"{base}/a.jpg", f"{base}/b.jpg"]


def test_column_of_a_file_goes_before_its_partition(base, read):
    """A file that repeats its partition keeps its own values."""
    put(base, **{"take=1/x.parquet": rows("a.jpg", take=[3])})

    assert pl.read_parquet(read(f"{base}/")[2])["take"].to_list() == [3]


def test_pattern_takes_what_matches_and_no_more(base, read):
    """A * stays in one name, **/ crosses folders; stills lie in the pattern's folder."""
    put(
        base,
        **{
            "day=1/a.parquet": rows("a.jpg"),
            "day=2/b.parquet": rows("b.jpg"),
            "old/in/c.parquet": rows("c.jpg"),
            "old/in/deep/e.parquet": rows("e.jpg"),
            "d.parq": rows("d.jpg"),
        },
    )

    def seen(pattern):
        return [each.rpartition("/")[2] for each in read(f"{base}/{pattern}")[1]]

    assert seen("day=*/*.parquet") == ["a.jpg", "b.jpg"]
    assert seen("*.parq") == ["d.jpg"]
    assert seen("old/*/*.parquet") == ["c.jpg"]
    assert seen("old/**/*.parquet") == ["c.jpg", "e.jpg"]
    assert read(f"{base}/day=*/*.parquet")[1] == [f"{base}/a.jpg", f"{base}/b.jpg"]


def test_types_that_one_column_can_hold_are_one(base, read):
    """A seed that pandas wrote as a float, or as null, joins whole numbers."""
    categories = io.BytesIO()
    named = {"image": ["c.jpg"], "prompt": ["pan"], "seed": [7]}
    as_category = pa.table(named).set_column(
        1, "prompt", pa.array(["pan"]).dictionary_encode()
    )
    pq.write_table(as_category, categories)
    put(
        base,
        **{
            "1.parquet": rows("a.jpg", seed=[5]),
            "2.parquet": rows("b.jpg", seed=[float("nan")]),
            "3.parquet": categories.getvalue(),
            "4.parquet": rows("d.jpg", seed=[None]),
        },
    )

    plan, stills, _ = read(f"{base}/")

    assert (plan.rows, plan.bad_rows, len(stills)) == (4, 0, 4)


DIFFERING = {
    r"2.parquet: lacks the columns 'max_usd', compared with .*1.parquet": rows("b.jpg"),
    r"2.parquet: adds the columns 'mood'": rows("b.jpg", max_usd=[1.0], mood=["x"]),
    r"2.parquet: has other types than the files before it": rows(
        "b.jpg", max_usd=[b"1"]
    ),
    r"2.parquet: is CSV, not Parquet; convert it": b"image,prompt\na.jpg,pan\n",
    r"2.parquet: not readable as Parquet": b"PAR1 and no more",
}


@pytest.mark.parametrize("message", DIFFERING)
def test_file_unlike_the_others_is_named(base, read, message):
    """A file without max_usd would buy without a limit: it stops the run at once."""
    put(
        base,
        **{"1.parquet": rows("a.jpg", max_usd=[1.0]), "2.parquet": DIFFERING[message]},
    )

    with pytest.raises(ManifestError, match=message):
        read(f"{base}/")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("readme.txt", r"no \*\.parquet file in"),
        ("_temporary/0/x.parquet", "is still being written"),
        ("_delta_log/0.json", "is a Delta table"),
        ("metadata/1.metadata.json", "is an Iceberg table"),
        (".hoodie/x.commit", "is a Hudi table"),
    ],
)
def test_folder_that_is_no_manifest_is_refused(base, read, name, message):
    """A table's folder may hold rows that were deleted; a writer's may lack some."""
    put(base, **{name: b"x"})
    if name != "readme.txt":
        put(base, **{"1.parquet": rows("a.jpg")})

    with pytest.raises(OpeningError, match=message):
        read(f"{base}/")


def test_folder_that_is_not_there_is_named(tmp_path, read):
    """A pattern in no folder says that there is no such file."""
    with pytest.raises(OpeningError, match="no such file"):
        read(f"{tmp_path.as_uri()}/none/*.parquet")


@pytest.mark.parametrize("change", ["added", "written anew"])
def test_folder_that_changes_while_it_is_read_is_refused(
    base, read, monkeypatch, change
):
    """A file that is added meanwhile is not silently left out."""
    put(base, **{"1.parquet": rows("a.jpg"), "2.parquet": rows("b.jpg")})
    fetch = manifest_copy.fetch_to

    def late(uri, path):
        fetch(uri, path)
        name = "0.parquet" if change == "added" else "1.parquet"
        put(base, **{name: rows("a.jpg", "c.jpg")})

    monkeypatch.setattr(manifest_copy, "fetch_to", late)

    with pytest.raises(OpeningError, match="changed while they were read") as raised:
        read(f"{base}/")
    assert raised.value.passing


def test_stills_in_a_folder_of_files_are_kept(base, read):
    """Embedded stills of all files reach their orders."""
    put(
        base,
        **{
            f"{n}.parquet": parquet(image_bytes=[b"still %d" % n], prompt=["pan"])
            for n in range(3)
        },
    )

    _, stills, _ = read(f"{base}/")

    read_back = [fsspec.open(uri, "rb").open().read() for uri in stills]
    assert read_back == [b"still 0", b"still 1", b"still 2"]


def test_manifest_of_several_files_allows_its_own_folder(tmp_path, read):
    """Stills below the folder may be read, those beside it may not."""
    night = tmp_path / "night"
    put(night.as_uri(), **{"day=1/x.parquet": rows("a.jpg", "../b.jpg")})
    allowed = SourcePolicy()

    for uri in (f"{night.as_uri()}/", f"{night.as_uri()}/day=*/*.parquet"):
        plan, stills, _ = read(uri, sources=allowed)
        assert stills == [f"{night.as_uri()}/a.jpg"]
        assert plan.complaints["row"].to_list() == [1]


def test_path_of_a_folder_or_pattern_becomes_its_uri(tmp_path):
    """A folder gets a slash; a star is a pattern's, unless there is such a file."""
    (tmp_path / "a*b").mkdir()
    (tmp_path / "a*b" / "x*.parquet").touch()

    def of(path):
        return manifest_uri(str(path), path.as_uri())

    uri = tmp_path.as_uri()
    assert of(tmp_path) == f"{uri}/"
    assert of(tmp_path / "a*b") == f"{uri}/a%2Ab/"
    assert of(tmp_path / "a*b" / "x*.parquet") == f"{uri}/a%2Ab/x%2A.parquet"
    assert of(tmp_path / "*.parquet") == f"{uri}/*.parquet"
    assert manifest_uri("s3://b/x", "s3://b/x") == "s3://b/x"
    for each in (f"{uri}/", f"{uri}/*.parquet"):
        assert manifest_uri(each, each) == each


# -- Hugging Face's images


def test_images_of_hugging_face_are_read(tmp_path, read):
    """The bytes are the still; without bytes, the path is; the tables keep both names."""
    content = encoded()
    images = [
        {"bytes": content, "path": "a.jpg"},
        {"bytes": None, "path": "b.jpg"},
        None,
    ]
    path = tmp_path / "m.parquet"
    pl.DataFrame({"image": images, "prompt": ["pan"] * 3}).write_parquet(path)

    plan, (first, second), copy = read(path.as_uri())

    assert fsspec.open(first, "rb").open().read() == content
    assert second == f"{tmp_path.as_uri()}/b.jpg"
    assert plan.complaints["reason"].to_list() == [
        "is missing: there is nothing to animate"
    ]
    frame = pl.read_parquet(copy)
    assert frame["image"].to_list() == [None, "b.jpg", None]
    assert frame["image_path"].to_list() == ["a.jpg", None, None]


def test_images_of_hugging_face_in_a_folder_are_read(base, read):
    """A dataset in several files is joined first, then split."""
    for n in range(2):
        image = [{"bytes": b"still %d" % n, "path": "a.jpg"}]
        put(base, **{f"train-{n}.parquet": parquet(image=image, prompt=["pan"])})

    plan, stills, _ = read(f"{base}/")

    assert plan.bad_rows == 0
    assert [fsspec.open(uri, "rb").open().read() for uri in stills] == [
        b"still 0",
        b"still 1",
    ]


def test_job_of_a_pair_is_that_of_its_bytes(tmp_path, read):
    """The same still as image_bytes and as a pair is bought once."""
    plain, paired = tmp_path / "plain.parquet", tmp_path / "paired.parquet"
    pair = [{"bytes": b"still", "path": "a.jpg"}]
    pl.DataFrame({"image_bytes": [b"still"], "prompt": ["p"]}).write_parquet(plain)
    pl.DataFrame({"image": pair, "prompt": ["p"]}).write_parquet(paired)

    keys = [read(each.as_uri())[0].wanted["key"].item() for each in (plain, paired)]

    assert keys[0] == keys[1]
