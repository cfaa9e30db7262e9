"""A manifest that lands is reported as a whole; one run takes each version of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.input import ManifestError
from storage.inbox import Drop, Inbox, Register, claimed
from storage.objects import Objects, StorageError
from tests.storage.lives import made

pytestmark = pytest.mark.anyio


@pytest.fixture
def inbox(root) -> Inbox:
    return Inbox(objects=made(f"{root}/drop"))


@pytest.fixture
def register(root) -> Register:
    return Register(made(f"{root}/reel"))


async def test_manifests_are_found_by_name_at_any_depth(inbox):
    """A manifest is recognized by its name, at any depth below the inbox."""
    for key in (
        *("a.parquet", "july/b c.parquet", "notes.txt", "a.parquet.ready"),
        *("july/_temporary/0/b.parquet", ".hidden.parquet"),
    ):
        await inbox.objects.put(key, b"rows")

    drops = await inbox.drops()

    names = [drop.uri.removeprefix(inbox.objects.root) for drop in drops]
    assert {name.replace("%20", " ") for name in names} == {
        *("/a.parquet", "/july/b c.parquet"),
    }
    assert {drop.size for drop in drops} == {4}


async def test_other_bytes_are_another_version(inbox):
    await inbox.objects.put("a.parquet", b"rows")
    [before] = await inbox.drops()
    [still] = await inbox.drops()
    await inbox.objects.put("a.parquet", b"other rows")
    [after] = await inbox.drops()

    assert still == before
    assert after.uri == before.uri
    assert after.digest != before.digest


LOOK = """
import asyncio, sys
from storage.inbox.listing import Inbox
from storage.objects import Objects

print(len(asyncio.run(Inbox(objects=Objects.open(sys.argv[1])).drops())))
"""


@pytest.mark.slow
def test_a_process_that_looks_and_ends_at_once_ends_well(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"rows")

    for _ in range(6):
        program = [sys.executable, "-c", LOOK, tmp_path.as_uri()]
        looked = subprocess.run(program, capture_output=True, text=True, check=False)
        assert (looked.returncode, looked.stdout) == (0, "1\n")


async def test_the_same_bytes_again_are_the_same_version_on_s3(s3_root):
    inbox = Inbox(objects=Objects.open(s3_root))
    await inbox.objects.put("a.parquet", b"rows")
    before = await inbox.drops()
    await inbox.objects.put("a.parquet", b"rows")

    assert await inbox.drops() == before


async def test_same_file_with_the_same_time_is_one_version(tmp_path):
    """A file copied again with its old time is the same version."""
    inbox = Inbox(objects=Objects.open(tmp_path.as_uri()))
    path = tmp_path / "a.parquet"
    path.write_bytes(b"rows")
    at = path.stat().st_mtime_ns
    before = await inbox.drops()
    # rsync and mv do this: another file replaces the first, with the same name and
    # time.
    again = tmp_path / ".a.parquet.x"
    again.write_bytes(b"rows")
    os.utime(again, ns=(at, at))
    again.replace(path)

    assert await inbox.drops() == before


async def test_a_name_on_a_disk_is_a_uri_that_leads_to_it(tmp_path):
    path = tmp_path / "100% é ?#.parquet"
    path.write_bytes(b"rows")

    [drop] = await Inbox(objects=Objects.open(tmp_path.as_uri())).drops()

    assert drop.uri == path.as_uri()


async def test_changing_file_has_not_landed(inbox):
    """A file that changes during the wait has not landed yet."""
    await inbox.objects.put("whole.parquet", b"rows")
    await inbox.objects.put("growing.parquet", b"ro")
    waited = []

    async def write_on(seconds):
        waited.append(seconds)
        await inbox.objects.put("growing.parquet", b"rows, and more")
        await inbox.objects.put("late.parquet", b"rows")

    [drop] = await inbox.whole(await inbox.drops(), 30, sleep=write_on)

    assert drop.uri.endswith("/whole.parquet")
    assert waited == [30]


async def test_empty_inbox_causes_no_wait(inbox):
    """Without a new file there is no wait."""

    async def never(seconds):
        raise AssertionError(seconds)

    assert await inbox.whole([], 30, sleep=never) == []


@pytest.mark.parametrize("marker", ["july/a.parquet.ready", "july/_SUCCESS"])
async def test_marked_inbox_takes_only_marked_files(root, marker):
    """In an inbox with markers, only files with a marker have landed."""
    objects = made(f"{root}/drop")
    inbox = Inbox(objects=objects, marked=True)
    await objects.put("july/a.parquet", b"rows")
    await objects.put("b.parquet", b"rows")
    before = await inbox.drops()
    await objects.put(marker, b"")
    [drop] = await inbox.whole(await inbox.drops(), 30)

    assert before == []
    assert drop.uri.endswith("/july/a.parquet")


async def test_marker_does_not_cover_a_later_write(tmp_path):
    """A marker that is older than its file does not count."""
    inbox = Inbox(objects=Objects.open(tmp_path.as_uri()), marked=True)
    for name, at in (("a.parquet", 200), ("a.parquet.ready", 100)):
        (tmp_path / name).write_bytes(b"rows")
        os.utime(tmp_path / name, (at, at))

    assert await inbox.drops() == []


def test_root_inside_its_inbox_is_refused(
    tmp_path: Path,
):
    """A root inside its own inbox is refused, and so is an inbox that is missing."""
    box = tmp_path.as_uri()

    with pytest.raises(StorageError, match="the root lies in it"):
        Inbox.open(box, f"{box}/reel")
    with pytest.raises(StorageError, match="the root lies in it"):
        Inbox.open(box, box)
    with pytest.raises(StorageError, match="no such folder"):
        Inbox.open(f"{box}/no", f"{box}/reel")
    assert Inbox.open(box, f"{box}-reel").pattern == "*.parquet"
    assert not (tmp_path / "no").exists()


A = Drop("s3://b/a.parquet", "1234", 4)


async def test_a_version_is_free_until_it_is_taken_or_over(register):
    free = [(await register.standing()).is_free(A)]
    await register.take(A.uri, A.version, "a run")
    free.append((await register.standing()).is_free(A))
    await register.give_back(A.uri, A.version)
    free.append((await register.standing()).is_free(A))
    await register.close(A)
    free.append((await register.standing()).is_free(A))

    assert free == [True, False, True, False]


async def test_a_version_is_taken_by_one_run_which_may_go_on_with_it(register):
    told = [await register.take(A.uri, A.version, by) for by in ("one", "other", "one")]
    changed = await register.take(A.uri, "5678", "other")

    assert told == [None, "one", None]
    assert changed is None


def opening(root):
    """Open a root that exists."""

    async def opened() -> Objects:
        return made(f"{root}/reel")

    return opened


async def fails(root, by, error, *, begun):
    async def run():
        async with claimed(opening(root), A.uri, A.version, by) as claim:
            claim.begun = begun
            raise error

    with pytest.raises(type(error)):
        await run()


async def taker(root):
    async with claimed(opening(root), A.uri, A.version, "somebody else") as claim:
        return claim.taken_by


async def test_a_run_that_could_not_begin_gives_the_manifest_back(root):
    await fails(root, "one", StorageError("held"), begun=False)

    assert await taker(root) is None


@pytest.mark.parametrize(
    ("error", "begun"),
    [(StorageError("lost"), True), (ManifestError("bad"), False)],
)
async def test_a_manifest_that_is_bad_or_was_begun_with_stays_taken(root, error, begun):
    await fails(root, "one", error, begun=begun)

    assert await taker(root) == "one"


async def test_a_run_that_leaves_its_manifest_to_others_gives_it_back(root):
    async with claimed(opening(root), A.uri, A.version, "one") as claim:
        claim.begun = claim.left = True

    assert await taker(root) is None


async def test_a_run_that_comes_second_gives_nothing_back(root):
    await fails(root, "one", ManifestError("bad"), begun=False)
    await fails(root, "two", StorageError("held"), begun=False)

    assert await taker(root) == "one"


async def test_without_a_version_nothing_is_taken(root):
    async with claimed(opening(root), A.uri, None, "one") as claim:
        assert claim.taken_by is None

    assert await taker(root) is None
