"""A batch on a work pool: another worker takes over from one that is killed."""

import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tasks.emulator import Emulator
from tests.flows.conftest import BIN, ROOT, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

JOBS, SLOTS, SHARD = 36, 6, 12
KLING = f"access:{'secret' * 6}"


@contextmanager
def workers(prefect, count):
    """Starts `count` workers of the pool, each with one run at a time."""
    words = ["worker", "start", "--pool", "nightreel-shards", "--limit", "1"]
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
        until(lambda: bench.seen("submit") >= 8 and runs_of(victim), within_s=150)

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
        runs = bench.prefect.post(
            "flow_runs/filter", flows={"name": {"any_": ["nightreel-shard"]}}
        )
        shards = [run["parameters"]["shard"] for run in runs]
        assert len(shards) > len({*shards}) == JOBS // SHARD
