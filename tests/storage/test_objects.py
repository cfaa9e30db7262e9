"""Every store keeps the same promises."""

import asyncio
import os
from pathlib import Path

import pytest

from storage.objects import ExistsError, MissingError, Objects, StorageError

pytestmark = pytest.mark.anyio


async def test_what_was_put_is_read_back(objects: Objects):
    await objects.create("clips/ab/abcd.json", b"{}")

    assert await objects.get("clips/ab/abcd.json") == b"{}"


async def test_missing_object_raises(objects: Objects):
    """Reading an object that does not exist raises an error."""
    with pytest.raises(MissingError, match=r"clips/none\.mp4: no such object"):
        await objects.get("clips/none.mp4")


async def test_a_create_never_replaces_other_bytes(objects: Objects):
    await objects.create("a", b"first")

    with pytest.raises(ExistsError, match="/a: exists"):
        await objects.create("a", b"second")
    assert await objects.get("a") == b"first"


async def test_a_create_that_finds_its_own_bytes_has_succeeded(objects: Objects):
    await objects.create("a", b"same")

    await objects.create("a", b"same")

    assert await objects.get("a") == b"same"


async def test_of_many_creates_at_once_one_wins(objects: Objects):
    tries = [objects.create("a", b"%d" % n) for n in range(8)]

    results = await asyncio.gather(*tries, return_exceptions=True)

    winners = [n for n, result in enumerate(results) if result is None]
    assert len(winners) == 1
    assert all(isinstance(r, ExistsError) for r in results if r is not None)
    assert await objects.get("a") == b"%d" % winners[0]


async def test_a_put_replaces(objects: Objects):
    await objects.put("a.mp4", b"first")

    await objects.put("a.mp4", b"second")

    assert await objects.get("a.mp4") == b"second"


async def test_a_list_is_sorted_and_only_of_its_folder(objects: Objects):
    for key in ("led/2", "led/1", "led/10/x", "ledger/1", "z"):
        await objects.create(key, b"12345")

    listed = [stored async for stored in objects.list("led")]

    assert [stored.key for stored in listed] == ["led/1", "led/10/x", "led/2"]
    assert {stored.size for stored in listed} == {5}
    assert all(stored.modified > 1_700_000_000 for stored in listed)


@pytest.mark.slow
async def test_a_list_has_every_page(objects: Objects):
    # Azure lists 5000 at a time, S3 and GCS 1000.
    keys = [f"led/{n:05}" for n in range(5001 if "az:" in objects.root else 1001)]
    for some in range(0, len(keys), 100):
        puts = [objects.put(key, b"1") for key in keys[some : some + 100]]
        await asyncio.gather(*puts, objects.put(f"other/{some}", b"1"))

    listed = [stored.key async for stored in objects.list("led")]

    assert listed == keys


async def test_an_empty_folder_lists_nothing(objects: Objects):
    assert [stored async for stored in objects.list("nothing/here")] == []


async def test_a_delete_may_be_repeated(objects: Objects):
    await objects.create("a", b"1")

    await objects.delete("a")
    await objects.delete("a")

    with pytest.raises(MissingError):
        await objects.get("a")


async def test_the_same_uri_is_the_same_store(root: str):
    await Objects.open(root).create("a", b"1")

    assert await Objects.open(f"{root}/").get("a") == b"1"


async def test_a_memory_store_is_not_its_neighbour():
    await Objects.open("memory://one").create("a", b"1")

    with pytest.raises(MissingError):
        await Objects.open("memory://two").get("a")


@pytest.mark.parametrize("key", ["../outside", "clips/../../outside", "draft#1"])
async def test_a_key_stays_below_the_root(objects: Objects, key: str):
    with pytest.raises(ValueError, match="cannot be a key"):
        await objects.put(key, b"1")


async def test_plain_path_is_a_file_root(tmp_path: Path):
    folder = tmp_path / "a root"
    folder.mkdir()

    objects = Objects.open(str(folder))
    await objects.create("a.mp4", b"1")

    assert objects.uri("a.mp4") == (folder / "a.mp4").as_uri()
    assert await asyncio.to_thread((folder / "a.mp4").read_bytes) == b"1"


def test_missing_folder_is_refused_and_not_made(tmp_path: Path):
    """Only a run begins a root: a disk that is not mounted is no new root."""
    folder = tmp_path / "not" / "there"

    with pytest.raises(StorageError, match=f"^{folder.as_uri()}: no such folder$"):
        Objects.open(str(folder))

    assert not (tmp_path / "not").exists()


# -- files


@pytest.mark.parametrize("size", [0, 5, (8 << 20) + 3])
async def test_a_file_is_put_and_brought_back(
    objects: Objects, tmp_path: Path, size: int
):
    content = os.urandom(size)
    await put_down(tmp_path / "one", content)

    await objects.put("tables/one.parquet", b"what was there before")
    await objects.put_file("tables/one.parquet", tmp_path / "one")
    await objects.create_file("volumes/one.parquet", tmp_path / "one")
    await objects.get_file("tables/one.parquet", tmp_path / "two")

    assert await asyncio.to_thread((tmp_path / "two").read_bytes) == content
    assert await objects.get("volumes/one.parquet") == content


async def test_a_created_file_never_replaces_other_bytes(
    objects: Objects, tmp_path: Path
):
    await put_down(tmp_path / "one", b"first")
    await put_down(tmp_path / "two", b"fir")
    await objects.create_file("a", tmp_path / "one")

    await objects.create_file("a", tmp_path / "one")
    with pytest.raises(ExistsError, match="/a: exists"):
        await objects.create_file("a", tmp_path / "two")

    assert await objects.get("a") == b"first"


async def test_a_file_that_is_not_there_is_missing(objects: Objects, tmp_path: Path):
    with pytest.raises(MissingError, match="no such object"):
        await objects.get_file("tables/none.parquet", tmp_path / "none")


async def put_down(path: Path, content: bytes) -> None:
    await asyncio.to_thread(path.write_bytes, content)


# -- roots


@pytest.mark.parametrize(
    ("root", "costs"),
    [("memory", False), ("file", False), ("s3", True), ("gs", True), ("az", True)],
    indirect=["root"],
)
async def test_it_is_known_where_a_request_costs_money(objects: Objects, costs: bool):  # noqa: FBT001
    assert objects.remote is costs


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3:///no-bucket", "file://host/x"])
def test_a_uri_that_is_no_store_is_named(uri: str):
    with pytest.raises(StorageError, match=uri):
        Objects.open(uri)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"1")

    with pytest.raises(StorageError, match="/file: a file is where a folder should be"):
        Objects.open(str(tmp_path / "file"))
