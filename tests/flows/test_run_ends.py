"""Ends of a run of the batch flow, and the runs that may continue its manifest."""

import asyncio
import json
import signal
import sys
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest

from flows.batch import state_of
from flows.prefect_runtime import RootWait
from flows.prefect_runtime.wait_for_root import AGAIN_S
from storage.ledger import HeldError, Ledger
from tasks.batch.summary import Summary
from tasks.emulator import Emulator, running
from tests.flows.conftest import Running
from tests.storage.lives import made

BATCH = """
import asyncio, json, sys
from flows.batch import batch

state = asyncio.run(batch(**json.loads(sys.argv[1]), return_state=True))
print(json.dumps([state.type.value, state.name, state.message]))
"""

WITHOUT_RAY = f"import sys; sys.modules['prefect_ray'] = None\n{BATCH}"

SCHEDULED = """
import asyncio, sys
from prefect import get_client
from prefect.flow_engine import run_flow
from flows.batch import batch

async def main(run):
    async with get_client() as client:
        run = await client.read_flow_run(run)
    await run_flow(batch, flow_run=run, parameters=run.parameters)

asyncio.run(main(sys.argv[1]))
"""


def asked(bench, **parameters: Any) -> dict[str, Any]:
    """The parameters of a run that takes a version of a manifest."""
    uris = {
        name: (bench.folder / path).as_uri()
        for name, path in [("manifest", "m.parquet"), ("root", "root")]
    }
    return {**uris, "version": "1", "new_root": True, **parameters}


def begin(bench, program: str, argument: str, **env: str) -> Running:
    """A run of the flow, in a separate process."""
    words = [sys.executable, "-c", program, argument]
    one = Running(words, cwd=bench.folder, env={**bench.prefect.env, **env})
    bench.started.append(one)
    return one


def scheduled(bench, **more: Any) -> str:
    """A run of a deployment, by its id."""
    prefect = bench.prefect
    flow = prefect.post("flows/", name="nightreel")["id"]
    one = prefect.post("deployments/", name="ends", flow_id=flow)["id"]
    path = f"deployments/{one}/create_flow_run"
    run = prefect.post(path, parameters=asked(bench, **more))["id"]
    prefect.post(f"flow_runs/{run}/set_state", state={"type": "PENDING"})
    return run


def line_with(run: Running, words: str) -> str:
    """The line of the run's log that has these words; empty if it ends without one."""
    assert run.process.stderr
    return next((line for line in run.process.stderr if words in line), "")


def taken(bench) -> int:
    """The number of manifest versions that runs have taken."""
    return len([*(bench.folder / "root/inbox/claimed").glob("*.json")])


def summary(**more: Any) -> Summary:
    fields: dict[str, Any] = {
        **dict.fromkeys(("rows", "jobs"), 8),
        **dict.fromkeys(("published", "rejected", "unplayable"), 0),
        **dict.fromkeys(("in_doubt", "pending"), 0),
        **dict.fromkeys(("bought", "late", "differing", "restored", "gone"), 0),
        **dict.fromkeys(("spent_usd", "risked_usd"), Decimal(0)),
        "batch": "000001-m",
        "wall_s": 1.0,
        "lanes_closed": {},
        "lanes_dearer": {},
        "short_of": None,
        "broken": {},
        "fault": None,
        "too_many_rejected": False,
    }
    return Summary(**fields | more)


@pytest.mark.parametrize(
    ("ended", "stopped", "broken", "state"),
    [
        (summary(published=8), None, 0, ("COMPLETED", "Completed")),
        (summary(in_doubt=8), None, 0, ("COMPLETED", "Completed")),
        (summary(pending=8), None, 0, ("COMPLETED", "Unfinished")),
        (
            summary(rejected=8, too_many_rejected=True),
            None,
            0,
            ("FAILED", "Rejected"),
        ),
        (summary(pending=8), "stopped by SIGTERM", 0, ("FAILED", "Stopped")),
        (summary(pending=8), None, 8, ("FAILED", "Broken")),
        (summary(pending=8, short_of="lanes"), None, 0, ("FAILED", "Failed")),
        (
            summary(pending=8, fault="no", short_of="lanes"),
            None,
            3,
            ("FAILED", "Broken"),
        ),
    ],
)
def test_a_run_has_failed_just_when_its_owner_must_act(ended, stopped, broken, state):
    found = state_of(ended, stopped=stopped, broken=broken)

    assert (found.type.value, found.name) == state
    assert str(ended) in found.message


@pytest.fixture
def slow(bench, clip):
    """A batch of eight clips that take a minute; some are at the provider."""
    bench.emulator = Emulator(latency_s=60, submits_per_minute=100000, clip=clip)
    bench.manifest(8)
    bench.prefect.wait()
    with running(bench.emulator) as bench.url:
        bench.config()
        run = begin(bench, BATCH, json.dumps(asked(bench)))
        bench.prefect.until(lambda: len(bench.bought) >= 4)
        yield run


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_batch_stopped_by_its_machine_fails_and_can_continue(bench, slow):
    """A batch that its machine stops has failed, and a retry can continue it."""
    before = taken(bench)

    slow.signal(signal.SIGTERM)
    kind, name, message = slow.ended().reply

    assert (before, taken(bench)) == (1, 0)
    assert (kind, name) == ("FAILED", "Stopped")
    assert message.startswith("stopped by SIGTERM: 0 clips, 8 pending, ")
    assert "retry this run" in message


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cancelled_batch_keeps_its_manifest_from_other_runs(bench, slow):
    """No other run may continue a batch that its owner cancelled."""
    prefect = bench.prefect
    root = asked(bench)["root"]
    runs = prefect.post("flow_runs/filter", flow_runs={"name": {"any_": ["m"]}})
    [run] = [run["id"] for run in runs if run["parameters"]["root"] == root]
    cancelling = {"type": "CANCELLING", "name": "Cancelling"}

    prefect.post(f"flow_runs/{run}/set_state", state=cancelling)
    slow.signal(signal.SIGTERM)
    slow.ended()

    assert taken(bench) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("finish_by_s", [None, 2.5 * AGAIN_S])
async def test_scheduled_run_waits_for_its_root_and_logs_it_once(finish_by_s):
    clock, told = [1000.0], list[str]()

    async def sleep(seconds):
        clock[0] += seconds

    until = None if finish_by_s is None else clock[0] + finish_by_s
    wait = RootWait(until, told.append, clock=lambda: clock[0], sleep=sleep)
    times = 0
    with suppress(HeldError):
        for _ in range(100):
            await wait.wait(HeldError("root: held by another"))
            times += 1

    assert times == (100 if finish_by_s is None else 3)
    assert clock[0] - 1000.0 == (finish_by_s or 100 * AGAIN_S)
    assert told == ["waits for its root: root: held by another"]


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(900)
async def test_a_run_that_is_stopped_as_it_waits_leaves_its_manifest(bench):
    bench.manifest(2)
    bench.prefect.wait()
    root = (bench.folder / "root").as_uri()
    held = await Ledger.open(made(root), name="another")

    by_hand = begin(bench, BATCH, json.dumps(asked(bench, version="2")))
    refused = await asyncio.to_thread(by_hand.ended)
    run = begin(bench, SCHEDULED, scheduled(bench), PREFECT_LOGGING_LEVEL="INFO")
    waits = await asyncio.to_thread(line_with, run, "waits for its root")
    before = taken(bench)
    run.signal(signal.SIGTERM)
    await asyncio.to_thread(run.ended)
    await held.close()

    kind, _, message = refused.reply
    assert kind == "FAILED"
    assert "batch 'another' holds it" in message
    assert "batch 'another' holds it" in waits
    assert (before, taken(bench)) == (1, 0)
    assert bench.bought == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_run_without_a_place_for_its_shards_frees_its_manifest(bench):
    """A run that has nowhere to run its shards releases its manifest."""
    bench.manifest(2)
    bench.config(more="engine.runner = 'ray'")
    bench.prefect.wait()

    ended = begin(bench, WITHOUT_RAY, json.dumps(asked(bench))).ended()

    kind, _, message = ended.reply
    assert kind == "FAILED"
    assert "install nightreel with it" in message
    assert (taken(bench), bench.bought) == (0, {})


@pytest.mark.parametrize("absolute", [False, True])
def test_batch_takes_paths_like_the_command_line(bench, absolute):
    """A path means a file of this folder, and relative stills lie beside the manifest."""
    bench.manifest(2)
    bench.prefect.wait()
    base = f"{bench.folder}/" if absolute else ""

    paths = {"manifest": f"{base}m.parquet", "root": f"{base}root"}
    ended = begin(bench, BATCH, json.dumps(paths)).ended()

    assert ended.reply[0] == "COMPLETED", ended.err
    assert bench.table()["state"].to_list() == ["published"] * 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_deployments_run_refuses_a_relative_manifest(bench):
    """The folder that a worker runs in is not its owner's, so the message says what to do."""
    bench.manifest(2)
    bench.prefect.wait()
    run = scheduled(bench, manifest="m.parquet")

    begin(bench, SCHEDULED, run).ended()

    [ended] = bench.prefect.post("flow_runs/filter", flow_runs={"id": {"any_": [run]}})
    assert ended["state_type"] == "FAILED"
    assert "manifest = 'm.parquet' is relative" in ended["state"]["message"]
    assert bench.bought == {}
