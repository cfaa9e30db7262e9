"""Ctrl-C at a terminal, with the temporary server that Prefect starts for the run."""

import os
import re
import select
import signal
import time
from pathlib import Path

import pytest

from tasks.emulator import Emulator, running
from tests.flows.conftest import environment, until
from tests.flows.test_lost_output import on_a_terminal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GRACE_S = 3.0
RUN = ("run", "m.parquet", "--root", "root")


@pytest.fixture
def alone(bench, clip):
    """The bench; its clips take ten minutes."""
    emulator = Emulator(latency_s=600, slots=100, submits_per_minute=100000, clip=clip)
    bench.emulator = emulator
    bench.manifest(4)
    with running(emulator) as bench.url:
        bench.config(more=f"engine.grace_s = {GRACE_S}")
        yield bench


def started(bench):
    """A run that has bought all its clips, its terminal, and Prefect's server."""
    env = environment(PREFECT_HOME=str(bench.folder / "prefect"))
    pid, terminal = on_a_terminal(bench, *RUN, env=env)
    bench.wait(lambda: len(bench.bought) == 4)
    [server] = children(pid)
    return pid, terminal, server


def children(pid: int) -> list[int]:
    return [
        int(stat.parent.name)
        for stat in Path("/proc").glob("[0-9]*/stat")
        if parent(stat) == pid
    ]


def parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def is_there(pid: int) -> bool:
    """Whether the process runs; one that ended and has not been awaited does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def rest(terminal: int) -> str:
    """Returns the text of the terminal until the process ends."""
    shown = b""
    while select.select([terminal], [], [], 200)[0]:
        try:
            shown += os.read(terminal, 65536)
        except OSError:
            break
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))


def test_ctrl_c_ends_a_run_within_its_grace(alone):
    """Nothing fails, the terminal says what the stop waits for, and no server stays."""
    pid, terminal, server = started(alone)

    pressed = time.monotonic()
    os.write(terminal, b"\x03")
    shown = rest(terminal)
    took_s = time.monotonic() - pressed
    _, status = os.waitpid(pid, 0)
    os.close(terminal)

    assert os.waitstatus_to_exitcode(status) == 1, shown
    assert "stopped: nothing more is bought" in " ".join(shown.split())
    assert "4 pending" in shown
    assert "rror" not in shown, shown
    assert "Traceback" not in shown
    assert not is_there(server)
    # Prefect allows its server 5 s to end, and a slow machine needs as long for the tables.
    assert took_s < GRACE_S + 15


def test_no_server_stays_after_kill_9(alone):
    pid, terminal, server = started(alone)

    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(terminal)

    until(lambda: not is_there(server), within_s=60)


def test_a_stop_says_how_long_it_waits_for_how_many(bench, clip):
    """A clip that should be done within the grace is waited for, and fetched."""
    emulator = Emulator(latency_s=3, slots=100, submits_per_minute=100000, clip=clip)
    bench.emulator = emulator
    bench.manifest(30)
    with running(emulator) as bench.url:
        bench.config(more="engine.grace_s = 20", slots=2)
        bench.prefect.wait()
        pid, terminal = on_a_terminal(bench, *RUN, "-v")
        clips = bench.folder / "root/clips"
        bench.wait(lambda: len([*clips.rglob("*.mp4")]) >= 9)
        bench.wait(lambda: len(bench.bought) >= 12)

        os.write(terminal, b"\x03")
        shown = rest(terminal)
        _, status = os.waitpid(pid, 0)
        os.close(terminal)

    assert os.waitstatus_to_exitcode(status) == 1, shown
    text = " ".join(shown.split())
    assert re.search(r"waits up to \d+ s for \d under way", text), shown
    published = bench.table().filter(state="published").height
    assert published == len(bench.bought)
