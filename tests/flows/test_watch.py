"""`nightreel watch`, and its flow: a manifest that lands starts one batch."""

import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from flows.prefect_runtime.inbox_events import Watch, event
from storage.inbox.claims import AGAIN_S
from storage.inbox.listing import Drop
from tasks.emulator import Emulator, running

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ONCE = ("watch", "inbox", "--root", "root", "--once", "--settle", "0.05")


def drop(bench, rows: Any, name: str = "m") -> Path:
    """A manifest in the inbox, made elsewhere, and moved there whole."""
    inbox = bench.folder / "inbox"
    inbox.mkdir(exist_ok=True)
    still = (bench.folder / bench.still("one.jpg")).as_uri()
    if isinstance(rows, int):
        rows = [{"prompt": f"pan {n}"} for n in range(rows)]
    made = bench.folder / bench.manifest([{**row, "image": still} for row in rows])
    return made.replace(inbox / f"{name}.parquet")


@dataclass
class Clock:
    """The machine's clock, that can be put forward."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


# Without a server


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_each_version_has_one_batch_and_what_is_bad_is_told_of_once(bench):
    path = drop(bench, 2)
    drop(bench, [{"prompt": "tilt"}, {"prompt": " "}], "strict")
    inbox = path.parent
    (inbox / "not.parquet").write_bytes(b"no such thing")
    pl.DataFrame({"prompt": ["pan"]}).write_parquet(inbox / "lacking.parquet")

    first = bench.nightreel(*ONCE, "--strict")
    bought = dict(bench.bought)
    # The same once more, with its time, as rsync sends it.
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
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 1)]
)
def test_what_was_begun_is_gone_on_with_by_the_next_one(bench, clip, number, code):
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


@pytest.mark.anyio
async def test_the_example_tells_of_a_version_once_and_leaves_the_rest_to_others(
    tmp_path,
):
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/m.parquet").write_bytes(b"any")
    uris = [(tmp_path / name).as_uri() for name in ("inbox", "root")]
    tell = runpy.run_path(str(ROOT / "examples/inbox_webhook.py"))["tell"]
    said = list[httpx.Request]()

    def server(request: httpx.Request) -> httpx.Response:
        said.append(request)
        return httpx.Response(204)

    at = Watch.open(*uris)
    to = httpx.MockTransport(server)
    async with httpx.AsyncClient(transport=to, base_url="http://server/api") as client:
        await tell(at, client)
        for path in (tmp_path / "root/inbox/announced").rglob("*.json"):
            os.utime(path, (time.time() - AGAIN_S - 60,) * 2)
        await tell(at, client)

    assert [request.url.path for request in said] == ["/api/events"]
    assert [turn for _, turn in await at.landed(0)] == [2]


# With a server


def older(house, seconds: float) -> None:
    """Have all announcements been made so much earlier."""
    for path in (house.bench.folder / "root/inbox/announced").rglob("*.json"):
        os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_manifest_that_lands_starts_a_batch_whatever_becomes_of_its_event(house):
    bench, prefect = house.bench, house.bench.prefect

    # It has landed: the event is sent once, and again if no run waits to take it.
    path = drop(bench, 2)
    assert house.look() == "Completed 1 announced"
    assert house.look() == "Completed 0 announced"
    prefect.until(house.batches)
    older(house, AGAIN_S + 60)
    assert house.look() == "Completed 0 announced"
    [waiting] = house.batches()
    refused = {"type": "CANCELLED", "name": "Cancelled"}
    prefect.post(f"flow_runs/{waiting['id']}/set_state", state=refused)
    assert house.look() == "Completed 1 announced"
    prefect.until(lambda: len(house.batches()) == 2)

    # It comes twice all the same: one run takes it.
    stat = path.stat()
    said = Drop(path.as_uri(), f"{stat.st_size}-{stat.st_mtime_ns // 1000}", 0)
    again = {
        **event(said, house.root),
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
    }
    httpx.post(f"{prefect.url}/events", json=[again]).raise_for_status()
    prefect.until(lambda: len(house.batches()) == 3)
    house.work()
    states = house.ended(3)
    assert sorted(states) == [
        *(("CANCELLED", "Cancelled"), ("COMPLETED", "AlreadyTaken")),
        ("COMPLETED", "Completed"),
    ]
    assert dict(bench.bought) == {"pan 0": 1, "pan 1": 1}
    assert len([*(bench.folder / "root/clips").rglob("*.mp4")]) == 2

    # What is bad has failed, and says why; nobody is told of it again.
    (bench.folder / "inbox/bad.parquet").write_bytes(b"no such thing")
    assert house.look() == "Completed 1 announced"
    assert ("FAILED", "Failed") in house.ended(4)
    older(house, AGAIN_S + 60)
    assert house.look() == "Completed 0 announced"
    [bad] = house.batches(state_type="FAILED")
    assert "bad.parquet: not readable as Parquet" in bad["state"]["message"]
    [complaints] = prefect.post(
        "artifacts/filter",
        flow_runs={"id": {"any_": [bad["id"]]}},
        artifacts={"key": {"any_": ["complaints"]}},
    )
    assert "not readable as Parquet" in complaints["data"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_watch_deployment_and_a_notification_start_a_batch_for_each_version(
    house, hook
):
    bench, prefect = house.bench, house.bench.prefect
    house.work()

    drop(bench, 1)
    asked = {"inbox": house.inbox, "root": house.root, "settle_s": 0.05}
    watch = prefect.deployment("nightreel-watch/watch")["id"]
    before = len(house.batches())
    prefect.post(f"deployments/{watch}/create_flow_run", parameters=asked)
    prefect.until(lambda: dict(bench.bought) == {"pan 0": 1})
    drop(bench, 2)
    httpx.post(hook).raise_for_status()
    prefect.until(lambda: dict(bench.bought) == {"pan 0": 1, "pan 1": 1})
    house.ended(before + 2)

    assert house.look() == "Completed 0 announced"


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
