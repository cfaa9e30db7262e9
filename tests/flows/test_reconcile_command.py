"""`nightreel reconcile` asks providers about doubts; the user decides the rest."""

import http.server
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal

import httpx
import pytest
from PIL import Image

from manifests.lifecycle import (
    Doubted,
    Entry,
    History,
    Intended,
    Risked,
    State,
    fold,
)
from storage.ledger import Ledger, read
from storage.objects import Objects
from tasks.emulator import Fault
from tests.flows.conftest import BIN, Ran

pytestmark = pytest.mark.anyio

AT_ONCE = "engine.settle_s = 0"
KLING = {"KLING_KEY": f"access-5160:{'secret-5160-' * 3}"}
LOST = Doubted("atlas: the connection broke off", "broken")


def objects(bench) -> Objects:
    (bench.folder / "root").mkdir(exist_ok=True)
    return Objects.open((bench.folder / "root").as_uri())


async def jobs_of(bench) -> dict[str, History]:
    return fold(await read(objects(bench)))


async def doubts(bench, *jobs: str) -> list[Entry]:
    """Puts these jobs in doubt on a lane whose provider cannot be asked."""
    ledger = await Ledger.open(objects(bench), name="earlier")
    for job in jobs:
        asked = Intended(
            lane="atlas",
            route="atlas/wan-2.2-spicy",
            price_usd=Decimal("0.17"),
            seed=1,
        )
        await ledger.record(job, asked)
        await ledger.record(job, LOST)
    await ledger.close()
    bench.config("atlas", more=AT_ONCE)
    return await read(objects(bench))


def answered(bench, answer: str, *words: str) -> Ran:
    """Runs the command with a person's answer on stdin."""
    done = subprocess.run(
        [BIN / "nightreel", "reconcile", "root", *words],
        cwd=bench.folder,
        env={**bench.prefect.env, "COLUMNS": "100"},
        input=answer,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@dataclass
class Gate:
    """A proxy to the emulator: until it opens it answers no submit, and forwards few."""

    url: str = ""
    came: list[bytes] = field(default_factory=list)
    opened: threading.Event = field(default_factory=threading.Event)


@contextmanager
def gate(url: str, *, lets: str) -> Iterator[Gate]:
    """A gate that forwards only submits with these words before it opens."""
    one = Gate()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(self.asked("GET", b""))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if one.opened.is_set():
                self.answer(self.asked("POST", body))
                return
            if lets.encode() in body:
                self.asked("POST", body)
            one.came.append(body)
            one.opened.wait(60)

        def asked(self, method: str, body: bytes) -> httpx.Response:
            names = {"authorization", "content-type"} & {*self.headers}
            headers = {name: self.headers[name] for name in names}
            return httpx.request(method, url + self.path, content=body, headers=headers)

        def answer(self, answer: httpx.Response) -> None:
            self.send_response(answer.status_code)
            self.send_header("content-type", answer.headers["content-type"])
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        one.url = f"http://127.0.0.1:{server.server_port}"
        yield one
    finally:
        one.opened.set()
        server.shutdown()
        server.server_close()
        thread.join()


# Lanes whose provider can be asked


@pytest.mark.slow
async def test_kling_jobs_of_a_dead_run_are_found_and_not_rebought(bench):
    """Jobs that Kling accepted from a run that died are found and not bought again."""
    Image.new("RGB", (400, 320)).save(bench.folder / "big.png")
    rows = {"image": "big.png", "model": "kling-2.5-turbo", "resolution": "720p"}
    bench.manifest([{"prompt": f"pan {n}", **rows} for n in range(2)])
    with gate(bench.url, lets="pan 0") as proxy:
        # Only the place that a submit was sent to can prove that it is absent.
        bench.url = proxy.url
        bench.config("kling", key="env:KLING_KEY", more=AT_ONCE)
        killed = bench.start("run", "m.parquet", "--root", "root", "--json", **KLING)
        bench.wait(lambda: len(proxy.came) == 2)
        killed.signal(signal.SIGKILL)
        killed.ended()
        proxy.opened.set()

        before = bench.nightreel("status", "root", "--json")
        told = bench.nightreel("reconcile", "root", "--json", **KLING)
        then = dict(bench.bought)
        ran = bench.start("run", "m.parquet", "--root", "root", "--json", **KLING)
        last = ran.ended()
        again = bench.nightreel("reconcile", "root", **KLING)

    assert (before.reply["in_doubt"], before.reply["in_doubt_usd"]) == (2, 0.42)
    assert told.code == 0, told.err
    counts = {name: told.reply[name] for name in ("accepted", "absent", "fetched")}
    assert counts == {"accepted": 1, "absent": 1, "fetched": 1}
    assert (told.reply["doubts"], then) == ([], {"pan 0": 1})
    assert (last.code, last.reply["published"], last.reply["bought"]) == (0, 2, 1)
    assert bench.bought == {"pan 0": 1, "pan 1": 1}
    assert (again.code, again.err) == (0, "nothing is in doubt\n")


# Lanes whose provider cannot be asked


async def test_doubts_that_nobody_can_resolve_are_listed_with_1(bench):
    """Doubts that no provider can resolve are listed, and the exit code is 1."""
    await doubts(bench, "a" * 32, "b" * 32)
    bench.config("spicy", name="other.toml", more=AT_ONCE)

    told = bench.nightreel("reconcile", "root", "--json")
    shown = bench.nightreel("reconcile", "root")
    other = bench.nightreel("reconcile", "root", "--config", "other.toml")

    first, second = told.reply["doubts"]
    assert (told.code, shown.code, other.code) == (1, 1, 1)
    assert (first["job"], first["lane"], first["price_usd"]) == (
        *("a" * 32, "atlas"),
        0.17,
    )
    assert second["job"] == "b" * 32
    assert first["reason"] == LOST.reason
    assert told.reply["in_doubt_usd"] == 0.34
    assert "2 in doubt, 0.34 USD" in shown.err
    assert "a" * 32 in shown.out
    assert "no lane" in other.out
    assert bench.seen("submit") == 0


@pytest.mark.slow
async def test_risk_is_taken_only_if_a_person_confirms_it(bench):
    entries = await doubts(bench, "a" * 32, "b" * 32)

    refused = answered(bench, "n\n", "--resubmit", "all")
    nobody = answered(bench, "", "--resubmit", "all")
    untouched = await read(objects(bench))
    agreed = answered(bench, "y\n", "--resubmit", "a" * 32, "--json")
    sure = answered(bench, "", "--resubmit", "all", "--yes", "--json")

    assert (refused.code, nobody.code, untouched) == (1, 1, entries)
    assert "2 jobs go again: 0.34 USD may be paid a second time" in refused.err
    assert "nothing was decided" in nobody.err
    assert "1 job goes again: 0.17 USD" in agreed.err
    assert (agreed.code, agreed.reply["resubmit"]) == (1, 1)
    assert (sure.code, sure.reply["resubmit"], sure.reply["doubts"]) == (0, 1, [])
    assert "go again" not in sure.err
    events = [entry.event for entry in await read(objects(bench))][len(entries) :]
    assert [type(event) for event in events] == [Risked, Risked]


@pytest.mark.slow
async def test_risk_taken_is_bought_by_the_next_run_and_counted(bench):
    """The next run buys a job whose risk was taken, and all of it is counted."""
    bench.manifest(2)
    bench.config("atlas", more=AT_ONCE)
    bench.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]

    doubtful = bench.run()
    told = bench.nightreel("reconcile", "root", "--resubmit", "all", "--yes")
    ran = bench.run()
    status = bench.nightreel("status", "root", "--json").reply

    assert (doubtful.code, doubtful.reply["in_doubt"]) == (1, 1)
    assert (told.code, ran.code, ran.reply["published"]) == (0, 0, 2)
    assert bench.bought == {"pan 0": 1, "pan 1": 2}
    assert status["spent_usd"] == pytest.approx(bench.owed)
    assert (status["risks"], status["in_doubt"], status["in_doubt_usd"]) == (1, 0, 0)


async def test_written_off_doubt_is_over_and_costs_the_billed_sum(bench):
    """A doubt that is written off is over and costs the sum on the bill."""
    await doubts(bench, "a" * 32, "b" * 32)

    told = bench.nightreel(
        *("reconcile", "root", "--json", "--write-off", "all"),
        *("--charged", f"{'a' * 32}=0.05"),
    )
    more = bench.nightreel("reconcile", "root", "--charged", f"{'b' * 32}=0.2")

    jobs = await jobs_of(bench)
    assert (told.code, told.reply["written_off"]) == (0, 2)
    assert told.reply["settled_usd"] == pytest.approx(-0.12)
    assert (more.code, "0.03 USD more charged" in more.err) == (0, True)
    assert {job.state for job in jobs.values()} == {State.REJECTED}
    assert [job.spent_usd for job in jobs.values()] == [Decimal("0.05"), Decimal("0.2")]


@pytest.mark.slow
async def test_invalid_decision_ends_with_2_and_records_nothing(bench):
    """A decision that makes no sense ends with exit code 2 and records nothing."""
    entries = await doubts(bench, "a" * 32)
    a, nobody = "a" * 32, "f" * 32
    refusals = {
        f"job {nobody}: nothing was ever submitted": ["--resubmit", nobody, "--yes"],
        f"{nobody}: nothing was ever submitted for it": ["--charged", f"{nobody}=1"],
        f"job {a}: either resubmit it or write it off": [
            *("--resubmit", a, "--write-off", a),
        ],
        "'1,2' must be US dollars": ["--charged", f"{a}=1,2"],
        "'nan' must be US dollars": ["--charged", f"{a}=nan"],
        "'-1' must be US dollars": ["--charged", f"{a}=-1"],
        "names no job": ["--charged", "=1"],
        "is named twice": ["--charged", f"{a}=1", "--charged", f"{a}=2"],
        "neither ids nor all": ["--write-off", " ,"],
    }

    ran = [bench.nightreel("reconcile", "root", *words) for words in refusals.values()]
    nowhere = bench.nightreel("reconcile", "nowhere")

    for message, refused in zip(refusals, ran, strict=True):
        # The message is in a box on a terminal of 80 columns.
        words = " ".join(re.sub("[│╭╮╰╯─]", " ", refused.err).split())
        assert message in words, words
        assert (refused.code, refused.out) == (2, "")
        assert "Traceback" not in refused.err
    assert await read(objects(bench)) == entries
    assert (nowhere.code, "no such folder" in nowhere.err) == (2, True)
    assert not (bench.folder / "nowhere").exists()


@pytest.mark.slow
async def test_a_job_that_is_over_is_no_doubt(bench):
    await doubts(bench, "a" * 32)
    bench.nightreel("reconcile", "root", "--write-off", "all")

    again = bench.nightreel("reconcile", "root", "--write-off", "a" * 32)

    assert again.code == 2
    assert f"job {'a' * 32} is rejected, not in doubt" in again.err


# Beside a run, and on a schedule


FLOW = """
import asyncio, sys
from flows.reconcile import reconcile

root, name = sys.argv[1:]
named = reconcile.with_options(flow_run_name=name)
asyncio.run(named(root=root, config="nightreel.toml", return_state=True))
"""


def flow_run(bench, name: str) -> tuple[dict, dict]:
    """The reconcile flow's state on the server, and its artifacts by their keys."""
    bench.prefect.wait()
    words = [sys.executable, "-c", FLOW, (bench.folder / "root").as_uri(), name]
    done = subprocess.run(
        words,
        cwd=bench.folder,
        env={**bench.prefect.env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    asked = {"flow_runs": {"name": {"any_": [name]}}}
    [run] = bench.prefect.post("flow_runs/filter", **asked)
    of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    artifacts = bench.prefect.post("artifacts/filter", **of_run)
    return run["state"], {artifact["key"]: artifact for artifact in artifacts}


@pytest.mark.slow
async def test_reconcile_during_a_run_is_refused_or_skipped(bench):
    """While a run is at work, `reconcile` refuses a person and skips on a schedule."""
    await doubts(bench, "a" * 32)
    ledger = await Ledger.open(objects(bench), name="tonight")

    refused = bench.nightreel("reconcile", "root", "--write-off", "all")
    state, artifacts = flow_run(bench, "beside a batch")
    await ledger.close()

    assert (refused.code, refused.out) == (2, "")
    assert "tonight' holds it" in refused.err
    assert (state["type"], state["name"]) == ("COMPLETED", "Skipped")
    assert "a batch is at work" in state["message"]
    assert artifacts == {}
    assert (await jobs_of(bench))["a" * 32].state is State.IN_DOUBT


@pytest.mark.slow
async def test_scheduled_reconcile_shows_a_table_and_does_not_fail(bench):
    """On a schedule, doubts that remain are shown in a table and are no failure."""
    await doubts(bench, "a" * 32)

    doubtful, artifacts = flow_run(bench, "one in doubt")
    bench.nightreel("reconcile", "root", "--write-off", "all")
    clear, none = flow_run(bench, "none in doubt")

    assert (doubtful["type"], doubtful["name"]) == ("COMPLETED", "Unfinished")
    assert "1 still in doubt" in doubtful["message"]
    assert "a" * 32 in artifacts["nightreel-doubts"]["data"]
    assert '"usd": "0.17"' in artifacts["nightreel-doubts"]["data"]
    assert (clear["type"], clear["name"], none) == ("COMPLETED", "Completed", {})
