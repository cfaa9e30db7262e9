"""The log of the command line, as the real process writes it."""

import json
import os
import pty
import re
import select
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from tasks.emulator import Emulator, running
from tests.flows.conftest import BIN, KEY

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
RUN = ("run", "m.parquet", "--root", "root")


@pytest.fixture
def refusing(bench, clip) -> Iterator:
    """A bench whose one lane has a key that its provider refuses: an engine warning."""
    bench.manifest(2)
    with running(Emulator(keys=["another"], clip=clip)) as bench.url:
        bench.config()
        yield bench


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def test_engine_warnings_reach_stderr_and_the_log_file(refusing):
    """A warning is a plain line with time, level and logger, and no escape codes."""
    ran = refusing.nightreel(*RUN, "--log-file", "night.log")

    logged = (refusing.folder / "night.log").read_text()
    [line] = [each for each in ran.err.splitlines() if "lane.closed" in each]
    assert ran.code == 3
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING tasks\.dispatch\.lanes: "
        r"lane\.closed lane=spicy nothing more is submitted to it: .+",
        line,
    )
    assert "\x1b" not in ran.err
    assert "batch.started" not in ran.err
    assert line in logged
    assert " INFO tasks.batch.lifespan: batch.started batch=000001-m rows=2" in logged
    assert " INFO nightreel: command.message 000001-m: " in logged
    assert KEY not in ran.err + logged


def test_quiet_leaves_only_errors_and_the_log_file_whole(refusing):
    """-q shows no warning, progress or summary; an existing log is appended to."""
    (refusing.folder / "night.log").write_text("before\n")

    ran = refusing.nightreel("-q", *RUN, "--log-file", "night.log")
    failed = refusing.nightreel("status", "nowhere", "-q")

    logged = (refusing.folder / "night.log").read_text()
    assert (ran.code, ran.err) == (3, "")
    assert logged.startswith("before\n20")
    assert "WARNING tasks.dispatch.lanes: lane.closed" in logged
    assert (failed.code, "no such folder" in failed.err) == (2, True)


def test_json_log_parses_line_by_line(refusing):
    """Every line of stderr is an object, from the engine and from the command alike."""
    ran = refusing.nightreel("-v", *RUN, "--log-json", "-v")
    refused = refusing.nightreel("--log-json", "status", "nowhere")

    lines = objects(ran.err)
    [closed] = [line for line in lines if line["event"] == "lane.closed"]
    [started] = [line for line in lines if line["event"] == "batch.started"]
    [error] = objects(refused.err)
    assert (ran.code, refused.code) == (3, 2)
    assert all(len(line) == 7 for line in lines)
    assert datetime.fromisoformat(closed["time"]).utcoffset().total_seconds() == 0
    assert (closed["level"], closed["fields"]) == ("warning", {"lane": "spicy"})
    assert closed["logger"] == "tasks.dispatch.lanes"
    assert started["fields"] == {"batch": "000001-m", "rows": 2, "jobs": 2}
    assert lines[-1]["event"] == "command.message"
    assert (error["level"], error["event"]) == ("error", "command.message")
    assert KEY not in ran.err


def test_quiet_and_verbose_exclude_each_other(bench):
    """The two options are refused together, in any position."""
    ran = bench.nightreel("-v", "status", "root", "-q")

    assert (ran.code, "exclude each other" in ran.err) == (2, True)


def test_a_log_file_that_cannot_be_opened_is_refused_first(refusing):
    """Nothing is sent if the log cannot be written."""
    ran = refusing.nightreel(*RUN, "--log-file", "no/such/folder.log")

    assert (ran.code, "no/such/folder.log: cannot be" in ran.err) == (2, True)
    assert not (refusing.folder / "root").exists()


def test_a_full_log_file_ends_no_batch(bench):
    """The failure is shown once, each event goes to stderr, and all clips are bought."""
    bench.manifest(1)

    ran = bench.nightreel(*RUN, "-vv", "--log-json", "--log-file", "/dev/full")

    lines = objects(ran.err)
    failed = [line for line in lines if "/dev/full: log lines" in line["message"]]
    events = [line for line in lines if line["event"] == "ledger.recorded"]
    assert ran.code == 0
    assert len(failed) == 1
    assert [line["fields"]["event"] for line in events] == [
        *("Intended", "Accepted", "Generated", "Published"),
    ]
    assert set(bench.bought.values()) == {1}


@pytest.mark.parametrize(
    "words", [(), pytest.param(("--log-json", "-vv"), marks=pytest.mark.slow)]
)
def test_a_reader_that_goes_away_ends_no_batch(bench, words):
    """A broken pipe on stderr changes neither the purchases nor the exit code."""
    bench.manifest(3)

    with bench.start(*RUN, *words).process as run:
        run.stderr.close()
        code = run.wait(60)

    assert code == 0
    assert set(bench.bought.values()) == {1}
    assert bench.table()["state"].to_list() == ["published"] * 3


def test_progress_and_log_lines_share_a_terminal(refusing):
    """On a terminal each log line is printed whole above the progress bar."""
    text, code = on_a_terminal(refusing, *RUN, "-v")

    [line] = [each for each in text.splitlines() if "lane.closed" in each]
    assert code == 3
    assert re.match(r"\[\d\d:\d\d:\d\d\] WARNING  lane\.closed lane=spicy", line)
    assert "of 2 done" not in line
    assert "in flight" in text or "closed" in text


def on_a_terminal(bench, *words):
    """The text that a wide terminal receives, without escape codes, and the exit code."""
    bench.prefect.wait()
    env = {**bench.prefect.env, "TERM": "xterm", "COLUMNS": "400", "LINES": "50"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(bench.folder)
        os.execve(BIN / "nightreel", ["nightreel", *words], env)
    received, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline and select.select([terminal], [], [], 60)[0]:
        try:
            received += os.read(terminal, 65536)
        except OSError:  # the process has ended
            break
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    text = received.decode()
    assert "\x1b[" in text
    return ANSI.sub("", text).replace("\r", "\n"), os.waitstatus_to_exitcode(status)
