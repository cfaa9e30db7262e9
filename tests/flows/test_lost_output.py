"""A batch ends as it would have when its output loses its reader."""

import fcntl
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tasks.emulator import Emulator, running
from tests.flows.conftest import BIN
from tests.flows.test_stops import asked, ended

RUN = ("run", "m.parquet", "--root", "root")


@pytest.fixture
def waiting(bench, clip):
    """The bench, whose clips take until the test moves the providers' clock."""
    clock = [0.0]
    bench.emulator = Emulator(
        latency_s=600,
        slots=100,
        submits_per_minute=100000,
        clip=clip,
        clock=lambda: clock[0],
    )
    bench.manifest(4)
    with running(bench.emulator) as bench.url:
        bench.config()
        bench.prefect.wait()
        yield bench, clock


def begun(bench, *words: str, **streams) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [BIN / "nightreel", *words],
        cwd=bench.folder,
        env=dict(bench.prefect.env),
        **streams,
    )


def on_a_terminal(bench, *words: str, env: Mapping[str, str] | None = None):
    """Starts a command on a new terminal; its process, and our end of the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(bench.folder)
        os.execve(
            BIN / "nightreel", ["nightreel", *words], dict(env or bench.prefect.env)
        )
    return pid, terminal


def assert_whole(bench) -> None:
    """Every clip was bought once, and the tables were written."""
    assert sorted(bench.bought.values()) == [1] * 4
    assert bench.table()["state"].to_list() == ["published"] * 4
    assert bench.table("attempts").height == 4


@pytest.mark.parametrize(
    "words", [(), ("--json",), ("--log-json", "-vv"), ("-v", "--json")]
)
def test_both_pipes_lost_midway_end_no_batch(waiting, words):
    """The exit code is the batch's, though nobody reads stdout and stderr."""
    bench, clock = waiting
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    with begun(bench, *RUN, *words, **pipes) as run:
        bench.wait(lambda: len(bench.bought) == 4)
        run.stdout.close()
        run.stderr.close()
        clock[0] = 600.0
        code = run.wait(200)

    assert code == 0
    assert_whole(bench)


def test_a_reader_that_does_not_read_holds_up_no_batch(waiting):
    """A full pipe on stderr, as a terminal after Ctrl-S, drops the output meanwhile."""
    bench, clock = waiting
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)

    with begun(
        bench, *RUN, "-vv", "--json", stdout=subprocess.PIPE, stderr=writing
    ) as run:
        os.close(writing)
        bench.wait(lambda: len(bench.bought) == 4)
        clock[0] = 600.0
        reply = json.loads(run.stdout.read())
        code = run.wait(200)

    assert (code, reply["published"]) == (0, 4)
    assert len(os.read(reading, 1 << 16)) <= 4096
    os.close(reading)
    assert_whole(bench)


def test_a_slow_reader_gets_what_follows_a_stall():
    """Output that nothing reads is left out, with one line in its place; later output arrives."""
    reading, writing = os.pipe()
    script = (
        "import os, sys; from flows.logs.streams import outlive_readers;"
        "outlive_readers(); print('x' * 200_000, file=sys.stderr);"
        "print('stalled'); sys.stdout.flush(); sys.stdin.readline();"
        "print('again', file=sys.stderr)"
    )

    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
    ) as run:
        os.close(writing)
        assert run.stdout.readline() == "stalled\n"
        first = os.read(reading, 1 << 20)
        run.stdin.write("\n")
        run.stdin.flush()
        assert run.wait(60) == 0
        then = os.read(reading, 1 << 20).decode()

    os.close(reading)
    assert set(first) == {ord("x")}
    assert then.strip().splitlines() == [
        "[output was left out here, because nothing read it]",
        "again",
    ]


@pytest.mark.parametrize("words", [(), ("-vv",)])
def test_a_closed_terminal_ends_no_batch(waiting, words):
    """The kernel sends SIGHUP and fails each write; the batch goes on."""
    bench, clock = waiting
    pid, terminal = on_a_terminal(bench, *RUN, *words)
    bench.wait(lambda: len(bench.bought) == 4)

    os.close(terminal)
    clock[0] = 600.0
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert_whole(bench)


def test_closed_streams_take_no_number_from_a_file(bench):
    """A command that is started without stdout and stderr runs as others do."""
    shell = 'exec "$0" run m.parquet --root root --json >&- 2>&-'
    bench.manifest(4)
    bench.prefect.wait()

    ran = subprocess.run(
        ["/bin/sh", "-c", shell, BIN / "nightreel"],
        cwd=bench.folder,
        env=dict(bench.prefect.env),
        timeout=200,
        check=False,
    )

    assert ran.returncode == 0
    assert_whole(bench)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_outlives_its_killed_worker(house, clip):
    """The worker reads what its run prints; the run goes on without it."""
    bench, prefect, clock = house.bench, house.bench.prefect, [0.0]
    bench.emulator = Emulator(
        latency_s=600,
        slots=100,
        submits_per_minute=100000,
        clip=clip,
        clock=lambda: clock[0],
    )
    bench.manifest(4)
    with running(bench.emulator) as bench.url:
        bench.config()
        house.work(PREFECT_LOGGING_LEVEL="DEBUG")
        run = asked(
            house,
            "nightreel/nightly",
            manifest=(bench.folder / "m.parquet").as_uri(),
            root=house.root,
            config=str(bench.folder / "nightreel.toml"),
        )
        prefect.until(lambda: len(bench.bought) == 4)

        house.worker.kill()
        house.worker.wait()
        clock[0] = 600.0
        state = ended(house, run)

    assert state == "COMPLETED"
    assert_whole(bench)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_watch_ends_after_its_batch_when_its_terminal_is_closed(waiting):
    """The batch under way is finished, and no other manifest is taken."""
    bench, clock = waiting
    (bench.folder / "inbox").mkdir()
    (bench.folder / "m.parquet").rename(bench.folder / "inbox/m.parquet")
    bench.still("one.jpg")
    # A manifest in an inbox may name stills below its own folder alone.
    shutil.copytree(bench.folder / "stills", bench.folder / "inbox/stills")
    words = ("watch", "inbox", "--root", "root", "--settle", "0")
    pid, terminal = on_a_terminal(bench, *words)
    bench.wait(lambda: len(bench.bought) == 4)

    os.close(terminal)
    clock[0] = 600.0
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert_whole(bench)
