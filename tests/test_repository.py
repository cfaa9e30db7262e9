"""The repository holds source: no downloads, no build products, nothing large."""

import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOT_NAMES = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
    "README.md",
    "benchmarks",
    "docs",
    "examples",
    "flows",
    "manifests",
    "mkdocs.yml",
    "nightreel",
    "prefect.toml",
    "prefect.yaml",
    "pyproject.toml",
    "requirements-dev.lock",
    "requirements-floors.lock",
    "requirements-worker.txt",
    "requirements.lock",
    "storage",
    "tasks",
    "tests",
}
LARGEST_BYTES = 300_000
"""A larger file is data or a download; only the lock files may be larger."""


def tracked() -> list[Path]:
    """Every file that git tracks, relative to the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout: nothing is tracked here")
    names = listed.stdout.decode().split("\0")
    return [Path(name) for name in names if name and (REPOSITORY / name).is_file()]


def test_root_holds_known_names():
    """A new name in the root is a decision: add it to ROOT_NAMES."""
    assert {path.parts[0] for path in tracked()} <= ROOT_NAMES


def test_no_tracked_file_is_large():
    """107 wheels (41 MB) were once committed by accident."""
    large = {
        str(path): size
        for path in tracked()
        if (size := (REPOSITORY / path).stat().st_size) > LARGEST_BYTES
        and path.suffix != ".lock"
    }

    assert large == {}


def test_only_examples_are_binary():
    """Everything outside examples/ can be read and reviewed as UTF-8 text."""
    binary = [
        str(path)
        for path in tracked()
        if path.parts[0] != "examples" and b"\0" in (REPOSITORY / path).read_bytes()
    ]

    assert binary == []
