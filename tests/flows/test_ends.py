"""How a run of the batch flow ends, and who may go on with its manifest then."""

import json
import signal
import sys
from decimal import Decimal
from typing import Any

import pytest

from flows.batch import state_of
from tasks.emulator import Emulator, running
from tasks.summary import Summary
from tests.flows.conftest import Running

BATCH = """
import asyncio, json, sys
from flows.batch import batch

state = asyncio.run(batch(**json.loads(sys.argv[1]), return_state=True))
print(json.dumps([state.type.value, state.name, state.message]))
"""


def begin(bench, **parameters: Any) -> Running:
    """A run of the flow that took a version of a manifest, in a process of its own."""
    bench.prefect.wait()
    said = {
        "manifest": (bench.folder / "m.parquet").as_uri(),
        "root": (bench.folder / "root").as_uri(),
        "version": "1",
        **parameters,
    }
    words = [sys.executable, "-c", BATCH, json.dumps(said)]
    one = Running(words, cwd=bench.folder, env=dict(bench.prefect.env))
    bench.started.append(one)
    return one


def taken(bench) -> int:
    """How many versions of manifests are some run's."""
    return len([*(bench.folder / "root/inbox/taken").glob("*.json")])


def summary(**more: Any) -> Summary:
    said: dict[str, Any] = {
        **dict.fromkeys(("rows", "jobs"), 8),
        **dict.fromkeys(("published", "rejected", "in_doubt", "pending"), 0),
        **dict.fromkeys(("bought", "hedged", "late"), 0),
        **dict.fromkeys(("spent_usd", "risked_usd"), Decimal(0)),
        "batch": "000001-m",
        "wall_s": 1.0,
        "lanes_closed": {},
        "short_of": None,
    }
    return Summary(**said | more)


@pytest.mark.parametrize(
    ("ended", "stopped", "broken", "state"),
    [
        (summary(published=8), None, 0, ("COMPLETED", "Completed")),
        (summary(in_doubt=8), None, 0, ("COMPLETED", "Completed")),
        (summary(pending=8), None, 0, ("COMPLETED", "Unfinished")),
        (summary(pending=8), "stopped by SIGTERM", 0, ("FAILED", "Stopped")),
        (summary(pending=8), None, 8, ("FAILED", "Broken")),
        (summary(pending=8, short_of="lanes"), None, 0, ("FAILED", "Failed")),
    ],
)
def test_a_run_has_failed_just_when_its_owner_must_act(ended, stopped, broken, state):
    said = state_of(ended, stopped=stopped, broken=broken)

    assert (said.type.value, said.name) == state
    assert str(ended) in said.message


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_batch_that_its_machine_stops_has_failed_and_may_be_gone_on_with(bench, clip):
    bench.emulator = Emulator(latency_s=60, submits_per_minute=100000, clip=clip)
    bench.manifest(8)
    with running(bench.emulator) as bench.url:
        bench.config()
        run = begin(bench)
        bench.wait(lambda: len(bench.bought) == 4)
        before = taken(bench)
        run.signal(signal.SIGTERM)
        ended = run.ended()

    kind, name, message = ended.said
    assert (before, taken(bench)) == (1, 0)
    assert (kind, name) == ("FAILED", "Stopped")
    assert message.startswith("stopped by SIGTERM: 0 clips, 8 pending, ")
    assert "retry this run" in message
