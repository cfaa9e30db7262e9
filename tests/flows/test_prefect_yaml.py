"""The deployments, as a Prefect server has it once it was deployed for real."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120


def soon(*kinds):
    """Try again and again, as a server that starts and its scheduler need it."""
    return Retrying(
        retry=retry_if_exception_type(kinds),
        wait=wait_fixed(0.1),
        stop=stop_after_delay(PATIENCE_S),
        reraise=True,
    )


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def environment(home, port):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return inherited | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    }


@contextmanager
def serving(env, port, log):
    """A Prefect server on loopback; yields a client of its API."""
    command = prefect("server", "start", "--host", "127.0.0.1", "--port", str(port))
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, cwd=log.parent, env=env, stdout=out, stderr=out, process_group=0
        )
        try:
            with httpx.Client(base_url=env["PREFECT_API_URL"], timeout=30) as api:
                for attempt in soon(httpx.TransportError):
                    with attempt:
                        assert server.poll() is None, log.read_text()
                        api.get("/health").raise_for_status()
                yield api
        finally:
            # It has a child of its own; and nothing of it is worth a clean end.
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def prefect(*words):
    return [sys.executable, "-m", "prefect", *words]


def ran(env, *words):
    done = subprocess.run(
        prefect(*words),
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def calendar(api):
    """When runs are to begin, as soon as the scheduler has said so."""
    for attempt in soon(AssertionError):
        with attempt:
            runs: list[dict[str, Any]] = api.post("/flow_runs/filter", json={}).json()
            assert runs, "the scheduler has put nothing on the calendar"
    return [datetime.fromisoformat(run["expected_start_time"]) for run in runs]


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_one_command_puts_the_batch_on_the_calendar_every_night(tmp_path):
    port = free_port()
    env = environment(tmp_path, port)
    with serving(env, port, tmp_path / "server.log") as api:
        ran(env, "--no-prompt", "work-pool", "create", "nightreel", "--type", "process")
        ran(env, "--no-prompt", "deploy", "--all")

        nightly = api.get("/deployments/name/nightreel/nightly").json()
        hourly = api.get("/deployments/name/nightreel-reconcile/reconcile").json()
        [schedule] = nightly["schedules"]
        starts = calendar(api)

    assert schedule["schedule"]["cron"] == "0 2 * * *"
    assert schedule["schedule"]["timezone"] == "UTC"
    assert (schedule["slug"], schedule["active"]) == ("nightly", True)
    assert {(at.hour, at.minute) for at in starts} == {(2, 0)}

    assert nightly["global_concurrency_limit"]["limit"] == 1
    assert nightly["concurrency_options"]["collision_strategy"] == "ENQUEUE"

    assert set(nightly["parameters"]) == {"manifest", "root", "config"}
    assert all(isinstance(value, str) for value in nightly["parameters"].values())
    assert nightly["enforce_parameter_schema"]
    assert nightly["work_pool_name"] == "nightreel"
    assert nightly["job_variables"] == {
        "env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    }

    # It is ready to be made active, and until then nothing of it is on the calendar.
    [every_hour] = hourly["schedules"]
    assert (every_hour["slug"], every_hour["active"]) == ("hourly", False)
    assert every_hour["schedule"]["cron"] == "30 * * * *"
    assert hourly["parameters"] == {
        name: nightly["parameters"][name] for name in ("root", "config")
    }
    assert hourly["enforce_parameter_schema"]
    for shared in ("work_pool_name", "job_variables", "concurrency_options"):
        assert hourly[shared] == nightly[shared]
