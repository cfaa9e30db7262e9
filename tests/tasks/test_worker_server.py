"""A worker's process without a model: its end, and the state left to the next one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.worker.encoding import HARDWARE, encode
from tasks.worker.model_protocol import Frames
from tasks.worker.worker import STEP_HUNG
from tests.tasks.test_worker_rules import MODEL, Shape

ROOT = Path(__file__).parents[2]

# Its model never loads, as with a disk or a driver that hangs.
WORKER = """
import sys, threading
from pathlib import Path
from tasks.worker.server import Service, serve
from tasks.worker.model_protocol import Plan
state, within_s = sys.argv[1:]
serve(
    Plan(model="wan"),
    Service(
        host="127.0.0.1", port=0, state=Path(state), queue=1, shapes=[], keep_s=1.0,
        hang_after_s=99.0, load_within_s=float(within_s), supervised=float(within_s) > 1,
    ),
    lambda plan: threading.Event().wait(),
    lambda url: print(url, flush=True),
)
"""
SUPERVISOR = """
import os, sys
from tasks.worker.supervisor import supervise
print(os.getpid(), flush=True)
supervise([[sys.executable, "-c", sys.argv[1], sys.argv[2], "99"]])
"""


def begun(*words):
    return subprocess.Popen(
        [sys.executable, "-c", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def test_worker_whose_model_loads_too_slowly_ends(tmp_path):
    """A worker whose model does not load in time ends, and nothing waits for it."""
    with begun(WORKER, tmp_path, 0.1) as worker:
        assert worker.wait(60) == STEP_HUNG


@pytest.mark.slow
def test_workers_end_with_a_killed_supervisor_and_keep_the_jobs(tmp_path):
    """Workers end with a killed supervisor and leave all jobs to the next one."""
    with begun(SUPERVISOR, WORKER, tmp_path) as first:
        first.stdout.readline()
        first_url = first.stdout.readline()
        first.send_signal(signal.SIGKILL)
        with begun(SUPERVISOR, WORKER, tmp_path) as second:
            second.stdout.readline()
            second_url = second.stdout.readline()
            second.terminate()
            code = second.wait(60)

    assert "http" in first_url
    assert "http" in second_url
    assert code == 0


def test_a_card_that_has_no_encoder_to_spare_costs_no_clip(tmp_path):
    shape = Shape(width=256, height=256, frames=5)
    frames = Frames(shape, memoryview(bytes(256 * 256 * 3 * shape.frames)))

    encode(frames, MODEL.fps, f"{HARDWARE}:0", tmp_path / "clip.mp4")

    assert b"moov" in (tmp_path / "clip.mp4").read_bytes()
