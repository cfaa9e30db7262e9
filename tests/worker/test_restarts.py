"""Workers that are killed, drained, hung and restarted lose no job and make none
twice."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from tests.worker.conftest import ROOT, WORKER, Running

pytestmark = [pytest.mark.worker, pytest.mark.timeout(900)]


def test_kill_and_drain_lose_no_job(start, a14b, shared, still, tmp_path):
    """A killed worker loses no job; a drained one leaves its queue to the next."""
    state = tmp_path / "state"
    worker = start(a14b, state=state).ready()
    worker.post(still, id="done", seed=1)
    done = worker.clip("done")
    was = worker.job("done")
    worker.post(still, id="killed", seed=2, num_inference_steps=30)
    worker.post(still, id="queued", seed=3)
    worker.until(lambda: worker.job("killed")["progress"] > 0)
    worker.stop(signal.SIGKILL)

    worker = start(a14b, state=state).ready()
    killed, queued = worker.clip("killed"), worker.clip("queued")

    assert worker.job("done") == was
    assert worker.clip("done") == done
    shared.post(still, id="unkilled", seed=2, num_inference_steps=30)
    shared.post(still, id="unqueued", seed=3)
    assert killed == shared.clip("unkilled")
    assert queued == shared.clip("unqueued")
    assert worker.metric("clips_completed_total") == 2

    # A drain finishes the started job and lets it be fetched; the next worker gets the
    # rest.
    worker.post(still, id="unseen")
    worker.ended("unseen")
    # Long enough that the signal arrives before the end.
    worker.post(still, id="begun", num_inference_steps=200)
    worker.post(still, id="left")
    worker.until(lambda: worker.job("begun")["progress"] > 0)
    worker.process.terminate()
    worker.until(lambda: worker.get("/health").json()["status"] == "draining")
    refused, known = worker.post(still, id="new"), worker.post(still, id="left")

    assert worker.status("left") == "queued"
    assert (refused.status_code, known.status_code) == (503, 200)
    assert refused.json()["error"]["code"] == "draining"
    assert int(refused.headers["retry-after"]) >= 1
    assert worker.clip("begun")
    assert worker.clip("unseen")
    assert worker.process.wait(timeout=60) == 0
    worker = start(a14b, state=state)
    warming = worker.post(still, id="early")
    assert warming.json()["error"]["code"] == "warming_up"
    assert worker.ready().clip("left")
    assert worker.get("/v1/videos/new").status_code == 404
    assert worker.stop() == 0


def test_hung_step_ends_only_its_process(a14b, still, tmp_path):
    """A step that hangs ends only its own process, and is tried once more."""
    ports = free_port()
    log = tmp_path / "log"
    words = ("--model", a14b, "--device", "cpu,cpu", "--port", ports)
    more = ("--shapes", "96x64x9", "--hang-after", "10", "--state", tmp_path / "state")
    both = Running([*words, *more], log)
    hanging, other = (f"http://127.0.0.1:{ports + place}" for place in (0, 1))
    try:
        both.url = other
        both.until(lambda: health(other) and health(hanging))
        both.url = hanging
        both.post(still, id="hangs", size="832x480", num_frames=33)
        both.until(lambda: has_failed(both, "hangs") and health(hanging), 240)
        hangs = both.job("hangs")
        both.url = other
        both.post(still, id="beside")

        assert hangs["error"]["code"] == "step_hung"
        assert both.output().count("code=75") == 2
        assert both.clip("beside")
        assert both.output().count("worker.ready") == 4
    finally:
        code = both.stop()
    assert code == 0


def free_port():
    """A free port; the one after it is most likely free too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def has_failed(worker, name):
    """Whether it reports so: it may exit in the middle of an answer."""
    try:
        return worker.status(name) == "failed"
    except httpx.TransportError:
        return False


def health(url):
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_state_is_one_workers_at_a_time(a14b, shared):
    words = shared.process.args
    state = words[words.index("--state") + 1]

    second = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            WORKER,
            "worker",
            "--model",
            a14b,
            "--device",
            "cpu",
            "--port",
            "0",
            "--state",
            state,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert second.returncode == 2
    assert "another worker is at work there" in second.stderr
