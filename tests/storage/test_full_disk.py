"""On a full disk, what the ledger cannot record has room in the reserved spill file."""

import asyncio
import os
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from manifests.lifecycle import NEW, Accepted, Generated, State
from storage import ledger as ledgers
from storage.ledger import FencedError, Ledger, LedgerError
from storage.ledger.reserved_file import RESERVED, ReservedFile, written
from storage.ledger.spill import SpillFolder
from storage.objects import Objects
from storage.state_folder import state_folder
from tests.storage.lives import INTENDED, TICKET, job, made

pytestmark = pytest.mark.anyio

REPOSITORY = Path(__file__).parents[2]
AT_HOME = Path("~/.local/state/nightreel").expanduser()


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


class Disk:
    """The disk of a root, on which nothing more can be created once it is full."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spill = folder / "spill"
        self.root = (folder / "root").as_uri()
        self._patch = monkeypatch

    def fill(self) -> None:
        """Refuse new names, which every object of a local root needs."""
        self._patch.setattr("os.link", full)

    def free(self) -> None:
        self._patch.undo()

    async def open(self, name: str, *, take_over: bool = False) -> Ledger:
        objects = made(self.root)
        return await Ledger.open(
            objects, name=name, take_over=take_over, spill_folder=self.spill
        )

    def files(self) -> list[str]:
        return sorted(path.name for path in self.spill.rglob("*.*"))

    def file(self) -> Path:
        [path] = self.spill.rglob("*.jsonl")
        return path


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


async def test_full_disk_spills_into_reserved_room(disk: Disk):
    """The room is there before the disk is full; a full disk is not retried."""
    reasons: list[str] = []
    ledger = await disk.open("night")
    ledger.on_trouble(reasons.append)
    reserved = disk.file().stat()
    await ledger.record(job("a"), INTENDED)

    disk.fill()
    async with asyncio.timeout(15):
        for event in (Accepted(TICKET), Generated(seed=3)):
            with pytest.raises(LedgerError, match="the disk is full"):
                await ledger.record(job("a"), event)
        with pytest.raises(LedgerError, match="the disk is full"):
            await ledger.record(job("b"), INTENDED)

    assert reserved.st_blocks * 512 >= RESERVED
    assert disk.file().stat().st_size == reserved.st_size == RESERVED
    assert len(reasons) == 1
    assert reasons[0].endswith("the disk is full")
    disk.free()
    await ledger.close()
    assert disk.file().stat().st_size < 4096
    saved = await disk.open("next")
    assert saved.history(job("a")).state is State.GENERATED
    assert saved.history(job("a")).ticket == TICKET
    # Its record failed, so it was not sent.
    assert saved.history(job("b")) == NEW
    await saved.close()
    assert disk.files() == []


async def test_freed_room_takes_the_seal(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    """If the spill file is on the full disk, its unused room takes the seal at the end."""
    link = os.link

    def link_if_room(*names: str) -> None:
        if disk.file().stat().st_size == RESERVED:
            full()
        link(*names)

    ledger = await disk.open("night")
    await ledger.record(job("a"), INTENDED)
    monkeypatch.setattr("os.link", link_if_room)
    with pytest.raises(LedgerError, match="the disk is full"):
        await ledger.record(job("a"), Accepted(TICKET))

    await ledger.close()

    monkeypatch.undo()
    # A root without a seal would be held by this process.
    following = await disk.open("next")
    assert following.history(job("a")).ticket == TICKET
    await following.close()


async def test_unused_room_is_freed_at_the_end(disk: Disk):
    """A ledger that could record everything leaves no file behind."""
    ledger = await disk.open("night")
    await ledger.record(job("a"), INTENDED)
    assert written(disk.file()) == b""

    await ledger.close()

    assert disk.files() == []


async def test_disk_without_fallocate_reserves_room(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
):
    """On a system that cannot allocate files, NULs are written."""
    monkeypatch.delattr("os.posix_fallocate", raising=False)

    ledger = await disk.open("night")

    assert disk.file().stat().st_blocks * 512 >= RESERVED
    assert written(disk.file()) == b""
    await ledger.close()


async def test_missing_room_is_logged_and_writes_are_retried(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """If no room could be reserved, a full disk is waited for: an answer has no other place."""
    monkeypatch.setattr("os.posix_fallocate", full)
    refused = asyncio.Event()
    ledger = await disk.open("night")
    ledger.on_trouble(lambda _: refused.set())
    assert "ledger.spill_not_reserved file=" in caplog.text
    assert "No space left on device" in caplog.text
    assert disk.files() == []
    await ledger.record(job("a"), INTENDED)

    disk.fill()
    recording = asyncio.create_task(ledger.record(job("a"), Accepted(TICKET)))
    await refused.wait()
    disk.free()
    _, history = await recording

    assert history.ticket == TICKET
    await ledger.close()
    assert disk.files() == []


async def test_spill_folder_that_cannot_be_made_is_logged(
    disk: Disk, caplog: pytest.LogCaptureFixture
):
    """A ledger without a spill folder opens, and its log says so."""
    disk.spill.write_text("a file where a folder should be")

    ledger = await disk.open("night")

    assert "ledger.spill_not_reserved file=" in caplog.text
    _, history = await ledger.record(job("a"), INTENDED)
    assert history.state is State.IN_DOUBT
    await ledger.close()


OWNER = """
import asyncio, os, sys
from pathlib import Path
from manifests.lifecycle import Accepted
from storage.ledger import Ledger, LedgerError
from tests.storage.lives import INTENDED, TICKET, job, made

def full(*_, **__):
    raise OSError(28, "No space left on device")

async def night(root, spill_folder, kill):
    ledger = await Ledger.open(
        made(root), name="night", spill_folder=Path(spill_folder)
    )
    await ledger.record(job("a"), INTENDED)
    if kill == "after-entry":
        os.link = full
        try:
            await ledger.record(job("a"), Accepted(TICKET))
        except LedgerError as error:
            assert "the disk is full" in str(error)
    os.kill(os.getpid(), 9)

asyncio.run(night(*sys.argv[1:]))
"""


def killed_owner(disk: Disk, kill: str) -> None:
    """Run a batch in another process, and kill it while its spill file is reserved."""
    program = [sys.executable, "-c", OWNER, disk.root, str(disk.spill), kill]
    ran = subprocess.run(program, cwd=REPOSITORY, check=False, timeout=300)
    assert ran.returncode == -signal.SIGKILL


async def test_kill_before_first_entry_leaves_no_file(disk: Disk):
    """The next run deletes the empty file of a killed owner, without a word."""
    killed_owner(disk, "before-entry")
    assert disk.file().stat().st_size == RESERVED
    assert written(disk.file()) == b""

    following = await disk.open("next")

    assert disk.files() == ["000002-next.jsonl"]
    assert following.history(job("a")).state is State.IN_DOUBT
    await following.close()


async def test_kill_after_spilled_entry_loses_nothing(disk: Disk):
    """The next run records what a killed owner spilled on a full disk."""
    killed_owner(disk, "after-entry")
    assert disk.file().stat().st_size == RESERVED

    following = await disk.open("next")

    assert following.history(job("a")).ticket == TICKET
    assert disk.files() == ["000002-next.jsonl"]
    await following.close()


async def test_cut_line_of_an_old_file_is_kept_aside(
    disk: Disk, caplog: pytest.LogCaptureFixture
):
    """Lines before a cut one are recorded; unused room is no line."""
    killed_owner(disk, "after-entry")
    [line] = written(disk.file()).splitlines(keepends=True)
    with disk.file().open("r+b") as file:
        file.write(line + line[: len(line) // 2])

    following = await disk.open("next")

    assert following.history(job("a")).ticket == TICKET
    [kept] = disk.spill.rglob("*.kept")
    assert caplog.text.count("ledger.spill_rejected") == 1
    assert f"file={disk.spill}" in caplog.text
    assert "line=2" in caplog.text
    assert written(kept) == line + line[: len(line) // 2]
    await following.close()


async def test_file_of_a_live_owner_is_not_touched(
    disk: Disk, caplog: pytest.LogCaptureFixture
):
    """A second batch here neither deletes a locked file nor takes its entries."""
    old = await disk.open("old")
    await old.record(job("a"), INTENDED)
    await old.record(job("b"), INTENDED)

    new = await disk.open("new", take_over=True)
    assert disk.files() == ["000001-old.jsonl", "000002-new.jsonl"]
    assert "ledger.spill_in_use" not in caplog.text

    with pytest.raises(FencedError):
        await old.record(job("a"), Accepted(TICKET))
    disk.fill()
    with pytest.raises(LedgerError, match="the disk is full"):
        await new.record(job("b"), Accepted(TICKET))
    disk.free()
    last = await disk.open("last", take_over=True)
    # It records for the fenced owner, and leaves the one whose disk was full alone.
    assert last.history(job("a")).ticket == TICKET
    assert last.history(job("b")).state is State.IN_DOUBT
    assert "ledger.spill_in_use" in caplog.text
    assert written(next(disk.spill.rglob("000002-new.jsonl"))).count(b"\n") == 1

    for one in (old, new, last):
        await one.close()
    end = await disk.open("end")
    assert end.history(job("b")).ticket == TICKET
    await end.close()
    assert len(await ledgers.read(Objects.open(disk.root))) == 4
    assert disk.files() == []


def test_each_live_owner_has_its_own_file(tmp_path: Path):
    """Two live owners of one name, of a root that was begun again, have two files."""
    folder = SpillFolder(tmp_path, "file:///reel")
    old, new = folder.file("000001-night"), folder.file("000001-night")

    old.reserve()
    new.reserve()

    assert old.is_reserved
    assert new.is_reserved
    first, second = sorted(tmp_path.rglob("*.jsonl"))
    assert [first.stat().st_size, second.stat().st_size] == [RESERVED] * 2
    new.release()
    old.release()
    assert not [*tmp_path.rglob("*.jsonl")]


async def test_moved_file_is_not_written_to(disk: Disk):
    """If a person moves the file of a live owner, its entries go to a new one."""
    ledger = await disk.open("night")
    await ledger.record(job("a"), INTENDED)
    moved = disk.file().rename(disk.spill / "moved")

    disk.fill()
    with pytest.raises(LedgerError, match="the disk is full"):
        await ledger.record(job("a"), Accepted(TICKET))

    assert written(moved) == b""
    assert written(disk.file()).count(b"\n") == 1
    disk.free()
    await ledger.close()
    following = await disk.open("next")
    assert following.history(job("a")).ticket == TICKET
    await following.close()


def test_line_beyond_the_room_is_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """If the room is used up on a full disk, the file ends with a whole line."""
    room = ReservedFile(tmp_path / "a.jsonl")
    pwrite = os.pwrite

    def bounded(handle: int, data: bytes, at: int) -> int:
        if at >= RESERVED:
            full()
        return pwrite(handle, data[: RESERVED - at], at)

    monkeypatch.setattr("os.pwrite", bounded)
    line = b"x" * 999_999 + b"\n"

    with pytest.raises(OSError, match="No space left"):
        room.write([line] * 5)

    assert written(tmp_path / "a.jsonl") == line * 4
    room.write([b"short\n"])
    assert written(tmp_path / "a.jsonl") == line * 4 + b"short\n"
    room.unlock()


async def test_tests_reserve_nothing_in_the_home_folder(tmp_path: Path):
    """A ledger of a test that names no spill folder keeps its file in a temporary one."""
    uri = (tmp_path / "root").as_uri()

    ledger = await Ledger.open(made(uri), name="night")

    name = Path("spill", sha256(uri.encode()).hexdigest()[:16], "000001-night.jsonl")
    assert (state_folder() / name).exists()
    assert not (AT_HOME / name).exists()
    await ledger.close()
