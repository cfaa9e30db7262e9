"""The deployments on a Prefect server, after a real deploy."""

import shlex
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
FLOWS = {
    "nightly": "nightreel",
    "on-manifest": "nightreel",
    "watch": "nightreel-watch",
    "reconcile": "nightreel-reconcile",
    "pause": "nightreel-pause",
    "resume": "nightreel-resume",
    "shard": "nightreel-shard",
}


@pytest.fixture(scope="module")
def deployments(deployed):
    return {name: deployed.deployment(f"{flow}/{name}") for name, flow in FLOWS.items()}


def calendar(prefect, deployment):
    """The start times of the runs that the scheduler has created so far."""
    asked = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    runs = prefect.post("flow_runs/filter", **asked)
    # Other tests start runs, too.
    due = [run for run in runs if run["auto_scheduled"]]
    return [datetime.fromisoformat(run["expected_start_time"]) for run in due]


def test_one_command_puts_the_batch_on_the_calendar_every_night(deployed, deployments):
    nightly = deployments["nightly"]
    [schedule] = nightly["schedules"]

    deployed.until(lambda: calendar(deployed, nightly))

    starts = calendar(deployed, nightly)
    assert schedule["schedule"]["cron"] == "0 2 * * *"
    assert schedule["schedule"]["timezone"] == "UTC"
    assert (schedule["slug"], schedule["active"]) == ("nightly", True)
    assert {(at.hour, at.minute) for at in starts} == {(2, 0)}
    assert set(nightly["parameters"]) == {"manifest", "root", "config"}


@pytest.mark.parametrize(
    ("name", "slug", "cron"),
    [
        ("reconcile", "hourly", "30 * * * *"),
        ("watch", "every-five-minutes", "*/5 * * * *"),
    ],
)
def test_schedule_that_needs_a_users_place_is_deployed_inactive(
    deployed, deployments, name, slug, cron
):
    """A schedule that needs a place of the user is deployed, but not active."""
    [schedule] = deployments[name]["schedules"]

    assert (schedule["slug"], schedule["active"]) == (slug, False)
    assert schedule["schedule"]["cron"] == cron
    assert calendar(deployed, deployments[name]) == []


def test_landed_manifest_starts_a_batch_with_the_events_facts(deployed, deployments):
    """A manifest that landed starts a batch with the parameters in its event."""
    [trigger] = [
        found
        for found in deployed.post("automations/filter")
        if found["trigger"].get("expect") == ["nightreel.manifest.landed"]
    ]

    [action] = trigger["actions"]
    assert trigger["enabled"]
    assert trigger["trigger"]["posture"] == "Reactive"
    assert action["deployment_id"] == deployments["on-manifest"]["id"]
    assert set(action["parameters"]) == {"manifest", "version", "root"}


def test_deployment_has_one_active_run_at_a_time(deployments):
    limits = {
        name: (
            deployment["global_concurrency_limit"]["limit"],
            deployment["concurrency_options"]["collision_strategy"],
        )
        for name, deployment in deployments.items()
        if deployment["global_concurrency_limit"]
    }

    # Many shards of one batch run at once.
    assert "shard" not in limits
    assert limits == {
        "nightly": (1, "ENQUEUE"),
        "on-manifest": (1, "ENQUEUE"),
        "reconcile": (1, "ENQUEUE"),
        # The next look makes up for one that is not started.
        "watch": (1, "CANCEL_NEW"),
    }


@pytest.mark.parametrize("name", FLOWS)
def test_every_run_sends_heartbeats_and_checks_its_parameters(deployments, name):
    deployment = deployments[name]

    assert deployment["enforce_parameter_schema"]
    # A batch must not wait for a concurrency slot that it holds itself.
    pool = "nightreel-shards" if name == "shard" else "nightreel"
    assert deployment["work_pool_name"] == pool
    assert deployment["job_variables"] == {
        "env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    }
    assert all(isinstance(value, str) for value in deployment["parameters"].values())


def test_one_root_is_written_once_for_all_of_them(deployments):
    roots = {
        name: deployment["parameters"].get("root")
        for name, deployment in deployments.items()
        if name != "shard"
    }

    # The watching deployment puts it into the event, which passes it to the other.
    assert roots.pop("on-manifest") is None
    assert set(roots.values()) == {"s3://my-bucket/nightreel"}


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_container_examples_deploy_by_the_commands_in_them(deployed, kind):
    """The container examples deploy by the commands at the head of each file."""
    head = (ROOT / f"examples/deploy/{kind}.yaml").read_text().partition("\n\n")[0]
    commands = head.replace("\\\n#", "").replace("#", "").splitlines()

    for command in (line.strip() for line in commands):
        if command.startswith("prefect ") and "worker start" not in command:
            deployed.ask(*command.replace(" --no-prompt", "").split()[1:])
    # At a terminal it would ask whether to build an image.
    assert "  prefect --no-prompt deploy --all" in head

    deployment = deployed.deployment(f"nightreel/nightly-{kind}")
    assert deployment["work_pool_name"] == f"nightreel-{kind}"
    assert deployment["job_variables"]["image"].endswith(("nightreel:local", ":latest"))


def test_a_container_has_its_keys_from_a_file_of_its_machine(tmp_path):
    example = yaml.safe_load((ROOT / "examples/deploy/docker.yaml").read_text())
    asked = example["deployments"][0]["work_pool"]["job_variables"]
    keys = tmp_path / "keys.env"
    keys.write_text("WAVESPEED_API_KEY='a b'\n")

    mounted = [volume.split(":")[1] for volume in asked["volumes"]]
    command = asked["command"].replace("/etc/nightreel/keys.env", str(keys))
    words = shlex.split(command.replace("prefect flow-run execute", "env"))
    ran = subprocess.run(words, capture_output=True, text=True, check=True)

    assert "/etc/nightreel/keys.env" in mounted
    assert "WAVESPEED_API_KEY=a b" in ran.stdout.splitlines()
