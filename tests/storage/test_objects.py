"""What every store promises alike."""

import asyncio
import os
import secrets
import stat
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from storage.objects import (
    ExistsError,
    MissingError,
    Objects,
    StorageError,
    UnavailableError,
)

pytestmark = pytest.mark.anyio


async def test_what_was_put_is_read_back(objects: Objects):
    await objects.create("clips/ab/abcd.json", b"{}")

    assert await objects.get("clips/ab/abcd.json") == b"{}"


async def test_what_is_not_there_is_missing(objects: Objects):
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


async def test_a_plain_path_is_a_file_root_and_is_made(tmp_path: Path):
    folder = tmp_path / "not" / "there yet"

    objects = Objects.open(str(folder))
    await objects.create("a.mp4", b"1")

    assert objects.uri("a.mp4") == (folder / "a.mp4").as_uri()
    assert await asyncio.to_thread((folder / "a.mp4").read_bytes) == b"1"


async def test_a_put_on_a_disk_has_reached_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[str] = []
    really = os.fsync

    def fsync(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        synced.append(kind)
        really(handle)

    # The disk's own word is not to be had: what we asked of it is the next best.
    monkeypatch.setattr(os, "fsync", fsync)
    objects = Objects.open(str(tmp_path))
    await objects.create("a", b"1")
    await objects.put("a", b"2")

    assert synced == ["file", "folder", "file", "folder"]
    assert [stored.key async for stored in objects.list()] == ["a"]


async def test_drafts_that_a_crash_left_are_not_listed(tmp_path: Path):
    (tmp_path / "a.mp4#12345").write_bytes(b"half")

    objects = Objects.open(str(tmp_path))

    assert [stored async for stored in objects.list()] == []


async def test_a_store_signs_links_that_read(s3_root: str):
    objects = Objects.open(s3_root)
    await objects.create("clips/ab/a.mp4", b"1234")

    link = await objects.sign("clips/ab/a.mp4", 60)

    assert link is not None
    with await asyncio.to_thread(urllib.request.urlopen, link) as answer:
        assert answer.read() == b"1234"
        assert answer.headers["Content-Type"] == "video/mp4"


@pytest.mark.parametrize("root", ["memory", "file"], indirect=True)
async def test_a_store_without_links_says_so(objects: Objects):
    await objects.create("a", b"1")

    assert await objects.sign("a", 60) is None


async def test_a_lost_answer_is_believed_to_be_ours(s3_root, proxy, through):
    async with proxy.serve() as port:
        through(port)
        objects = Objects.open(s3_root)
        proxy.fault.lose_answers = 1

        await objects.create("a", b"ours")

    assert [line.split()[0] for line in proxy.fault.seen] == [b"PUT", b"PUT", b"GET"]


async def test_a_lost_answer_does_not_make_theirs_ours(s3_root, proxy, through):
    await Objects.open(s3_root).create("a", b"theirs")
    async with proxy.serve() as port:
        through(port)
        objects = Objects.open(s3_root)
        proxy.fault.lose_answers = 1

        with pytest.raises(ExistsError):
            await objects.create("a", b"ours")

    assert await objects_at(s3_root, through, proxy).get("a") == b"theirs"


def objects_at(root, through, proxy) -> Objects:
    through(proxy.upstream)
    return Objects.open(root)


async def test_a_store_that_is_busy_is_asked_again(s3_root, proxy, through):
    async with proxy.serve() as port:
        through(port)
        objects = Objects.open(s3_root)
        proxy.fault.refuse = 2

        await objects.create("a", b"1")

    assert len(proxy.fault.seen) == 3


async def test_a_store_that_stays_away_is_named(s3_root: str, through):
    through(1)
    objects = Objects.open(s3_root, patience_s=0)

    with pytest.raises(UnavailableError) as caught:
        await objects.get("a")

    assert str(caught.value).startswith(f"{s3_root}/a: ")
    assert "Connection refused" in str(caught.value)


@pytest.mark.usefixtures("s3_root")
async def test_a_missing_bucket_is_not_a_missing_object():
    objects = Objects.open(f"s3://no-bucket-{secrets.token_hex(4)}/x")

    for asked in (objects.get("a"), objects.put("a", b"1")):
        with pytest.raises(StorageError, match="NoSuchBucket") as caught:
            await asked
        assert not isinstance(caught.value, MissingError | UnavailableError)


async def test_refused_credentials_are_told_at_once_and_never_shown(
    s3_root: str, through, monkeypatch: pytest.MonkeyPatch
):
    body = b"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIDNIGHTREEL"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: %d"
        writer.write(head % len(body) + b"\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDNIGHTREEL")
    through(server.sockets[0].getsockname()[1])
    objects = Objects.open(s3_root)

    with pytest.raises(StorageError) as caught:
        await objects.get("a")
    server.close()

    assert (
        str(caught.value) == f"{s3_root}/a: HTTP 403 Forbidden, SignatureDoesNotMatch"
    )
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3:///no-bucket", "file://host/x"])
def test_a_uri_that_is_no_store_is_named(uri: str):
    with pytest.raises(StorageError, match=uri):
        Objects.open(uri)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"1")

    with pytest.raises(StorageError, match="file"):
        Objects.open(str(tmp_path / "file"))
