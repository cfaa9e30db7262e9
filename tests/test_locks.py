"""The locks: the same versions on every Python, and floors that were tested."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")
FLOORS = "requirements-floors.lock"
MINOR = "Programming Language :: Python :: 3."


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))


def pythons() -> list[str]:
    """The first and the latest patch release of every supported Python."""
    names = pyproject()["project"]["classifiers"]
    minors = [name.removeprefix(MINOR) for name in names if name.startswith(MINOR)]
    return [f"3.{minor}.{patch}" for minor in minors for patch in (0, 99)]


def read(lock: str) -> str:
    return (REPOSITORY / lock).read_text("utf-8")


def pins(lock: str) -> list[Requirement]:
    """The packages of a lock's text."""
    found = re.findall(r"^([\w.-]+==[^\\\n]+?) *\\?$", lock, re.MULTILINE)
    return [Requirement(text) for text in found]


def versions(lock: str, python: str) -> dict[str, str]:
    """The packages that CPython of this version on Linux installs from a lock's
    text."""
    machine = {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
    }
    return {
        pin.name: str(pin.specifier)
        for pin in pins(lock)
        if pin.marker is None or pin.marker.evaluate(machine)
    }


def differing(lock: str) -> set[str]:
    """The packages that a lock's text does not give every Python in one version."""
    each = [set(versions(lock, python).items()) for python in pythons()]
    return {name for name, _ in set.union(*each) - set.intersection(*each)}


def test_lock_differences_are_listed():
    """A version that the tests' Python does not install once stopped every clip."""
    listed = pyproject()["tool"]["nightreel"]["lock-differences"]

    assert set.union(*(differing(read(lock)) for lock in LOCKS)) == set(listed)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("a==1 \\\n    --hash=sha256:0\n", set()),
        (
            "a==1 ; python_full_version < '3.12' \\\na==2 ; python_full_version >= '3.12'",
            {"a"},
        ),
        ("a==1 ; python_full_version < '3.11.3'", {"a"}),
        ("a==1 ; python_full_version >= '3.13' and sys_platform == 'win32'", set()),
    ],
)
def test_lock_difference_is_found(lines, found):
    """Another version, or none, on one of the supported Pythons is a difference."""
    assert differing(lines) == found


@pytest.mark.parametrize("lock", [*LOCKS, FLOORS])
def test_lock_names_no_host(lock):
    """A lock works with every mirror: each file is known by its hash alone."""
    assert "://" not in read(lock)
    assert read(lock).count("--hash=sha256:") >= len(pins(read(lock)))


def declared() -> list[str]:
    """Every direct dependency that make test-floors installs."""
    groups = pyproject()["dependency-groups"]
    return [*pyproject()["project"]["dependencies"], *groups["build"], *groups["dev"]]


@pytest.mark.parametrize("text", declared())
def test_floor_is_tested(text):
    """Each dependency's lower bound is the very version that make test-floors installs."""
    wanted = Requirement(text)
    [floor] = [each.version for each in wanted.specifier if each.operator == ">="]

    tested = {pin.name: next(iter(pin.specifier)).version for pin in pins(read(FLOORS))}

    assert Version(tested[wanted.name]) == Version(floor)


def test_oldest_python_is_supported():
    """requires-python admits the oldest Python of the classifiers, and none before it."""
    oldest = pythons()[0].removesuffix(".0")

    assert pyproject()["project"]["requires-python"] == f">={oldest}"


def test_image_holds_every_package():
    """The example's Dockerfile copies each package that the wheel is built from."""
    built = pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    dockerfile = read("examples/deploy/Dockerfile")

    assert [
        each for each in built if f"COPY {each} /build/{each}" not in dockerfile
    ] == []
