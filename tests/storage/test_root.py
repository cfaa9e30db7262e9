"""A root has an identity and a format, which every command reads before anything else."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from storage import checksum, layout
from storage import ledger as ledgers
from storage.ledger import (
    KnownRoots,
    Ledger,
    LedgerError,
    ReplacedRootError,
    RootError,
    begin_root,
    existing_root,
    join_root,
    make_root_folder,
    open_root,
)
from storage.objects import (
    DamagedError,
    Objects,
    ReplacedError,
    RetryPolicy,
    StorageError,
    local_path,
)
from tests.storage.lives import INTENDED, at, job, keys
from tests.storage.simulated import Simulated, run

pytestmark = pytest.mark.anyio

NOW = at(1_800_000_000.0)

OPENERS: list[Callable[[Objects], Awaitable[object]]] = [
    lambda objects: Ledger.open(objects, name="next"),
    lambda objects: Ledger.open(objects, name="next", take_over=True),
    lambda objects: open_root(objects, NOW),
    existing_root,
    lambda objects: join_root(objects, None),
    ledgers.read,
    ledgers.histories,
    ledgers.recall,
]
"""Every way to open a root."""


async def refused(objects: Objects, error: type[StorageError], match: str) -> None:
    """Every way to open the root fails, and nothing is written below it."""
    before = {key: await objects.get(key) for key in await keys(objects, "")}
    for ask in OPENERS:
        with pytest.raises(error, match=match):
            await ask(objects)
    assert {key: await objects.get(key) for key in await keys(objects, "")} == before


# -- a new root


async def test_identity_of_a_new_root_stays(root: str):
    """The first run writes the identity; the next ones read it."""
    first = await open_root(Objects.open(root), NOW)
    again = await open_root(Objects.open(root), at(1.9e9))

    assert again == first
    assert again == await existing_root(Objects.open(root))
    stored = json.loads(await Objects.open(root).get(layout.ROOT))
    assert stored["format"] == 1
    assert (stored["id"], stored["created"]) == (first.id, "2027-01-15T08:00:00+00:00")


async def test_runs_that_begin_a_root_at_once_agree(root: str):
    """One of them creates the identity, and the others read it."""
    opened = await asyncio.gather(
        *(open_root(Objects.open(root), NOW) for _ in range(8))
    )

    assert len({one.id for one in opened}) == 1


async def test_run_killed_before_its_claim_leaves_a_root(objects: Objects):
    """A root with an identity and no claim is as good as new, and keeps its identity."""
    first = await open_root(objects, NOW)

    await (await Ledger.open(objects, name="next")).close()

    assert await existing_root(objects) == first


async def test_identity_is_there_before_any_claim():
    """A run that is killed at any write leaves no claim without an identity."""
    simulated = Simulated()
    await (await Ledger.open(simulated.objects(), name="night")).close()

    puts = [path for what, path, _ in simulated.asked if what == "put"]
    assert [*dict.fromkeys(puts)][:3] == [
        layout.CREATE_ONLY,
        layout.ROOT,
        layout.claim(1),
    ]


# -- a root that is refused


@pytest.mark.parametrize("number", [0, 2, 17, "2"])
async def test_other_format_is_refused(objects: Objects, number: object):
    """The message names the root, the number found, the number known and the cure."""
    await (await Ledger.open(objects, name="one")).close()
    stored = checksum.load(await objects.get(layout.ROOT), "x")
    await objects.put(layout.ROOT, checksum.dump(stored | {"format": number}))

    await refused(
        objects,
        RootError,
        f"^{objects.root}/root.json: the root has format {number!r}, this Nightreel "
        "knows format 1; nothing was read or written; use the version of Nightreel",
    )


async def test_later_format_without_our_checksum_is_refused(objects: Objects):
    await objects.put(layout.ROOT, b'{"format": 2, "hash": "blake3:1234"}')

    await refused(objects, RootError, "the root has format 2, this Nightreel knows")


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\x00" * 100])
async def test_unreadable_identity_is_refused(objects: Objects, data: bytes):
    await objects.put(layout.ROOT, data)

    await refused(objects, StorageError, "root.json: (damaged|the root has format)")


async def test_flipped_bytes_of_the_identity_are_refused(objects: Objects):
    await open_root(objects, NOW)
    data = bytearray(await objects.get(layout.ROOT))
    data[data.index(b'"id": "') + 8] ^= 1
    await objects.put(layout.ROOT, bytes(data))

    await refused(objects, DamagedError, "root.json: damaged.*nothing is bought on it")


async def test_lost_identity_is_refused(objects: Objects):
    """A root with a ledger and without `root.json` is damaged, not new."""
    ledger = await Ledger.open(objects, name="one")
    await ledger.record(job("a"), INTENDED)
    await ledger.close()
    await objects.delete(layout.ROOT)

    await refused(objects, RootError, "root.json: missing, but ledger/.* is there")


async def test_absent_root_is_opened_only_by_a_run(objects: Objects):
    """A typo in the URI is no empty root, and leaves nothing behind."""
    for ask in (existing_root, lambda one: join_root(one, None)):
        with pytest.raises(RootError, match=f"^{objects.root}: no root is there"):
            await ask(objects)

    assert await keys(objects, "") == []


async def test_shard_refuses_another_root(objects: Objects):
    """A worker whose URI leads elsewhere buys nothing."""
    found = await open_root(objects, NOW)

    await join_root(objects, found.id)

    with pytest.raises(RootError, match=f"root {found.id} is there, but the batch"):
        await join_root(objects, "another")


# -- a root that is away


@pytest.fixture
def known(tmp_path: Path) -> KnownRoots:
    return KnownRoots(tmp_path / "state")


async def test_known_root_that_is_empty_is_away(
    root: str, known: KnownRoots, tmp_path: Path
):
    """The empty folder of an unmounted disk, or an emptied bucket, is no new root."""
    if root.startswith("memory:"):
        pytest.skip("memory is forgotten when its process ends")
    first = await open_root(Objects.open(root), NOW, known)
    objects = Objects.open(root)
    for key in await keys(objects, ""):
        await objects.delete(key)

    with pytest.raises(RootError, match=f"earlier run .* found root {first.id}") as no:
        await open_root(objects, NOW, known)

    assert await keys(objects, "") == []
    assert "or begin a new root there" in str(no.value)
    assert "--new-root, or new_root = true" in str(no.value)
    second = await open_root(objects, NOW, known, new_root=True)
    assert second.id != first.id
    assert (await open_root(objects, NOW, known)).id == second.id


async def test_known_folder_that_is_gone_is_not_made(known: KnownRoots, tmp_path: Path):
    """A disk that is not mounted is not taken for a new root."""
    folder = tmp_path / "disk" / "reel"
    make_root_folder(folder.as_uri(), known)
    await open_root(Objects.open(folder.as_uri()), NOW, known)
    shutil.rmtree(tmp_path / "disk")

    with pytest.raises(RootError, match="mount its disk"):
        make_root_folder(folder.as_uri(), known)

    assert not (tmp_path / "disk").exists()
    make_root_folder(folder.as_uri(), known, new_root=True)
    assert folder.is_dir()


async def test_new_root_is_begun_only_where_it_may_be(root: str, tmp_path: Path):
    """A run that may begin no root leaves a new one untouched, and takes one that exists."""
    folder = (tmp_path / "not there").as_uri()
    for uri in (root, folder):
        with pytest.raises(RootError, match=r"no root is there.* new_root = true"):
            await begin_root(uri, new_root=False)
    assert not local_path(folder).exists()
    assert await keys(Objects.open(root), "") == []

    begun = await open_root(Objects.open(root), NOW)
    assert (await open_root(Objects.open(root), NOW, new_root=False)).id == begun.id


async def test_new_root_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """The folder of a first run is made, and the log says that the root is new."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    uri = (tmp_path / "not" / "there yet").as_uri()

    await begin_root(uri)
    assert f"root.created root={uri} id=" in caplog.text
    caplog.clear()
    await begin_root(uri)

    assert not caplog.messages
    assert local_path(uri).is_dir()


async def test_other_root_at_a_known_place_is_announced(
    known: KnownRoots, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        await open_root(Objects.open(str(tmp_path / name)), NOW)
    first = await open_root(Objects.open(str(tmp_path / "one")), NOW, known)
    shutil.copy(tmp_path / "two" / layout.ROOT, tmp_path / "one" / layout.ROOT)

    second = await open_root(Objects.open(str(tmp_path / "one")), NOW, known)

    assert f"id={second.id} an earlier run on this machine found root {first.id}" in (
        caplog.text
    )


# -- a root that is replaced meanwhile


def spill_files(folder: Path) -> list[Path]:
    return [*folder.rglob("*.jsonl")]


async def test_emptied_root_ends_the_ledger(objects: Objects, tmp_path: Path):
    """The heartbeat finds it: nothing more is recorded, and entries are spilled."""
    told = asyncio.Event()
    ledger = await Ledger.open(objects, name="n", beat_s=0.05, spill_folder=tmp_path)
    ledger.on_trouble(lambda _: told.set())
    await ledger.record(job("a"), INTENDED)

    await objects.delete(layout.ROOT)
    await told.wait()
    for key in await keys(objects, ""):
        await objects.delete(key)

    with pytest.raises(ReplacedRootError, match="root was emptied or replaced"):
        await ledger.record(job("b"), INTENDED)
    await ledger.close()
    with pytest.raises(ReplacedRootError):
        ledger.refuse_if_taken_over()
    assert await keys(objects, "") == []
    assert spill_files(tmp_path)


async def test_emptied_root_ends_a_shard(objects: Objects, tmp_path: Path):
    told = asyncio.Event()
    batch = await Ledger.open(objects, name="night")
    shard = await Ledger.join(
        objects, batch=batch.batch, shard=1, beat_s=0.05, spill_folder=tmp_path
    )
    shard.on_trouble(lambda _: told.set())

    await objects.delete(layout.ROOT)
    await told.wait()

    with pytest.raises(ReplacedRootError):
        await shard.record(job("b"), INTENDED)
    for one in (shard, batch):
        await one.close()


def test_heartbeat_sends_three_requests():
    """The identity costs one request in ten seconds, and the writes cost none."""
    simulated = Simulated()

    async def night() -> None:
        ledger = await Ledger.open(simulated.objects(), name="night")
        await asyncio.sleep(5)
        simulated.asked.clear()
        await ledger.record(job("a"), INTENDED)
        await asyncio.sleep(10)
        asked = [(what, path) for what, path, _ in simulated.asked]
        await ledger.close()

        assert asked == [
            ("put", layout.segment("ledger/000001-night/main", 1)),
            ("get", layout.ROOT),
            ("get", layout.claim(2)),
            ("put", layout.HOLDER),
        ]

    run(night)


def test_heartbeat_is_not_written_to_another_root():
    """The heartbeat looks at the identity first."""
    simulated = Simulated()

    async def night() -> None:
        ledger = await Ledger.open(simulated.objects(), name="night")
        await asyncio.sleep(5)
        simulated.kept.clear()
        await asyncio.sleep(20)
        assert [*simulated.kept] == []
        await ledger.close()
        assert [*simulated.kept] == []

    run(night)


def test_root_replaced_in_an_outage_is_not_written():
    """After an outage, a request is repeated only on the root that was opened."""
    simulated = Simulated()

    async def away(what: str, path: str) -> None:
        raise ConnectionError("reset")

    async def night() -> None:
        objects = Objects(
            simulated, "s3://simulated/reel", retry=RetryPolicy(unavailable_s=600)
        )
        await open_root(objects, NOW)
        simulated.before = away
        writing = asyncio.create_task(objects.put("clips/a", b"1"))
        await asyncio.sleep(60)
        simulated.kept[layout.ROOT] = (b"another", 0.0)
        simulated.before = None

        with pytest.raises(ReplacedError, match="root was emptied or replaced"):
            await writing
        assert [*simulated.kept] == [layout.CREATE_ONLY, layout.ROOT]

    run(night)


def test_same_root_after_an_outage_goes_on():
    simulated = Simulated()

    async def away(what: str, path: str) -> None:
        raise ConnectionError("reset")

    async def night() -> None:
        objects = Objects(
            simulated, "s3://simulated/reel", retry=RetryPolicy(unavailable_s=600)
        )
        await open_root(objects, NOW)
        simulated.before = away
        writing = asyncio.create_task(objects.put("clips/a", b"1"))
        await asyncio.sleep(60)
        simulated.before = None
        simulated.asked.clear()
        await writing

        asked = [(what, path) for what, path, _ in simulated.asked]
        assert asked == [("get", layout.ROOT), ("put", "clips/a")]

    run(night)


def test_ledger_gives_up_a_replaced_root_at_once(tmp_path: Path):
    """A write that finds another root after an outage is not tried for half a minute."""
    simulated = Simulated()

    async def away(what: str, path: str) -> None:
        raise ConnectionError("reset")

    async def night() -> None:
        objects = Objects(
            simulated, "s3://simulated/reel", retry=RetryPolicy(unavailable_s=600)
        )
        ledger = await Ledger.open(objects, name="night", spill_folder=tmp_path)
        why: list[str] = []
        ledger.on_trouble(why.append)
        simulated.before = away
        recording = asyncio.create_task(ledger.record(job("a"), INTENDED))
        await asyncio.sleep(60)
        simulated.kept.clear()
        simulated.before = None

        with pytest.raises(LedgerError, match="root was emptied or replaced"):
            await recording
        await ledger.close()

        assert [*simulated.kept] == []
        assert "root was emptied or replaced" in why[0]

    run(night)
