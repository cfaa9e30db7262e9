"""A server of processes: it imports once what all children need, and only they use it.

Importing takes a second, a fork takes a few milliseconds. The libraries' own threads do
not come along in a fork, so nothing here may use them before it: one process, one
thread.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

FORKABLE = ("jemalloc", "polars-ooc-clea")
"""Threads that clean up as soon as polars is imported; nothing waits for them."""


@dataclass(frozen=True)
class Ended:
    """How a child ended: the signal that ended it, or what it reported."""

    by: int
    report: dict[str, Any]
    stopped: bool = False

    @property
    def killed(self) -> bool:
        return self.by == signal.SIGKILL


class Forks:
    """The server, as its only client sees it."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.crashes.forks"],
            cwd=ROOT,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.threads: list[str] = self._read()["threads"]
        """Threads that the server has besides its main one: a child that waits for one
        of them never ends."""

    def begin(self, errand: Any) -> int:
        """Start a child on an errand; returns its pid."""
        Path(errand.folder).mkdir(exist_ok=True)
        self._write(asdict(errand))
        return self._read()["pid"]

    def ended(self, errand: Any) -> Ended:
        """Wait for the child that was started or resumed last; returns how it ended or
        stopped."""
        how = self._read()
        path = Path(errand.folder) / "report.json"
        report = json.loads(path.read_text()) if path.exists() else {}
        return Ended(how["by"], report, how["stopped"])

    def learn(self, imported: list[str]) -> None:
        """Import in the server what a child needed."""
        self._write({"import": imported})
        self.threads = self._read()["threads"]

    def resume(self, pid: int) -> None:
        """Resume a stopped child."""
        self._write({"resume": pid})

    def close(self) -> None:
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(30)

    def _write(self, order: dict[str, Any]) -> None:
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()

    def _read(self) -> dict[str, Any]:
        return json.loads(self._server.stdout.readline())


def serve() -> None:
    """Start children on demand, one at a time, until the input ends."""
    from tests.crashes.child import Errand, do, routes  # noqa: PLC0415 - the customer has no need

    routes()
    tell(threads=threads())
    for line in sys.stdin:
        match json.loads(line):
            case {"import": names}:
                ready(names)
                tell(threads=threads())
                continue
            case {"resume": pid}:
                os.kill(pid, signal.SIGCONT)
            case asked:
                pid = os.fork()
                if pid == 0:
                    child(lambda asked=asked: do(Errand(**asked)))
                tell(pid=pid)
        _, status = os.waitpid(pid, os.WUNTRACED)
        stopped = os.WIFSTOPPED(status)
        tell(
            by=0 if stopped else os.waitstatus_to_exitcode(status) * -1, stopped=stopped
        )


def ready(names: list[str]) -> None:
    """Import what a child had to import itself, so that no other child has to."""
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def threads() -> list[str]:
    """The names of our threads, except those that a fork may leave behind."""
    names = [
        Path(task, "comm").read_text().strip()
        for task in Path("/proc/self/task").iterdir()
        if task.name != str(os.getpid())
    ]
    return [name for name in names if not name.startswith(FORKABLE)]


def child(do: Any) -> None:
    """Never returns: the child must not read the rest of the server's input."""
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        do()
    except BaseException:  # noqa: BLE001 - its output is kept
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def tell(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
