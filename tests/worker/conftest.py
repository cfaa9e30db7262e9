"""Workers as processes, on tiny checkpoints; no test here needs a GPU."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"
# Two cores run two workers: threads that wait for each other would occupy both.
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).parents[2]
WITHIN_S = 150
FORM = {
    "prompt": "a slow camera walks",
    "negative_prompt": "the walks",
    "size": "96x64",
    "num_frames": "9",
    "fps": "8",
    "num_inference_steps": "2",
    "guidance_scale": "3.5",
}
WORKER = "from flows.commands.main import main; main()"

collect_ignore_glob = [] if find_spec("diffusers") else ["test_*"]


@pytest.fixture(scope="session")
def still():
    """Noise, so that no two stills are alike."""
    out = BytesIO()
    Image.effect_noise((120, 90), 90).convert("RGB").save(out, format="PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A checkpoint of a kind, saved like the real ones; `spoil` may change it first."""
    from tests.worker import tiny  # noqa: PLC0415 - torch, where there is one

    def saved(kind, spoil=lambda pipe: None):
        folder = tmp_path_factory.mktemp("models") / f"tiny-{kind}"
        pipe = tiny.pipeline(kind)
        spoil(pipe)
        pipe.save_pretrained(folder)
        return folder

    return saved


@pytest.fixture(scope="session")
def a14b(checkpoint):
    return checkpoint("a14b")


class Running:
    """A worker's process and its HTTP client."""

    def __init__(self, words, log, *, memory_kb=None, **environ):
        command = [sys.executable, "-P", "-c", WORKER, "worker", *map(str, words)]
        if memory_kb:
            limit = f'ulimit -v {memory_kb}; exec "$@"'
            command = ["bash", "-c", limit, "worker", *command]
        self._log = log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                stderr=stderr,
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            )
        self.client = httpx.Client(timeout=30)
        self.url = self.until(self._told)

    def _told(self):
        lines = self.output().splitlines()
        return next(
            (line.split(": ")[1] for line in lines if ": http://" in line), None
        )

    def output(self):
        return self._log.read_text()

    def until(self, seen, within_s=WITHIN_S):
        """Poll until there is a result."""
        until = time.monotonic() + within_s
        while not (what := seen()):
            assert time.monotonic() < until, self.output()[-3000:]
            assert self.process.poll() is None, self.output()[-3000:]
            time.sleep(0.05)
        return what

    def ready(self):
        self.until(lambda: self.get("/health").status_code == 200)
        return self

    def get(self, path, **params):
        return self.client.get(self.url + path, params=params)

    def post(self, still, **form):
        files = {"input_reference": ("still.png", still, "image/png")}
        data = {**FORM, **{name: str(value) for name, value in form.items()}}
        return self.client.post(f"{self.url}/v1/videos", data=data, files=files)

    def delete(self, name):
        return self.client.delete(f"{self.url}/v1/videos/{name}")

    def job(self, name):
        return self.get(f"/v1/videos/{name}").json()

    def status(self, name):
        return self.job(name)["status"]

    def ended(self, name):
        """The job's state once it has ended."""
        over = {"completed", "failed", "cancelled"}
        self.until(lambda: self.status(name) in over)
        return self.job(name)

    def clip(self, name):
        job = self.ended(name)
        assert job["status"] == "completed", job
        return self.get(f"/v1/videos/{name}/content").content

    def metric(self, name):
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"nightreel_worker_{name} "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def stop(self, sign=signal.SIGTERM):
        """Its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        code = self.process.wait(timeout=90)
        self.client.close()
        return code


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Start a worker; running workers are stopped at the end."""
    begun = []

    def started(model, *words, state=None, **more):
        folder = tmp_path_factory.mktemp("worker")
        usual = ("--device", "cpu", "--port", "0", "--shapes", "96x64x9")
        where = ("--model", model, "--state", state or folder / "state")
        one = Running([*where, *usual, *words], folder / "log", **more)
        begun.append(one)
        return one

    yield started
    for one in begun:
        # Twice, like an operator who does not wait for clips to be fetched.
        for _ in range(2):
            if one.process.poll() is None:
                one.process.terminate()
        one.process.wait(timeout=90)
        one.client.close()


@pytest.fixture(scope="session")
def shared(start, a14b):
    """One worker for tests that do not change it; its memory is bounded."""
    return start(a14b, "--queue", "4", memory_kb=14_000_000).ready()


@contextmanager
def busy(worker, still, name):
    """Keep a long clip on the device."""
    assert worker.post(still, id=name, num_inference_steps=200).status_code == 200
    worker.until(lambda: worker.job(name)["progress"] > 0)
    yield
    if worker.status(name) == "in_progress":
        worker.delete(name)
    assert worker.ended(name)["status"] == "cancelled"
