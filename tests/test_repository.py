"""What is true of the repository itself, whatever is in it."""

import importlib.metadata
import re
import runpy
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import polars as pl
import pytest
import yaml
from PIL import Image
from polars.testing import assert_frame_equal

from flows import settings
from manifests import catalogue
from manifests.jobs import Job

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
IGNORED = [".git", *(ROOT / ".gitignore").read_text().replace("/", "").split()]

# In pieces, so that this file may be read by its own tests.
REGISTRIES = ["pypi" + ".org", "python" + "hosted.org", "npm" + "js.org"]
MACHINE_PATH = re.compile(r"(?<![\w.})])(?<!:/)/(?:work|root|home|Users)(?!\w)/?")


def files(folder=ROOT):
    for path in sorted(folder.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in IGNORED):
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def texts():
    for path in files():
        try:
            yield path.relative_to(ROOT), path.read_text("utf-8")
        except UnicodeDecodeError:
            continue


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_first_screen_of_the_readme_says_how_to_begin(command):
    first_screen = (ROOT / "README.md").read_text().splitlines()[:60]

    assert any(command in line for line in first_screen)


def test_no_file_names_a_package_registry():
    named = [
        (str(path), host)
        for path, text in texts()
        for host in REGISTRIES
        if host in text
    ]

    assert named == []


def test_no_file_names_a_place_on_somebodys_machine():
    named = [
        (str(path), number, line)
        for path, text in texts()
        if path != Path("tests/test_repository.py")
        for number, line in enumerate(text.splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]

    assert named == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see /home/me/clips", True),
        ('Path("/root")', True),
        ("file:///Users/me/x", True),
        ("s3://home/clips", False),
        ("https://example.com/work/1", False),
        ("a homework/rootless thing", False),
    ],
)
def test_a_place_on_a_machine_is_told_from_a_place_in_the_world(text, found):
    assert bool(MACHINE_PATH.search(text)) is found


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_requirement_has_its_version_and_hashes(name):
    lock = (ROOT / name).read_text().replace("\\\n", " ")

    requirements = [line for line in lock.splitlines() if line and line[0] not in "# "]

    assert len(requirements) > 100
    assert [r for r in requirements if "==" not in r or "--hash=sha256:" not in r] == []


def test_what_builds_the_project_is_locked_too():
    lock = (ROOT / "requirements.lock").read_text()

    for name in pyproject()["build-system"]["requires"]:
        assert re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE), name


def test_it_cannot_be_published_by_mistake():
    assert "Private :: Do Not Upload" in pyproject()["project"]["classifiers"]


def test_the_deployments_name_flows_that_are_there():
    for path in ROOT.glob("prefect.yaml"):
        deployments = yaml.safe_load(path.read_text())["deployments"]

        assert deployments
        for deployment in deployments:
            file, _, flow = deployment["entrypoint"].partition(":")
            assert re.search(
                rf"^(async )?def {flow}\(", (ROOT / file).read_text(), re.MULTILINE
            )


def test_no_flow_module_hides_a_package():
    # Prefect puts a flow file's own folder first on sys.path.
    taken = sys.stdlib_module_names | importlib.metadata.packages_distributions().keys()

    assert {path.stem for path in (ROOT / "flows").glob("*.py")} & taken == set()


def test_no_flow_module_postpones_its_annotations():
    # A served flow cannot be validated with them (Prefect 3.8.8).
    for path in (ROOT / "flows").glob("*.py"):
        assert "from __future__ import annotations" not in path.read_text(), path.name


# The examples


@pytest.fixture(scope="module")
def manifest():
    return pl.read_parquet(EXAMPLES / "manifest.parquet")


def size(image):
    with Image.open(EXAMPLES / image) as still:
        return still.size


def test_the_example_manifest_is_what_its_program_writes(manifest):
    program = runpy.run_path(str(EXAMPLES / "make_manifest.py"))

    assert_frame_equal(
        pl.DataFrame(program["ROWS"], schema=program["COLUMNS"]), manifest
    )


def test_the_example_shows_what_a_manifest_can_ask_for(manifest):
    sizes = [size(image) for image in manifest["image"]]

    assert manifest.height >= 10
    assert set(manifest["resolution"]) == {"480p", "720p"}
    assert set(manifest["duration_s"]) == {5, 8}
    assert {(w > h) - (w < h) for w, h in sizes} == {-1, 0, 1}
    assert manifest["id"].is_unique().all()


def test_every_example_row_can_be_made_by_the_example_lanes(manifest):
    lanes = settings.load(EXAMPLES / "nightreel.toml").lanes.values()
    routes = [catalogue.load().route(lane.route) for lane in lanes]

    for row in manifest.drop("id", "sku", "campaign").iter_rows(named=True):
        job = Job(**{name: value for name, value in row.items() if value is not None})
        side = min(size(job.image))
        serving = [r for r in routes if not r.complaint(job) and side >= r.min_still_px]
        assert serving, row


def test_two_example_rows_want_one_clip_and_a_second_take_wants_another(manifest):
    decides = manifest.drop("id", "sku", "campaign")
    but_for_the_take = decides.drop("take")

    assert decides.n_unique() == manifest.height - 1
    assert but_for_the_take.n_unique() == manifest.height - 2


def test_every_example_still_is_small_used_and_credited(manifest):
    credit = (EXAMPLES / "CREDITS.md").read_text()
    stills = list((EXAMPLES / "stills").iterdir())

    assert {f"stills/{still.name}" for still in stills} == set(manifest["image"])
    for still in stills:
        assert still.stat().st_size < 150_000
        assert f"`{still.name}`" in credit


def test_no_module_of_tasks_is_left_out_where_prefect_is_forbidden():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    [guest] = [one for one in contracts if one["name"].startswith("Prefect is a guest")]
    modules = {
        f"tasks.{path.stem}"
        for path in (ROOT / "tasks").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }

    assert {*guest["source_modules"]} >= modules - {"tasks.__init__", "tasks.shard"}
