"""The Python API, used as a user's own program would: in a separate process."""

import json
import subprocess
import sys

import polars as pl
import pytest

from tasks.emulator import Fault

PROGRAM = """
import json, sys
import nightreel
import polars as pl

def plain(value):
    return value.to_dicts() if isinstance(value, pl.DataFrame) else str(value)

def show(*values):
    print(json.dumps(values, default=plain))

"""

SUBFLOW = """
import asyncio
from pathlib import Path
from prefect import flow

@flow
async def mine():
    here = Path.cwd().as_uri()
    summary = await nightreel.batch(manifest=f"{here}/m.parquet", root=f"{here}/root")
    return summary["published"], summary["spent_usd"]

show(*asyncio.run(mine()))
"""


def python(bench, program: str) -> list:
    """Run a program in the bench's folder; the values that it shows."""
    bench.prefect.wait()
    ran = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::DeprecationWarning:__main__",
            "-c",
            PROGRAM + program,
        ],
        cwd=bench.folder,
        env=bench.prefect.env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_run_returns_frames_and_the_bill(bench):
    """The summary's money is the providers' own, and the frames hold every row."""
    bench.manifest([{"prompt": "pan 0"}, {"prompt": "pan 1"}, {"prompt": " "}])
    bench.config(more="engine.max_rejected = 0.5")

    spent, complete, states, attempts, complaints = python(
        bench,
        """
result = nightreel.run("m.parquet", root="root", budget_usd=5)
show(
    result.summary.spent_usd,
    result.complete,
    result.clips["state"].to_list(),
    result.attempts.height,
    result.complaints["column"].to_list(),
)
""",
    )

    assert float(spent) == bench.owed > 0
    assert (complete, attempts, complaints) == (True, 2, ["prompt"])
    assert states == ["published", "published", "invalid"]


def test_plan_check_lanes_and_status_send_nothing_that_costs(bench):
    """The functions that look ahead buy nothing; status of no root is refused."""
    bench.manifest(3)

    rows, cost, lanes, complaints, refused = python(
        bench,
        """
plan = nightreel.plan("m.parquet")
checked = nightreel.check("m.parquet")
prices = nightreel.lanes()
from storage.objects import StorageError
import pathlib; pathlib.Path("root").mkdir()
try:
    nightreel.status("root")
except StorageError as error:
    refused = str(error)
show(checked.rows, plan.cost_usd, prices["lane"].unique().to_list(),
     checked.complaints.height, refused)
""",
    )

    assert (rows, lanes, complaints) == (3, ["spicy"], 0)
    assert float(cost) > 0
    assert "no root is there" in refused
    assert not bench.bought


def test_reconcile_reports_a_doubt_and_writes_it_off(bench):
    """A decision is made by job id; until then the doubt is reported with its price."""
    bench.config("atlas")
    bench.manifest(1)
    bench.emulator.faults["pan 0"] = [Fault.LOSE_ANSWER]

    doubts, written_off, left = python(
        bench,
        """
nightreel.run("m.parquet", root="root")
first = nightreel.reconcile("root")
second = nightreel.reconcile("root", write_off=first.doubts["job"].to_list())
show(first.doubts, second.written_off, second.doubts.height)
""",
    )

    assert [doubt["lane"] for doubt in doubts] == ["atlas"]
    assert (written_off, left) == (1, 0)
    assert bench.bought == {"pan 0": 1}


def test_run_inside_a_loop_names_arun(bench):
    """A notebook runs an event loop: `run` says so and `arun` works there."""
    bench.manifest(1)

    message, published, rows = python(
        bench,
        """
import asyncio

async def cell():
    try:
        nightreel.run("m.parquet", root="root")
    except RuntimeError as exc:
        message = str(exc)
    result = await nightreel.arun("m.parquet", root="root")
    return message, result.summary.published, nightreel.check("m.parquet").rows

show(*asyncio.run(cell()))
""",
    )

    assert "await nightreel.arun" in message
    assert (published, rows) == (1, 1)


def test_batch_as_a_subflow_returns_its_summary(bench):
    """A user's own flow gets the summary as data, not None."""
    bench.manifest(2)

    published, spent = python(bench, SUBFLOW)

    assert (published, spent) == (2, bench.owed)


def test_errors_come_before_any_money_moves(bench):
    """A manifest that cannot be read and a lane that does not exist raise by name."""
    (bench.folder / "bad.parquet").write_bytes(b"not parquet")
    bench.manifest(1)

    names = python(
        bench,
        """
names = []
for arguments in (
    {"manifest": "bad.parquet"},
    {"manifest": "absent.parquet"},
    {"manifest": "m.parquet", "lanes": ["none"]},
    {"manifest": "m.parquet", "budget_usd": float("inf")},
    {"manifest": "m.parquet", "budget_usd": -1},
    {"manifest": "m.parquet", "policy": "cheepest"},
):
    try:
        nightreel.run(**arguments, root="root")
    except (nightreel.ManifestError, nightreel.OpeningError, nightreel.SettingsError) as exc:
        names.append(type(exc).__name__)
show(*names)
""",
    )

    assert names == ["ManifestError", "OpeningError", *["SettingsError"] * 4]
    assert not bench.bought


def test_manifest_of_others_names_no_private_place(bench):
    """Places of this machine are bad rows, by text and when they are read."""
    places = [
        "http://169.254.169.254/latest/meta-data/",
        "/etc/shadow",
        "simplecache::http://127.0.0.1:1/a.jpg",
        str(bench.folder.parent / "neighbour.jpg"),
        "link.jpg",
    ]
    (bench.folder / "link.jpg").symlink_to("/proc/self/environ")
    rows = [{"image": place, "prompt": "a"} for place in places]
    pl.DataFrame(rows).write_parquet(bench.folder / "m.parquet")

    text, read, trusted = python(
        bench,
        """
show(*(
    nightreel.check("m.parquet", stills=how[0], trust_manifest=how[1]).complaints
    for how in ((False, False), (True, False), (False, True))
))
""",
    )

    assert [each["row"] for each in text] == [0, 1, 2, 3]
    assert [each["row"] for each in read] == [0, 1, 2, 3, 4]
    assert all("if the manifest is your own" in each["reason"] for each in read)
    assert trusted == []


def test_import_is_light_and_names_resolve():
    """Importing loads no heavy library; every public name then resolves."""
    program = """
import sys
import nightreel
heavy = {"prefect", "polars", "httpx", "obstore", "flows", "tasks"} & set(sys.modules)
assert not heavy, heavy
assert sorted(nightreel.__all__) == dir(nightreel)
for name in nightreel.__all__:
    assert getattr(nightreel, name) is not None, name
try:
    nightreel.nothing
except AttributeError as exc:
    assert "nothing" in str(exc)
else:
    raise SystemExit("no AttributeError")
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


@pytest.mark.parametrize("kind", ["package", "module", "imported"])
def test_a_shadowing_package_is_named_with_a_cure(kind, tmp_path):
    """A user's own `tasks` that comes first on sys.path is named, with what to do."""
    if kind == "module":
        other = tmp_path / "tasks.py"
        other.write_text("")
    else:
        (tmp_path / "tasks").mkdir()
        other = tmp_path / "tasks"
        (other / "__init__.py").write_text("")
    first = "import tasks; " if kind == "imported" else ""
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {first}"

    by_name = subprocess.run(
        [sys.executable, "-c", f"{start}import nightreel; nightreel.run"],
        capture_output=True,
        text=True,
        check=False,
    )
    command = subprocess.run(
        [sys.executable, "-c", f"{start}from nightreel.__main__ import main; main()"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "ShadowedError" in by_name.stderr
    assert command.returncode == 2
    for err in (by_name.stderr, command.stderr):
        assert f"first: {other.resolve()}." in err
        assert "uv tool install nightreel" in err
    assert "Traceback" not in command.stderr
