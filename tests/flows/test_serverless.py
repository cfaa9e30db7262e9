"""The server only shows the batch: clips are made if it is away or dies."""

import re

import pytest

from tasks.emulator import Emulator, running
from tests.flows.conftest import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]


def test_absent_server_is_one_log_line_and_the_batch_runs(bench):
    """A server that is away is reported in one line, and the batch runs."""
    bench.manifest(2)

    ran = bench.start(
        *("run", "m.parquet", "--root", "root", "--json"),
        PREFECT_API_URL="http://127.0.0.1:9/api",
    ).ended(within_s=840)

    assert (ran.code, ran.reply["published"]) == (0, 2), ran.err
    assert re.search(
        r"^PREFECT_API_URL = http://127.0.0.1:9/api: no Prefect server.*$",
        ran.err,
        re.MULTILINE,
    )
    assert "Traceback" not in ran.err


def test_a_server_that_dies_in_mid_batch_takes_nothing_with_it(bench, tmp_path, clip):
    bench.emulator = Emulator(latency_s=2, submits_per_minute=100000, clip=clip)
    with running(bench.emulator) as bench.url, serving(tmp_path / "home") as server:
        bench.prefect = server
        bench.manifest(24)
        bench.config(more="engine.shard_rows = 6")
        begun = bench.begin()
        bench.wait(lambda: len(bench.bought) >= 8)

        server.kill()
        ran = begun.ended(within_s=750)

    assert (ran.code, ran.reply["published"]) == (0, 24), ran.err
    assert set(bench.bought.values()) == {1}
    assert "Traceback" not in ran.err
    assert bench.nightreel("status", "root").code == 0


def test_restarted_server_cancels_no_run_that_is_about_to_begin(tmp_path):
    """A server that restarts cancels no run that is about to begin.

    prefect.toml ensures this: without it the night would be lost together with
    its concurrency slot.
    """
    with serving(tmp_path) as server:
        server.wait()
        flow = server.post("flows/", name="nightreel")["id"]
        deployment = server.post(
            "deployments/",
            name="nightly",
            flow_id=flow,
            concurrency_limit=1,
            concurrency_options={"collision_strategy": "ENQUEUE"},
        )["id"]
        run = server.post(f"deployments/{deployment}/create_flow_run")["id"]
        pending = server.post(f"flow_runs/{run}/set_state", state={"type": "PENDING"})
        server.kill()
    with serving(tmp_path) as server:
        server.wait()
        begun = server.post(f"flow_runs/{run}/set_state", state={"type": "RUNNING"})
        second = server.post(f"deployments/{deployment}/create_flow_run")["id"]
        waits = server.post(f"flow_runs/{second}/set_state", state={"type": "PENDING"})

    assert (pending["status"], begun["status"]) == ("ACCEPT", "ACCEPT")
    assert waits["state"]["name"] == "AwaitingConcurrencySlot"
