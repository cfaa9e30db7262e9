"""The records of a batch on a real Prefect server, as its UI shows them."""

import base64
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from tasks.emulator import Emulator, Fault

ROWS = 8
"""The number of rows: one is bad, two order the same clip, one loses its answer."""


@dataclass(frozen=True)
class Seen:
    """A flow run and the server's records of it."""

    run: dict[str, Any]
    tasks: list[dict[str, Any]]
    artifacts: dict[str, dict[str, Any]]


def seen(bench, name: str, *, tasks: int) -> Seen:
    """The server's records of the flow run of this name.

    Waits until the server has recorded the end of its tasks: events report it, and
    may still be on their way.
    """
    prefect = bench.prefect
    [run] = prefect.post("flow_runs/filter", flow_runs={"name": {"any_": [name]}})
    of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}

    def over() -> bool:
        found = prefect.post("task_runs/filter", **of_run)
        ended = [task["state_type"] in {"COMPLETED", "FAILED"} for task in found]
        return ended == [True] * tasks

    bench.wait(over)
    # Prefect's own, of a state's result, have no key.
    artifacts = [
        each for each in prefect.post("artifacts/filter", **of_run) if each["key"]
    ]
    assert all(each["key"].startswith("nightreel-") for each in artifacts)
    return Seen(
        run,
        prefect.post("task_runs/filter", **of_run),
        {
            artifact["key"].removeprefix("nightreel-"): artifact
            for artifact in artifacts
        },
    )


@pytest.fixture(scope="module")
def nights(make_bench, clip):
    """Two batches that have run: one with a doubt, one whose key is refused."""
    key = "sk-live-of-nobody"
    emulator = Emulator(latency_s=0.2, clip=clip, keys=["sk-live-7d9f2c41aa"])
    emulator.faults["pan 3"] = [Fault.LOSE_ANSWER]
    with make_bench(emulator) as bench:
        rows = [{"prompt": f"pan {n}"} for n in range(ROWS - 2)]
        bench.manifest([*rows, {"prompt": "pan 0"}, {"prompt": " "}], "portraits")
        bench.config("atlas", more="engine.shard_rows = 2")
        bench.manifest(3, "keyless")
        bench.config(name="keyless.toml", key="env:NOBODYS_KEY")

        doubtful = bench.start("run", "portraits.parquet", "--root", "one", "--json")
        keyless = bench.start(
            *("run", "keyless.parquet", "--root", "two", "--json"),
            *("--config", "keyless.toml", "--budget", "1.5"),
            NOBODYS_KEY=key,
        )
        ended = doubtful.ended(), keyless.ended()
        assert [ran.code for ran in ended] == [1, 3], ended
        yield bench


@pytest.fixture(scope="module")
def portraits(nights) -> Seen:
    return seen(nights, "portraits", tasks=3)


@pytest.fixture(scope="module")
def keyless(nights) -> Seen:
    return seen(nights, "keyless", tasks=1)


def test_a_batch_runs_shard_by_shard_under_names_that_read_well(portraits):
    shards = {task["name"]: task["state"] for task in portraits.tasks}

    assert shards.keys() == {
        f"shard 000{n}, rows {2 * n}-{2 * n + 1}" for n in range(3)
    }
    assert {state["type"] for state in shards.values()} == {"COMPLETED"}
    message = shards["shard 0001, rows 2-3"]["message"]
    assert message == "shard 0001, rows 2-3: 1 in doubt, 1 published"


def test_a_run_can_be_found_by_its_batch(portraits):
    assert {"nightreel", "000001-portraits"} <= set(portraits.run["tags"])


def test_batch_that_leaves_nothing_undone_is_completed(portraits):
    """A batch that leaves no row to another night is completed."""
    state = portraits.run["state"]

    assert (state["type"], state["name"]) == ("COMPLETED", "Completed")
    assert (
        state["message"]
        == "6 clips, 1 rejected, 1 in doubt, 1.02 USD; 5 not as ordered"
    )


def test_batch_without_a_lane_fails_and_names_what_it_lacks(keyless):
    """A batch without a lane fails and says what it lacks."""
    state = keyless.run["state"]

    assert (state["type"], state["name"]) == ("FAILED", "Failed")
    assert state["message"] == "out of lanes: 0 clips, 3 pending, 0.00 USD"
    assert "**No lane is left**" in keyless.artifacts["night"]["data"]


def test_night_page_tells_result_money_lanes_and_reasons(portraits, keyless):
    """One page tells the whole night, and is the first of the run's artifacts."""
    night = portraits.artifacts["night"]
    page = night["data"]

    assert min(a["created"] for a in portraits.artifacts.values()) == night["created"]
    assert night["description"] == portraits.run["state"]["message"]
    assert page.startswith("# 000001-portraits\n\n**1 row is in doubt**")
    assert re.search(r"\| planned \| 6 \| 1\.02 \| 0\.170 \| until [\w :]+ \|", page)
    assert re.search(r"\| bought \| 5 \| 1\.02 \| 0\.204 \| \d+:\d\d \|", page)
    assert re.search(r"\| atlas \| open \| 5 \| . \| 1\.02 \| 0\.204 \| ", page)
    assert "| 8 | 6 | 1 | 0 | 1 | 0 |" in page
    assert "| 1 | bad row | 7 | prompt is blank |" in page
    assert "## In doubt\n\n`nightreel reconcile file:" in page
    assert page.count("data:image/webp;base64,") == 4
    assert "cannot be done" not in page
    hopeless = keyless.artifacts["night"]["data"]
    assert "| budget | \N{EN DASH} | 1.50 |" in hopeless
    assert "### Closed\n\n| lane | why |" in hopeless


def test_the_progress_is_that_of_the_jobs(portraits):
    progress = portraits.artifacts["clips"]

    assert progress["type"] == "progress"
    # It is over, though one job is in doubt: the words say so.
    assert progress["data"] == 100
    assert progress["description"] == "5 of 6 done, 1.02 USD"


def test_plan_is_shown_with_its_cost_before_any_submit(portraits, keyless):
    plan, hopeless = portraits.artifacts["plan"], keyless.artifacts["plan"]

    assert plan["created"] < portraits.artifacts["clips"]["created"]
    assert plan["description"].startswith("1.02 USD for 6 clips, each by")
    assert "| 8 | 6 | 0 | 6 | 1 |" in plan["data"]
    assert "| atlas | 6 | 1.02 |" in plan["data"]
    assert "The budget is 1.50 USD." in hopeless["data"]


def test_the_bill_is_by_lane(portraits, keyless):
    [atlas] = json.loads(portraits.artifacts["bill"]["data"])
    assert portraits.artifacts["bill"]["description"] == "1.02 USD, 0.204 a clip"
    assert portraits.artifacts["wrong"]["description"] == "2 without a clip, 2 reasons"

    took = atlas.pop("a clip takes")
    assert atlas == {
        "lane": "atlas",
        "submits": "6",
        "clips": "5",
        "no clip, free": "0",
        "no clip, charged": "0",
        "USD": "1.02",
        "USD a clip": "0.204",
    }
    assert took.endswith(" s")
    # A batch that could not submit anything has no bill.
    assert "bill" not in keyless.artifacts


def test_failures_are_listed_by_reason_with_their_first_rows(nights, portraits):
    wrong = json.loads(portraits.artifacts["wrong"]["data"])

    still = (nights.folder / "stills" / "one.jpg").as_uri()
    assert [(w["state"], w["how many"], w["first rows"]) for w in wrong] == [
        ("in doubt", "1", "3"),
        ("bad row", "1", "7"),
    ]
    assert wrong[1]["why"] == "prompt is blank"
    assert {w["their stills"] for w in wrong} == {still}


def test_contact_sheet_uses_posters_kept_beside_their_clips(nights, portraits):
    """The contact sheet uses posters that are stored beside their clips."""
    sheet = portraits.artifacts["contact-sheet"]["data"]

    shown = re.findall(r"data:image/webp;base64,([\w+/=]+)", sheet)
    root = nights.folder / "one"
    kept = {path.stem: path.read_bytes() for path in root.glob("posters/*/*.webp")}
    clips = {path.stem for path in root.glob("clips/*/*.mp4")}
    named = re.findall(r'title="clips/\w\w/(\w+)\.mp4"', sheet)
    # The clips that were made last are on it, too.
    assert len(shown) == len(named) == len(clips) == 5
    assert [kept[job] for job in named] == [base64.b64decode(data) for data in shown]
    assert kept.keys() <= clips


def test_each_fact_for_automations_is_one_event(nights, portraits, keyless):
    def events_of(night):
        run = f"prefect.flow-run.{night.run['id']}"
        return nights.prefect.events("nightreel.", about=run)

    nights.wait(lambda: events_of(portraits) and events_of(keyless))
    [doubt], [closed] = events_of(portraits), events_of(keyless)

    assert (doubt["event"], doubt["resource"]["prefect.resource.id"]) == (
        "nightreel.doubt",
        "nightreel.batch.000001-portraits",
    )
    assert (doubt["payload"]["count"], doubt["payload"]["usd"]) == (1, 0.17)
    assert (closed["event"], closed["resource"]["prefect.resource.id"]) == (
        "nightreel.lane.closed",
        "nightreel.lane.spicy",
    )
    assert closed["payload"]["batch"] == "000001-keyless"


def test_log_shows_the_facts_that_need_action(nights, keyless):
    of_run = {"flow_run_id": {"any_": [keyless.run["id"]]}}

    nights.wait(
        lambda: any(
            line["message"].startswith("shard 0000: lane.closed lane=spicy")
            for line in nights.prefect.post("logs/filter", logs=of_run)
        )
    )


def test_the_complaints_are_the_bad_rows(portraits, keyless):
    complaints = portraits.artifacts["complaints"]

    [complaint] = json.loads(complaints["data"])
    assert (complaint["row"], complaint["column"], complaint["reason"]) == (
        *(7, "prompt", "is blank"),
    )
    assert "complaints" not in keyless.artifacts


def test_server_keeps_the_parameters_and_no_key(nights, portraits, keyless):
    asked = keyless.run["parameters"]

    assert asked["manifest"] == (nights.folder / "keyless.parquet").as_uri()
    assert (asked["config"], asked["budget_usd"]) == ("keyless.toml", 1.5)
    assert "sk-live" not in str([portraits, keyless])
    logs = nights.prefect.post("logs/filter", limit=200)
    assert "sk-live" not in str(logs)


BY = """
import asyncio, sys
from flows.batch import batch

async def main(manifest, root, *times):
    for time in times:
        named = batch.with_options(flow_run_name=f"by {time}")
        await named(
            manifest=manifest, root=f"{root}/{time}", config="nightreel.toml",
            finish_by=time, return_state=True,
        )

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
def test_deadline_is_a_time_of_day_usable_in_a_schedule(nights):
    """A deadline is a time of day, so a schedule can repeat it every night."""
    nights.manifest(2, "hurried")
    nights.config("spicy", slots=1)
    now = datetime.now().astimezone()
    near = (now + timedelta(seconds=40)).isoformat("T", "seconds")
    uris = [(nights.folder / name).as_uri() for name in ("hurried.parquet", "by")]

    subprocess.run(
        [
            sys.executable,
            "-c",
            BY,
            *uris,
            f"{now - timedelta(minutes=2):%H:%M}",
            near,
            "6",
        ],
        cwd=nights.folder,
        env={**nights.prefect.env},
        timeout=300,
        check=True,
    )

    tomorrow = seen(nights, f"by {now - timedelta(minutes=2):%H:%M}", tasks=1)
    hurried = seen(nights, f"by {near}", tasks=1)
    odd = seen(nights, "by 6", tasks=0)
    assert tomorrow.run["state"]["type"] == hurried.run["state"]["type"] == "COMPLETED"
    assert "cannot be done" not in tomorrow.artifacts["night"]["data"]
    assert "2 of 2 clips cannot be done by" in hurried.artifacts["night"]["data"]
    assert odd.run["state"]["type"] == "FAILED"
    assert "'6' is neither HH:MM" in odd.run["state"]["message"]
