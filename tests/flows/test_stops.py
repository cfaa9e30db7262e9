"""A batch obeys requests from the Prefect UI and buys nothing twice."""

from typing import Any

import httpx
import pytest

from tasks.emulator import Emulator, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

OVER = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
ROWS = 20


def asked(house, name: str, **parameters):
    """Creates a run of a deployment; returns its id."""
    prefect = house.bench.prefect
    path = f"deployments/{prefect.deployment(name)['id']}/create_flow_run"
    return prefect.post(path, parameters=parameters)["id"]


def ended(house, run: str) -> str:
    """The type of the run's final state."""
    prefect, states = house.bench.prefect, []

    def over() -> bool:
        [found] = prefect.post("flow_runs/filter", flow_runs={"id": {"any_": [run]}})
        states.append(found["state_type"])
        return states[-1] in OVER

    prefect.until(over)
    return states[-1]


def reported(house, run: str) -> None:
    """Waits for the worker's last word on a run.

    Until then the worker may report the run as crashed, whatever its state is.
    """
    about, last = f"prefect.flow-run.{run}", "prefect.worker.executed-flow-run"
    house.bench.prefect.until(lambda: house.bench.prefect.events(last, about))


def test_cancelled_batch_stops_buying_and_a_retry_continues(house, clip):
    """A cancelled batch stops buying, and its retry does the rest.

    This holds even if the batch took a version of a manifest that landed: its own
    retry may continue it.
    """
    bench, prefect = house.bench, house.bench.prefect
    emulator = Emulator(latency_s=5, slots=2, submits_per_minute=10000, clip=clip)
    with running(emulator) as bench.url:
        bench.emulator = emulator
        bench.config("atlas", slots=2)
        parameters = {
            "manifest": (bench.folder / bench.manifest(ROWS)).as_uri(),
            "root": house.root,
            "config": str(bench.folder / "nightreel.toml"),
            "version": "1",
        }
        house.work()
        run = asked(house, "nightreel/nightly", **parameters)
        prefect.until(lambda: len(bench.bought) >= 3)

        cancelling = {"type": "CANCELLING", "name": "Cancelling"}
        prefect.post(f"flow_runs/{run}/set_state", state=cancelling)
        first = ended(house, run)
        reported(house, run)
        night, clips = artifact(house, run, "night"), artifact(house, run, "clips")
        kept = [*(bench.folder / "root/inbox/claimed").iterdir()]
        bought = len(bench.bought)
        again = {"type": "SCHEDULED", "name": "AwaitingRetry"}
        prefect.post(f"flow_runs/{run}/set_state", state=again, force=True)
        prefect.until(lambda: len(bench.bought) > bought)
        second = ended(house, run)

    assert (first, second) == ("CANCELLED", "COMPLETED")
    assert "**Cancelled**. " in night["data"]
    assert clips["data"] == 100
    assert len(kept) == 1
    assert bought < ROWS
    assert len(bench.bought) == ROWS
    assert set(bench.bought.values()) == {1}
    assert len([*(bench.folder / "root/clips").rglob("*.mp4")]) == ROWS


def artifact(house, run: str, key: str) -> dict[str, Any]:
    """An artifact of a run."""
    of_run = {"flow_runs": {"id": {"any_": [run]}}}
    found = house.bench.prefect.post("artifacts/filter", **of_run)
    [one] = [each for each in found if each["key"] == f"nightreel-{key}"]
    return one


def progress(prefect):
    """The description of the latest progress artifact."""
    response = httpx.get(f"{prefect.url}/artifacts/nightreel-clips/latest", timeout=30)
    return response.json()["description"] if response.is_success else ""


def test_a_root_is_paused_and_resumed_from_the_ui(house):
    bench = house.bench
    bench.manifest(2)
    house.work()

    paused = ended(house, asked(house, "nightreel-pause/pause", root=house.root))
    told = bench.nightreel("status", "root")
    waiting = bench.begin()
    bench.prefect.until(lambda: "paused: `nightreel resume`" in progress(bench.prefect))
    resumed = ended(house, asked(house, "nightreel-resume/resume", root=house.root))
    ran = waiting.ended()

    assert (paused, resumed) == ("COMPLETED", "COMPLETED")
    assert "paused since" in told.out
    assert (ran.code, ran.reply["published"]) == (0, 2)
