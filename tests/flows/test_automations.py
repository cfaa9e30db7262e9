"""The shipped automations on a real server, and their effects."""

import subprocess
import uuid
from datetime import UTC, datetime

import httpx
import pytest

from tasks.emulator import Emulator
from tests.flows.conftest import BIN, ROOT, until
from tests.flows.test_prefect_yaml import calendar

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FOLDER = ROOT / "examples" / "automations"
NOBODYS = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def automations(deployed, tmp_path_factory):
    """Each automation, created by the command at its head."""
    ours = deployed.deployment("nightreel-reconcile/reconcile")["id"]
    before = {one["id"] for one in deployed.post("automations/filter")}
    for path in FOLDER.glob("*.yaml"):
        copy = tmp_path_factory.mktemp("automations") / path.name
        copy.write_text(path.read_text().replace(NOBODYS, ours))
        done = subprocess.run(
            [BIN / "prefect", "automation", "create", "--from-file", copy],
            env={**deployed.env},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    every = deployed.post("automations/filter")
    created = {one["name"]: one for one in every if one["id"] not in before}
    yield created
    for one in created.values():
        httpx.delete(f"{deployed.url}/automations/{one['id']}").raise_for_status()


def say(prefect, what, about, *, related=(), **payload):
    """Sends an event as a batch does."""
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": f"nightreel.{what}",
        "resource": {"prefect.resource.id": about, "nightreel.root": payload["root"]},
        "related": [*related],
        "payload": payload,
    }
    httpx.post(f"{prefect.url}/events", json=[event]).raise_for_status()


def test_a_doubt_has_its_root_reconciled(deployed, automations):
    reconcile = deployed.deployment("nightreel-reconcile/reconcile")
    of_deployment = {"deployments": {"id": {"any_": [reconcile["id"]]}}}

    say(deployed, "doubt", "nightreel.batch.000001-tonight", root="s3://one", count=8)

    deployed.until(lambda: deployed.post("flow_runs/filter", **of_deployment))
    [run] = deployed.post("flow_runs/filter", **of_deployment)
    assert automations["reconcile doubts"]["enabled"]
    assert run["parameters"]["root"] == "s3://one"


def test_closed_lane_holds_the_schedule_of_its_run_until_resumed(deployed, automations):
    """A lane that closes pauses the schedule of its run until a person resumes it."""
    held = deployed.deployment("nightreel/nightly")
    deployed.until(lambda: calendar(deployed, held))
    its = {
        "prefect.resource.id": f"prefect.deployment.{held['id']}",
        "prefect.resource.role": "deployment",
    }

    say(
        deployed,
        "lane.closed",
        "nightreel.lane.spicy",
        related=[its],
        root="s3://one",
        lane="spicy",
        why="wavespeed: HTTP 401",
    )

    deployed.until(lambda: deployed.deployment("nightreel/nightly")["paused"])
    deployed.until(lambda: not calendar(deployed, held))
    assert automations["hold when a lane closes"]["enabled"]
    assert not deployed.deployment("nightreel/on-manifest")["paused"]

    deployed.ask(*said_to_resume(held["id"]))

    assert not deployed.deployment("nightreel/nightly")["paused"]
    deployed.until(lambda: calendar(deployed, held))


def said_to_resume(deployment):
    """The words after `prefect` in the command at the head of the file."""
    text = (FOLDER / "hold-when-a-lane-closes.yaml").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("#   prefect api ")]
    return line.replace("/ID/", f"/{deployment}/").split()[2:]


def test_run_counts_as_dead_after_three_missing_heartbeats(automations):
    """A run counts as dead after three heartbeats that did not arrive."""
    silent = automations["crash silent runs"]

    [action] = silent["actions"]
    assert silent["trigger"]["posture"] == "Proactive"
    assert silent["trigger"]["within"] == 3 * 30
    assert (action["type"], action["state"]) == ("change-flow-run-state", "CRASHED")


def test_run_with_a_dead_process_is_crashed_within_two_minutes(
    make_bench, deployed, automations, clip
):
    """A run whose process is gone is marked crashed two minutes later at most."""
    with make_bench(Emulator(latency_s=100.0, clip=clip)) as bench:
        bench.manifest(2)
        words = ("run", "m.parquet", "--root", "root", "--json")
        batch = bench.start(*words)
        root = (bench.folder / "root").as_uri()
        deployed.until(lambda: running_on(deployed, root))
        [run] = running_on(deployed, root)
        beat = "prefect.flow-run.heartbeat"
        deployed.until(lambda: deployed.events(beat, about=f"prefect.flow-run.{run}"))

        batch.process.kill()
        batch.ended()
        until(lambda: state_of(deployed, run) == "CRASHED", within_s=150)

    assert automations["crash silent runs"]["enabled"]


def running_on(prefect, root: str) -> list[str]:
    """The runs at work on a root, by their ids: the server is shared."""
    state = {"type": {"any_": ["RUNNING"]}}
    runs = prefect.post("flow_runs/filter", flow_runs={"state": state})
    return [run["id"] for run in runs if run["parameters"].get("root") == root]


def state_of(prefect, run):
    [found] = prefect.post("flow_runs/filter", flow_runs={"id": {"any_": [run]}})
    return found["state_type"]


def test_only_runs_with_our_tag_are_crashed(deployed, automations):
    """A run of another flow, silent for longer than ours, is left alone."""
    flow = deployed.post("flows/", name="another")["id"]
    runs = []
    for tags in ([], ["nightreel"]):
        run = deployed.post("flow_runs/", flow_id=flow, tags=tags)["id"]
        path, state = f"flow_runs/{run}/set_state", {"type": "RUNNING"}
        deployed.post(path, state=state, force=True)
        beat(deployed, run, tags)
        runs.append(run)
    another, ours = runs

    until(lambda: state_of(deployed, ours) == "CRASHED", within_s=200)

    assert automations["crash silent runs"]["enabled"]
    assert state_of(deployed, another) == "RUNNING"


def beat(prefect, run, tags):
    """Sends the heartbeat of a run, with its tags, as Prefect's engine does."""
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        "related": [
            {
                "prefect.resource.id": f"prefect.tag.{tag}",
                "prefect.resource.role": "tag",
            }
            for tag in tags
        ],
        "payload": {},
    }
    httpx.post(f"{prefect.url}/events", json=[event]).raise_for_status()
