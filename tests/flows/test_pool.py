"""A batch on a work pool: another worker takes over from one that is killed."""

import asyncio
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from prefect.client.orchestration import PrefectClient

from flows.prefect_runtime.work_pool import LOST_S, PendingStart
from tasks.emulator import Emulator
from tests.flows.conftest import BIN, ROOT, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

POOL = "nightreel-shards"
JOBS, SLOTS, SHARD = 36, 6, 12
KLING = f"access:{'secret' * 6}"


@contextmanager
def workers(prefect, count):
    """Starts `count` workers of the pool, each with one run at a time."""
    words = ["worker", "start", "--pool", POOL, "--limit", "1"]
    env = prefect.env | {"NIGHTREEL_HOME": str(ROOT), "KLING_KEY": KLING}
    env |= {"PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [BIN / "prefect", "--no-prompt", *words, "--name", f"worker-{n}"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for n in range(count)
    ]
    try:
        yield started
    finally:
        for one in started:
            one.kill()
            one.wait()


def rows(bench, count):
    """This number of rows, with a still large enough for Kling."""
    Image.new("RGB", (640, 480), (90, 60, 30)).save(bench.folder / "large.jpg")
    row = {"image": "large.jpg", "resolution": "720p"}
    return [{**row, "prompt": f"pan {n}"} for n in range(count)]


def runs_of(worker):
    """The processes that a worker has started, by their ids."""
    # Each thread lists the processes that it started.
    lists = Path(f"/proc/{worker.pid}/task").glob("*/children")
    return [int(pid) for one in lists for pid in one.read_text().split()]


def shard_runs(bench, *states):
    """The flow runs of the batch's shards, of these states or of any."""
    flow = {"name": {"any_": ["nightreel-shard"]}}
    runs = bench.prefect.post("flow_runs/filter", flows=flow)
    return [run for run in runs if not states or run["state_type"] in states]


def test_shard_of_a_killed_worker_is_redone_by_another(make_bench, deployed, clip):
    """Another worker takes over the shard of a worker that is killed."""
    emulator = Emulator(
        latency_s=4.0, slots=SLOTS, submits_per_minute=100000, clip=clip
    )
    with make_bench(emulator) as bench, workers(deployed, 2) as [victim, _]:
        bench.manifest(rows(bench, JOBS))
        bench.config(
            "kling",
            key="env:KLING_KEY",
            slots=SLOTS,
            more=f"engine.settle_s = 0\nengine.runner = 'pool'\nengine.workers = 2\n"
            f"engine.shard_rows = {SHARD}",
        )
        words = ("run", "m.parquet", "--root", "root", "--json")
        batch = bench.start(*words, KLING_KEY=KLING)
        until(lambda: bench.seen("submit") >= 8 and runs_of(victim), within_s=400)
        # Both have begun: a run that has not is lost only after its worker's heartbeats.
        until(lambda: len(shard_runs(bench, "RUNNING")) >= 2, within_s=400)

        # Kill the worker first, so that nothing reports its run as crashed.
        killed = runs_of(victim)
        victim.kill()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        ended = batch.ended(within_s=600)

        reply = ended.reply
        [account] = emulator.stats()["accounts"]
        assert killed
        assert set(bench.bought.values()) == {1}
        assert reply["published"] + reply["in_doubt"] == JOBS
        assert reply["spent_usd"] >= bench.owed
        assert account["running"] <= SLOTS
        assert account["throttled"] == 0
        shards = [run["parameters"]["shard"] for run in shard_runs(bench)]
        assert len(shards) > len({*shards}) == JOBS // SHARD


def taken(prefect, worker: str) -> str:
    """A run of a shard that a worker took, by its id; it has not begun."""
    deployment = prefect.deployment("nightreel-shard/shard")["id"]
    asked = {"root": "memory://", "batch": "000001-m", "shard": 0}
    path = f"deployments/{deployment}/create_flow_run"
    run = prefect.post(path, parameters=asked, enforce_parameter_schema=False)["id"]
    prefect.post(f"flow_runs/{run}/set_state", state={"type": "PENDING"})
    labels = {"prefect.worker.name": worker, "prefect.work-pool.name": POOL}
    prefect.patch(f"flow_runs/{run}/labels", **labels)
    return run


async def reason(prefect, run: str, clock=time.monotonic) -> list[str | None]:
    """Why the run will never begin, as far as each of two looks tells."""
    start = PendingStart(clock)
    async with PrefectClient(prefect.url) as client:
        return [await start.lost(client, await client.read_flow_run(run)) for _ in "12"]


def test_run_taken_by_a_worker_that_died_is_lost(deployed):
    """A run is lost if its worker died between taking it and its start."""
    heartbeat = f"work_pools/{POOL}/workers/heartbeat"
    deployed.post(heartbeat, name="dead", heartbeat_interval_seconds=1)
    deployed.post(heartbeat, name="alive", heartbeat_interval_seconds=900)
    lost, waits = taken(deployed, "dead"), taken(deployed, "alive")

    until(lambda: asyncio.run(reason(deployed, lost))[0])

    assert "worker dead took it and went away" in asyncio.run(reason(deployed, lost))[0]
    assert asyncio.run(reason(deployed, waits)) == [None, None]
    late = iter([0.0, LOST_S])
    [_, why] = asyncio.run(reason(deployed, waits, lambda: next(late)))
    assert "after 900 s it has not begun" in why
    # The server is shared: other tests count the runs of shards.
    for run in (lost, waits):
        deployed.delete(f"flow_runs/{run}")
