"""Nightreel as a guest in another program's process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Prefect and numpy change the process as they are imported, with or without us: they
# come first, and what they change is not counted.
_CHANGES = """
import asyncio, importlib, logging, os, pkgutil, signal, sys, warnings
import fsspec, numpy, polars, prefect.main

def filesystem(scheme):
    try:
        return fsspec.get_filesystem_class(scheme)
    except ImportError as missing:
        return str(missing)

def state():
    root = logging.getLogger()
    return {
        "schemes": [filesystem(each) for each in ("s3", "gs", "az", "http", "zip")],
        "registry": dict(fsspec.registry),
        "root logger": (root.level, root.handlers[:], root.filters[:]),
        "warnings": (warnings.filters[:], warnings.showwarning),
        "signals": [signal.getsignal(each) for each in signal.valid_signals()],
        "event loops": asyncio.get_event_loop_policy(),
        "environment": dict(os.environ),
        "hooks": (sys.excepthook, sys.unraisablehook, sys.stdout, sys.stderr),
    }

before = state()
for package in ("manifests", "storage", "tasks", "flows", "nightreel"):
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, f"{package}."):
        # The first needs torch, the second runs the command line.
        if not module.name.startswith(("tasks.worker.wan", "nightreel.__main__")):
            importlib.import_module(module.name)
"""

_USE = """
from storage.objects import Objects
from storage import sources

asyncio.run(Objects.open("memory://root").create("a", b"a"))
for uri in ("s3://bucket/a.jpg", "zip://a.jpg::s3://bucket/a.zip"):
    try:
        sources.read(uri, 10)
    except sources.OpeningError:
        pass
    else:
        raise AssertionError(f"{uri} was read")
"""

_COMPARE = """
after = state()
for name, was in before.items():
    if after[name] != was:
        print(name, was, after[name], sep="\\n  ")
"""


@pytest.mark.core
def test_importing_changes_nothing_in_the_process(tmp_path):
    """Other code keeps its filesystems, logging, warnings, signals and environment."""
    done = subprocess.run(
        [sys.executable, "-c", _CHANGES + _USE + _COMPARE],
        cwd=ROOT,
        env={
            "HOME": str(tmp_path),
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.core
def test_command_line_does_not_import_prefect_before_it_runs():
    """Prefect reads its settings when imported; `calm_prefect` must have set them."""
    program = "import sys, flows.commands.main; sys.exit('prefect' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)

    assert done.returncode == 0
