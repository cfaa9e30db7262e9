"""Prints the path of the oldest or the newest supported Python on this machine.

Looks for each Python of the classifiers in pyproject.toml on PATH and among pyenv's
versions. Says on stderr what it found.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOLD = (
    "import sys; print(sys.executable); print('.'.join(map(str, sys.version_info[:3])))"
)


def supported() -> list[str]:
    """The minor versions in the classifiers, the oldest first."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    return [
        f"3.{n}"
        for n in re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', text)
    ]


def candidates(minor: str) -> list[Path]:
    """Files that may be a Python of this minor version."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    on_path = os.environ.get("PATH", "").split(os.pathsep)
    named = [Path(folder) / f"python{minor}" for folder in on_path if folder]
    return [*named, *(pyenv / "versions").glob(f"{minor}.*/bin/python{minor}")]


def asked(path: Path) -> tuple[tuple[int, ...], str] | None:
    """Version and executable of a Python; None if it does not run."""
    if not path.exists():
        return None
    # A shim of pyenv exists for versions that are not active, and fails.
    done = subprocess.run(
        [path, "-c", TOLD], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None
    executable, version = done.stdout.split("\n")[:2]
    return tuple(map(int, version.split("."))), executable


def found() -> dict[str, tuple[tuple[int, ...], str]]:
    """The latest patch release of each supported Python that runs here."""
    each = {
        minor: [*filter(None, map(asked, candidates(minor)))] for minor in supported()
    }
    return {minor: max(known) for minor, known in each.items() if known}


def main(which: str) -> int:
    """Print the oldest or the newest."""
    here = found()
    if not here:
        print(f"No Python of {', '.join(supported())} runs here.", file=sys.stderr)
        return 1
    version, executable = [*here.values()][{"oldest": 0, "newest": -1}[which]]
    text = f"{which} Python: {'.'.join(map(str, version))} ({executable})"
    if len(here) == 1:
        text += (
            f" -- THE ONLY ONE FOUND of {', '.join(supported())}: no other is tested"
        )
    print(text, file=sys.stderr)
    print(executable)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
