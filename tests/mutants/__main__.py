"""Mutants: `python -m tests.mutants` plants each fault, and runs the tests that must fail.

A mutant is one change of one module that breaks a promise. It is killed if a test of its
module fails, and lives if all pass. The catalogue is in the TOML files of this folder.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.catalogue import REPOSITORY, Mutant, catalogue

LIMIT_S = 600
"""The time after which a mutant counts as killed: its tests hang."""
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*_cache", "nightreel-demo", "site"
)


def main() -> int:
    asked = arguments()
    mutants = [one for one in catalogue() if asked.only in f"{one.file}: {one.breaks}"]
    copies = SimpleQueue[Path]()
    with tempfile.TemporaryDirectory() as name:
        for number in range(asked.at_once):
            copy = Path(name) / str(number)
            shutil.copytree(REPOSITORY, copy, ignore=LEFT_OUT)
            copies.put(copy)
        with ThreadPoolExecutor(asked.at_once) as pool:
            alive = [*pool.map(lambda one: tried(one, copies), mutants)]
    lived = [one for one, lives in zip(mutants, alive, strict=True) if lives]
    report(mutants, lived)
    return 1 if lived else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "--only", default="", help="a part of a module's path, or of a description"
    )
    parser.add_argument("--at-once", type=int, default=2)
    return parser.parse_args()


def tried(mutant: Mutant, copies: "SimpleQueue[Path]") -> bool:
    """Whether the mutant lives."""
    copy = copies.get()
    try:
        with planted(mutant, copy):
            lives = passes(mutant, copy)
    finally:
        copies.put(copy)
    result = "LIVES" if lives else "killed"
    sys.stdout.write(f"{result:6} {mutant.file}: {mutant.breaks}\n")
    sys.stdout.flush()
    return lives


@contextmanager
def planted(mutant: Mutant, copy: Path) -> Iterator[None]:
    path = copy / mutant.file
    whole = path.read_text("utf-8")
    path.write_text(mutant.applied_to(whole), "utf-8")
    try:
        yield
    finally:
        path.write_text(whole, "utf-8")


def passes(mutant: Mutant, copy: Path) -> bool:
    words = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.tests]
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "POLARS_MAX_THREADS": "1",
    }
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                [sys.executable, *words],
                cwd=copy,
                env=environment,
                stdout=output,
                stderr=output,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        if done.returncode not in {0, 1, 2}:
            output.seek(0)
            sys.stdout.write(output.read().decode()[-3000:])
    return done.returncode == 0


def report(mutants: list[Mutant], lived: list[Mutant]) -> None:
    every, alive = (Counter(one.file for one in some) for some in (mutants, lived))
    for file, count in every.items():
        sys.stdout.write(f"{count - alive[file]:4} of {count:3} killed  {file}\n")
    total = len(mutants)
    sys.stdout.write(f"{total - len(lived):4} of {total:3} killed\n")


if __name__ == "__main__":
    sys.exit(main())
