"""`nightreel watch` and its flow start one batch for each manifest that lands."""

import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows.prefect_runtime import Retries
from flows.prefect_runtime.inbox_runs import next_key
from storage.inbox import Drop
from tasks.emulator import Emulator, running

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ONCE = ("watch", "inbox", "--root", "root", "--once", "--settle", "0.05")


def drop(bench, rows: Any, name: str = "m") -> Path:
    """A manifest that is written elsewhere and moved into the inbox whole."""
    inbox = bench.folder / "inbox"
    (inbox / "stills").mkdir(parents=True, exist_ok=True)
    shutil.copy(bench.folder / bench.still("one.jpg"), inbox / "stills")
    still = "stills/one.jpg"
    if isinstance(rows, int):
        rows = [{"prompt": f"pan {n}"} for n in range(rows)]
    made = bench.folder / bench.manifest([{**row, "image": still} for row in rows])
    return made.replace(inbox / f"{name}.parquet")


@dataclass
class Clock:
    """The machine's clock, which a test can put forward."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


# Without a server


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_version_has_one_batch_and_a_bad_one_one_report(bench):
    """Each version gets one batch, and a bad version is reported once."""
    path = drop(bench, 2)
    drop(bench, [{"prompt": "tilt"}, {"prompt": " "}], "strict")
    inbox = path.parent
    (inbox / "not.parquet").write_bytes(b"no such thing")
    pl.DataFrame({"prompt": ["pan"]}).write_parquet(inbox / "lacking.parquet")

    first = bench.nightreel(*ONCE, "--strict")
    bought = dict(bench.bought)
    # The same file again with the same mtime, as rsync sends it.
    shutil.copy2(path, bench.folder / "again").replace(path)
    second = bench.nightreel(*ONCE, "--strict")
    drop(bench, 3)
    drop(bench, [{"prompt": "tilt"}], "strict")
    third = bench.nightreel(*ONCE, "--strict")

    assert (first.code, second.code, third.code) == (2, 0, 0)
    assert "m.parquet: landed" in first.err
    assert "-m: 2 clips" in first.err
    assert "not.parquet: not readable as Parquet" in first.err
    assert "lacking.parquet: no column 'image' or 'image_bytes'" in first.err
    assert "strict.parquet: 1 of 2 rows are bad" in first.err
    assert bought == {"pan 0": 1, "pan 1": 1}
    assert "landed" not in second.err
    assert "-m: 3 clips" in third.err
    assert "-strict: 1 clips" in third.err
    assert set(bench.bought.values()) == {1}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 1)]
)
def test_next_command_continues_a_batch_that_was_started(bench, clip, number, code):
    clock = Clock()
    bench.emulator = Emulator(
        latency_s=600, slots=100, submits_per_minute=100000, clip=clip, clock=clock
    )
    with running(bench.emulator) as bench.url:
        bench.config()
        (bench.folder / "inbox").mkdir()
        first = bench.start(*(word for word in ONCE if word != "--once"), "--every=1")
        drop(bench, 2)
        bench.wait(lambda: bench.seen("poll") > 1)
        first.signal(number)
        ended = first.ended()
        clock.ahead_s = 700
        second = bench.nightreel(*ONCE)

    assert (ended.code, second.code) == (code, 0)
    assert "m: 2 clips" in second.err
    assert set(bench.bought.values()) == {1}


def test_a_folder_that_is_not_there_is_not_watched(bench):
    ran = bench.start(
        "watch", "nowhere", "--root", "root", "--once", PREFECT_API_URL=""
    )

    assert ran.ended().code == 2
    assert not (bench.folder / "nowhere").exists()


def test_retries_wait_longer_each_time():
    """A version that could not be started is due after 5, 10, 20, 40 and 60 minutes."""
    clock, drop = Clock(), Drop("s3://b/a.parquet", "1", 4)
    retries, pauses = Retries(clock), []

    first = retries.is_due(drop)
    for _ in range(6):
        retries.failed(drop)
        begun = clock.ahead_s
        while not retries.is_due(drop):
            clock.ahead_s += 60
        pauses.append(clock.ahead_s - begun)

    assert first
    assert pauses == [300, 600, 1200, 2400, 3600, 3600]
    assert retries.is_due(Drop("s3://b/a.parquet", "2", 4))


NOW = datetime(2026, 11, 2, 3, 0, tzinfo=UTC)


def run_of(kind: str, *, ago_s: float, begun_ago_s: float | None = None) -> FlowRun:
    """A run of a version that has been in this state for `ago_s` seconds."""
    state = State(type=StateType(kind), timestamp=NOW - timedelta(seconds=ago_s))
    begun = None if begun_ago_s is None else NOW - timedelta(seconds=begun_ago_s)
    return FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), state=state, start_time=begun)


def test_next_key_first_run():
    """The key of a version's first run is the version's name."""
    assert next_key("v", [], NOW) == "v"


@pytest.mark.parametrize("ago_s", [1, 1e6])
def test_next_key_scheduled(ago_s):
    """No run is started while another is scheduled, however long ago that was."""
    ended = run_of("CANCELLED", ago_s=1e6)

    assert next_key("v", [run_of("SCHEDULED", ago_s=ago_s), ended], NOW) is None


@pytest.mark.parametrize("kind", ["CANCELLED", "CRASHED", "FAILED", "COMPLETED"])
def test_next_key_after_a_run_that_came_to_nothing(kind):
    """The next key names the last run, and is due five minutes after that started."""
    young, old = run_of(kind, ago_s=299), run_of(kind, ago_s=300)
    long = run_of(kind, ago_s=1, begun_ago_s=300)

    assert next_key("v", [young], NOW) is None
    assert next_key("v", [old], NOW) == f"v:{old.id}"
    assert next_key("v", [long], NOW) == f"v:{long.id}"


@pytest.mark.parametrize("kind", ["PENDING", "RUNNING", "CANCELLING"])
def test_next_key_after_a_run_that_hangs(kind):
    """A run that has not taken the version in five minutes does not block the next."""
    young, old = run_of(kind, ago_s=299), run_of(kind, ago_s=300)

    assert next_key("v", [young], NOW) is None
    assert next_key("v", [old], NOW) == f"v:{old.id}"


def test_next_key_after_several_runs():
    """The next key names the latest run, and is due later with each."""
    runs = [run_of("FAILED", ago_s=ago) for ago in (3000, 599, 2000)]

    assert next_key("v", runs, NOW) is None
    assert next_key("v", runs[:2], NOW + timedelta(seconds=1)) == f"v:{runs[1].id}"


# With a server


def together(house, times: int) -> list[str]:
    """Looks this number of times at the same moment."""
    with ThreadPoolExecutor(times) as some:
        return [*some.map(lambda _: house.look(), range(times))]


def put(prefect, run: dict[str, Any], kind: str) -> None:
    state = {"type": kind, "name": kind.title()}
    prefect.post(f"flow_runs/{run['id']}/set_state", state=state, force=True)


def landed(house, path: Path) -> dict[str, Any]:
    """The event by which another program reports that a manifest has landed."""
    stat = path.stat()
    version = f"{stat.st_size}-{stat.st_mtime_ns // 1000}"
    return {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "nightreel.manifest.landed",
        "resource": {"prefect.resource.id": f"nightreel.manifest.{uuid.uuid4()}"},
        "payload": {"uri": path.as_uri(), "etag": version, "root": house.root},
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_version_has_one_run_until_that_comes_to_nothing(house):
    """A cancelled, crashed or deleted run that took nothing is followed by one more."""
    prefect, none, one = (
        house.bench.prefect,
        "Completed 0 started",
        "Completed 1 started",
    )
    drop(house.bench, 1)

    assert one in together(house, 2)
    [first] = house.batches()
    assert house.look(again_s=0) == none
    assert not (house.bench.folder / "root/inbox").exists()
    put(prefect, first, "CANCELLED")
    assert house.look() == none
    assert house.look(again_s=0) == one
    [second] = house.batches(state_type="SCHEDULED")
    put(prefect, second, "CRASHED")
    assert house.look(again_s=0) == one
    assert house.look(again_s=0) == none
    assert len(house.batches()) == 3
    house.forget()
    assert house.look() == one
    [_] = house.batches()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_version_is_run_once_whoever_starts_it(house):
    """A run of the flow and a run of an event: one takes the version, for good."""
    bench, prefect = house.bench, house.bench.prefect
    path = drop(bench, 2)
    assert house.look() == "Completed 1 started"
    event = landed(house, path)
    httpx.post(f"{prefect.url}/events", json=[event]).raise_for_status()
    prefect.until(lambda: len(house.batches()) == 2)

    house.work()

    assert sorted(house.ended(2)) == [
        *(("COMPLETED", "AlreadyTaken"), ("COMPLETED", "Completed")),
    ]
    assert dict(bench.bought) == {"pan 0": 1, "pan 1": 1}
    assert len([*(bench.folder / "root/clips").rglob("*.mp4")]) == 2
    house.forget()
    assert house.look(again_s=0) == "Completed 0 started"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_bad_manifest_and_failed_start(house):
    """A bad manifest fails once; one whose batch could not start is started again."""
    bench, prefect = house.bench, house.bench.prefect
    house.work()
    (bench.folder / "inbox/bad.parquet").write_bytes(b"no such thing")
    assert house.look() == "Completed 1 started"
    assert house.ended(1) == [("FAILED", "Failed")]
    assert house.look(again_s=0) == "Completed 0 started"
    [bad] = house.batches()
    assert "bad.parquet: not readable as Parquet" in bad["state"]["message"]
    [complaints] = prefect.post(
        "artifacts/filter",
        flow_runs={"id": {"any_": [bad["id"]]}},
        artifacts={"key": {"any_": ["nightreel-complaints"]}},
    )
    assert "not readable as Parquet" in complaints["data"]

    bench.config(more="engine.attempts = -1")
    drop(bench, 1)
    assert house.look() == "Completed 1 started"
    assert house.ended(2)[1] == ("FAILED", "Failed")
    bench.config()
    assert house.look() == "Completed 0 started"
    assert house.look(again_s=0) == "Completed 1 started"
    assert house.ended(3)[2] == ("COMPLETED", "Completed")
    assert dict(bench.bought) == {"pan 0": 1}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_watch_flow_without_its_deployment(house):
    """Without its deployment the look fails and says so; the next one starts the run."""
    drop(house.bench, 1)

    told = house.look(deployment="nightreel/none")

    assert told.startswith("Failed ")
    assert "no deployment 'nightreel/none' on the server: prefect deploy --all" in told
    assert house.look() == "Completed 1 started"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_watch_deployment_and_notification_start_each_version(house, hook):
    """The watch deployment and a notification start a batch for each version."""
    bench, prefect = house.bench, house.bench.prefect
    house.work()

    drop(bench, 1)
    asked = {"inbox": house.inbox, "root": house.root, "settle_s": 0.05}
    watch = prefect.deployment("nightreel-watch/watch")["id"]
    prefect.post(f"deployments/{watch}/create_flow_run", parameters=asked)
    prefect.until(lambda: dict(bench.bought) == {"pan 0": 1})
    drop(bench, 2)
    httpx.post(hook).raise_for_status()
    prefect.until(lambda: dict(bench.bought) == {"pan 0": 1, "pan 1": 1})
    house.ended(2)

    assert house.look() == "Completed 0 started"


def answered(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 405
    except httpx.TransportError:
        return False


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def hook(house, port) -> Iterator[str]:
    """The example that takes a store's notifications."""
    program = [sys.executable, ROOT / "examples/inbox_webhook.py"]
    listening = subprocess.Popen(
        [*program, house.inbox, house.root, "--port", str(port)],
        env={**house.bench.prefect.env},
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        house.bench.prefect.until(lambda: answered(url))
        yield url
    finally:
        listening.terminate()
        listening.wait(30)
