"""Faults of networks and servers, and their effect on a store: S3, GCS and Azure."""

import asyncio
import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.objects import (
    ExistsError,
    MissingError,
    Objects,
    RefusedError,
    RetryPolicy,
    StorageError,
    UnavailableError,
    connect,
)
from tests.storage.proxies import Fault, FaultyProxy
from tests.storage.servers import Cloud, service_account

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(cloud: Cloud) -> str:
    return cloud.root()


@pytest.fixture
def objects(root: str, faulty: FaultyProxy) -> Objects:
    """A client of a root, through the proxy."""
    return Objects.open(root)


def asked(faulty: FaultyProxy) -> list[bytes]:
    return [line.split()[0] for line in faulty.fault.seen]


async def until(true: Callable[[], object]) -> None:
    for _ in range(3000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


# -- answers that are lost, late or bad


async def test_a_lost_answer_is_believed_to_be_ours(
    objects: Objects, faulty: FaultyProxy
):
    faulty.fault.lose_answers = 1

    await objects.create("a", b"ours")

    assert asked(faulty) == [b"PUT", b"PUT", b"GET"]
    assert await objects.get("a") == b"ours"


async def test_lost_answer_does_not_claim_another_object(
    objects: Objects, faulty: FaultyProxy
):
    """After a lost answer, another writer's object is not taken for ours."""
    await objects.create("a", b"theirs")
    faulty.fault.lose_answers = 1

    with pytest.raises(ExistsError):
        await objects.create("a", b"ours")

    assert await objects.get("a") == b"theirs"


async def test_a_lost_answer_about_a_file_is_believed_to_be_ours(
    objects: Objects, faulty: FaultyProxy, tmp_path: Path
):
    await asyncio.to_thread((tmp_path / "volume").write_bytes, b"ours" * 3_000_000)
    faulty.fault.lose_answers = 1

    await objects.create_file("a", tmp_path / "volume")

    assert asked(faulty) == [b"PUT", b"PUT", b"HEAD", b"GET", b"GET"]


async def test_a_store_that_is_busy_is_asked_again(
    objects: Objects, faulty: FaultyProxy, caplog: pytest.LogCaptureFixture
):
    faulty.fault.refuse = 2

    await objects.create("a", b"1")

    assert asked(faulty) == [b"PUT", b"PUT", b"PUT"]
    assert caplog.text == ""


async def test_an_answer_that_breaks_off_is_asked_for_again(
    objects: Objects, faulty: FaultyProxy
):
    await objects.create("a", b"a whole clip")
    faulty.fault.cut = 1

    assert await objects.get("a") == b"a whole clip"
    assert asked(faulty) == [b"PUT", b"GET", b"GET"]


async def test_an_answer_that_takes_too_long_is_asked_for_again(
    root: str, faulty: FaultyProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(connect.CLIENT, "timeout", "0.2s")
    objects = Objects.open(root)
    faulty.fault.slow_s = 1.0
    asking = asyncio.create_task(objects.create("a", b"1"))
    await until(lambda: faulty.fault.seen)

    faulty.fault.slow_s = 0.0
    await asking

    assert len(faulty.fault.seen) > 1
    assert await objects.get("a") == b"1"


@pytest.mark.parametrize("cloud", ["s3", "gs"], indirect=True)
async def test_damaged_upload_is_put_again(
    objects: Objects, faulty: FaultyProxy, tmp_path: Path
):
    """An object that was damaged on its way is put again."""
    clip = os.urandom(100_000)
    await asyncio.to_thread((tmp_path / "clip").write_bytes, clip)

    for put, sent in (
        (objects.create, clip),
        (objects.put, clip),
        (objects.create_file, tmp_path / "clip"),
        (objects.put_file, tmp_path / "clip"),
    ):
        key = put.__name__
        faulty.fault.flip = 1
        await put(key, sent)
        assert await objects.get(key) == clip, key


@pytest.mark.parametrize("cloud", ["gs"], indirect=True)
async def test_upload_that_stays_damaged_fails(
    root: str, faulty: FaultyProxy, tmp_path: Path
):
    """An object that is damaged on every try is never stored."""
    objects = Objects.open(root, retry=RetryPolicy(unavailable_s=0))
    faulty.fault.flip = 3

    with pytest.raises(UnavailableError, match="/a: damaged on its way"):
        await objects.create("a", b"a clip")

    assert [stored async for stored in objects.list()] == []


@pytest.mark.parametrize("cloud", ["s3", "gs"], indirect=True)
@pytest.mark.parametrize("tag", [b"", b"0" * 32, hashlib.md5(b"").hexdigest().encode()])
async def test_put_that_the_store_loses_is_put_again(
    objects: Objects, faulty: FaultyProxy, tag: bytes
):
    """The answer is 200, its ETag is not that of the bytes: the put counts as unwritten."""
    await objects.put("put", b"old")

    for put in (objects.create, objects.put):
        faulty.fault = Fault(swallow=1, tag=lambda body: tag)
        await put(put.__name__, b"new")
        assert await objects.get(put.__name__) == b"new"


@pytest.mark.parametrize("cloud", ["s3"], indirect=True)
async def test_lost_create_spares_what_another_run_created(
    objects: Objects, faulty: FaultyProxy
):
    """The store loses our create of a key that another run has: theirs stays."""
    await objects.create("a", b"theirs")

    faulty.fault.swallow = 1
    with pytest.raises(ExistsError):
        await objects.create("a", b"ours")

    assert await objects.get("a") == b"theirs"


@pytest.mark.parametrize("cloud", ["s3"], indirect=True)
async def test_put_is_verified_without_a_request(objects: Objects, faulty: FaultyProxy):
    """A put that is stored takes one request."""
    await objects.create("a", b"a")
    await objects.put("a", b"b")

    assert asked(faulty) == [b"PUT", b"PUT"]


# -- outages


async def test_a_store_that_stops_and_starts_again_is_waited_for(
    objects: Objects, faulty: FaultyProxy, caplog: pytest.LogCaptureFixture
):
    faulty.stop()
    puts = [asyncio.create_task(objects.create(f"{n}", b"1")) for n in range(20)]
    await until(lambda: "store.unavailable" in caplog.text)

    faulty.start()
    await asyncio.gather(*puts)

    messages = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in messages] == [
        "store.unavailable",
        "store.recovered",
    ]
    assert "Connection refused" in messages[0]
    assert messages[1].startswith(f"store.recovered root={objects.root} after_s=")


async def test_a_store_that_stays_away_is_named(root: str, faulty: FaultyProxy):
    faulty.stop()
    objects = Objects.open(root, retry=RetryPolicy(unavailable_s=0))

    with pytest.raises(UnavailableError) as caught:
        await objects.get("a")

    assert str(caught.value).startswith(f"{root}/a: ")
    assert "Connection refused" in str(caught.value)


# -- refusals


async def test_a_missing_bucket_is_not_a_missing_object(cloud: Cloud):
    objects = Objects.open(f"{cloud.scheme}://no-such-bucket-there/x")

    for ask in (objects.get("a"), objects.put("a", b"1")):
        with pytest.raises(StorageError, match="there is no such bucket") as caught:
            await ask
        assert not isinstance(caught.value, MissingError | UnavailableError)


async def test_refused_credentials_fail_at_once_and_stay_secret(
    root: str, faulty: FaultyProxy, monkeypatch: pytest.MonkeyPatch
):
    """Refused credentials fail at the first answer, and the message leaves them out."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDNIGHTREEL")
    faulty.fault.deny = True
    objects = Objects.open(root)

    with pytest.raises(RefusedError) as caught:
        await objects.get("a")

    assert str(caught.value) == f"{root}/a: HTTP 403 Forbidden, AccessDenied"
    assert caught.value.__cause__ is None
    assert len(faulty.fault.seen) == 1


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
async def test_store_without_settings_fails_on_opening(
    scheme: str, monkeypatch: pytest.MonkeyPatch
):
    """A store without its settings fails when it is opened."""
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "AZURITE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", "not JSON")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "alone")

    with pytest.raises(StorageError, match=f"^{scheme}://bucket: ") as caught:
        Objects.open(f"{scheme}://bucket")

    assert not isinstance(caught.value, UnavailableError)


# -- connections


async def test_a_service_account_may_be_a_file(
    clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cloud = clouds("gs")
    account = service_account(f"http://127.0.0.1:{cloud.port}")
    await asyncio.to_thread((tmp_path / "account.json").write_text, account)
    monkeypatch.delenv("GOOGLE_SERVICE_ACCOUNT_KEY")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))

    objects = Objects.open(cloud.root())
    await objects.create("a", b"1")

    assert await objects.get("a") == b"1"


LITTLE_MEMORY = """
import asyncio, resource, sys
from pathlib import Path
from storage.objects import Objects, RetryPolicy

root, big, back = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])

async def main():
    objects = Objects.open(root)
    await objects.create("small", b"1")
    now = int(Path("/proc/self/statm").read_text().split()[5]) * 4096
    resource.setrlimit(resource.RLIMIT_DATA, (now + (110 << 20),) * 2)
    await objects.put_file("put", big)
    await objects.create_file("created", big)
    await objects.create_file("created", big)
    await objects.get_file("put", back)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["file", "s3", "gs", "az"])
def test_a_large_file_takes_little_memory(scheme: str, clouds, tmp_path: Path):
    big, back = tmp_path / "big", tmp_path / "back"
    with big.open("wb") as file:
        for _ in range(130):
            file.write(os.urandom(1 << 20))
    (tmp_path / "root").mkdir()
    root = str(tmp_path / "root") if scheme == "file" else clouds(scheme).root()

    ran = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY, root, big, back],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr[-3000:]
    assert back.read_bytes() == big.read_bytes()


# -- forks

FORKED = """
import asyncio, os, sys
from storage.objects import Objects

async def put():
    await Objects.open(sys.argv[1]).create("a", b"1")

asyncio.run(put())
if os.fork() == 0:
    try:
        asyncio.run(put())
    except Exception as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


def test_forked_child_fails_instead_of_hanging(tmp_path: Path):
    """A forked child that uses a store fails with a message; it does not hang."""
    ran = subprocess.run(
        [sys.executable, "-c", FORKED, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert ran.stdout == "forked from a process that uses stores: spawn it instead\n"


def test_nothing_of_ours_forks():
    for package in ("flows", "tasks", "storage", "manifests"):
        for path in (ROOT / package).rglob("*.py"):
            source = path.read_text()
            for way in ("os.fork", "multiprocessing", "ProcessPool", "preexec_fn"):
                assert way not in source, path


@pytest.fixture(autouse=True)
def _warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
