"""A folder as a store: acknowledged objects survive a power cut."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.media import Clips
from storage.objects import (
    ExistsError,
    Objects,
    RetryPolicy,
    StorageError,
    UnavailableError,
    local,
)
from tests.storage.lives import made

pytestmark = pytest.mark.anyio

JOB = "abcd" * 8
ROOT = Path(__file__).parents[2]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def effects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The calls to the disk, in order; whether the disk obeys cannot be tested."""
    effects: list[str] = []

    def name(path: str) -> str:
        return os.path.relpath(path, tmp_path).partition("#")[0]

    def watch(module: object, asked: str, say) -> None:
        really = getattr(module, asked)

        def watched(*args, **kwargs):
            done = really(*args, **kwargs)
            effects.append(say(*args))
            return done

        monkeypatch.setattr(module, asked, watched)

    watch(
        os, "fsync", lambda fd: f"sync {name(Path(f'/proc/self/fd/{fd}').readlink())}"
    )
    watch(os, "link", lambda _, new, **__: f"link {name(new)}")
    watch(os, "replace", lambda _, new: f"replace {name(new)}")
    watch(os, "mkdir", lambda path, *_: f"make {name(path)}")
    return effects


async def test_clip_and_folders_are_synced_before_the_sidecar(
    tmp_path: Path, effects: list[str]
):
    """A clip and every new folder are on disk before the clip's sidecar."""
    local.make(tmp_path / "reel")
    await Clips(Objects.open(str(tmp_path / "reel"))).publish(JOB, b"mp4", {})

    clip = f"reel/clips/ab/{JOB}"
    assert effects == [
        "sync ..",
        "make reel",
        "sync .",
        "make reel/clips",
        "sync reel",
        "make reel/clips/ab",
        "sync reel/clips",
        f"sync {clip}.mp4",
        f"link {clip}.mp4",
        "sync reel/clips/ab",
        f"sync {clip}.json",
        f"link {clip}.json",
        "sync reel/clips/ab",
    ]


async def test_replacement_is_synced_before_the_rename(
    tmp_path: Path, effects: list[str]
):
    """A replacement is whole on the disk before it takes the file's name."""
    objects = Objects.open(str(tmp_path))
    await objects.put("a", b"1")
    effects.clear()

    await objects.put("a", b"2")

    assert effects == ["sync a", "replace a", "sync ."]


async def test_a_name_that_a_killed_process_left_is_made_durable_too(
    tmp_path: Path, effects: list[str]
):
    # Killed between creating a name, of a folder or a file, and syncing it.
    (tmp_path / "reel" / "clips").mkdir(parents=True)
    (tmp_path / "reel" / "clips" / "a").write_bytes(b"same")
    effects.clear()

    await Objects.open(str(tmp_path / "reel")).create("clips/a", b"same")

    assert effects == ["sync reel", "sync reel/clips/a", "sync reel/clips"]


async def test_removed_folder_is_made_again(tmp_path: Path):
    """A folder that was removed is made again by the next write."""
    objects = made(str(tmp_path / "reel"))
    await objects.put("clips/a", b"1")
    (tmp_path / "reel" / "clips" / "a").unlink()
    (tmp_path / "reel" / "clips").rmdir()

    await objects.put("clips/b", b"2")

    assert await objects.get("clips/b") == b"2"


async def test_drafts_of_a_crash_are_swept_after_a_day(
    tmp_path: Path,
):
    """Drafts that a crash left are not listed, and are deleted a day later."""
    yesterday = time.time() - 90_000
    left, fresh, foreign = (tmp_path / f"a#{n}" for n in ("7" * 19, "8" * 19, "9" * 5))
    for path in (left, fresh, foreign):
        path.write_bytes(b"half")
    for path in (left, foreign):
        os.utime(path, (yesterday, yesterday))

    objects = Objects.open(str(tmp_path))
    assert [stored async for stored in objects.list()] == []
    await objects.put("a", b"1")

    assert not left.exists()
    assert fresh.exists()
    # Not one of our drafts: a person's file name may end in a number.
    assert foreign.exists()


async def test_a_write_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    objects = Objects.open(str(tmp_path), retry=RetryPolicy(unavailable_s=0))

    def broken(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(UnavailableError, match="/a: Input/output error"):
        await objects.create("a", b"1")

    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("file/under", "a file is where a folder should be"),
        ("folder", "a folder is where a file should be"),
        ("x" * 250, "the name is too long"),
    ],
)
async def test_impossible_path_fails_at_once(tmp_path: Path, key: str, why: str):
    """A path that a disk can never hold fails at once, without retries."""
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    objects = Objects.open(str(tmp_path))

    began = time.monotonic()
    with pytest.raises(StorageError, match=f"/{key}: {why}") as caught:
        await objects.put(key, b"1")

    assert not isinstance(caught.value, ExistsError | UnavailableError)
    assert time.monotonic() - began < 60


async def test_a_disk_without_room_says_so(tmp_path: Path):
    """RLIMIT_FSIZE imitates a full disk without mounting one."""
    code = (
        "import asyncio, resource, sys\n"
        "from storage.objects import Objects\n"
        "objects = Objects.open(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: asyncio.run(objects.create('a', b'1' * 2000))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    message = f"FullError {tmp_path.as_uri()}/a: more than one file may hold there\n"
    assert ran.stdout == message, ran.stderr
    assert names(tmp_path) == []


async def test_copy_is_independent_of_its_source(
    tmp_path: Path,
):
    """A later change of the source does not change its copy."""
    (tmp_path / "one").write_bytes(b"1")

    local.create(tmp_path / "two", tmp_path / "one")
    (tmp_path / "one").write_bytes(b"other")

    assert (tmp_path / "two").read_bytes() == b"1"
