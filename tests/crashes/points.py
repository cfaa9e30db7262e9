"""The points at which a process may die: before each change to a file below a root, and
before it connects to a provider.

Python reports every file that is opened, linked, renamed or removed to an audit hook, and
every call that writes to a profile hook: none of our code is patched.
"""

import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

CHANGES = {"os.link": 1, "os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0}
"""The events that change names, each with the index of the argument that counts."""


def place(path: str) -> str:
    """The name of a key that is the same in every run: without epochs, ids and draft
    numbers."""
    path = re.sub(r"#\d+$", "", path)
    path = re.sub(r"([0-9a-f]{2}/)?[0-9a-f]{16,32}", "…", path)
    return re.sub(r"(?<![0-9A-Za-z])\d{6}(?!\d)", "…", path)


class Seen(Counter[str]):
    """Names the events: the second one of a name gets `#2`."""

    def named(self, what: str) -> str:
        self[what] += 1
        return what if self[what] == 1 else f"{what} #{self[what]}"


class Watch:
    """Records what this process does below a root, and ends it at one point."""

    def __init__(
        self, root: Path, deadly: str | None, blow: signal.Signals, *, stall_s: float
    ) -> None:
        self.trace: list[str] = []
        self._root = f"{root}/"
        self._deadly = deadly
        self._blow = blow
        # A name is delayed by this time before the process dies at it: code that does
        # not wait for it has gone further by then.
        self._stall_s = stall_s
        self._seen = Seen()
        self._lock = threading.Lock()
        self._drafts = threading.local()

    def __call__(self, event: str, args: tuple) -> None:
        """The audit hook."""
        if event == "open":
            path, _, flags = args
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and self._is_ours(path):
                self._at("open", path)
                self._drafts.path = os.fspath(path)
                sys.setprofile(self._profile)
        elif event == "socket.connect" and isinstance(args[1], tuple):
            self._at("connect", "to a provider")
        elif event in CHANGES and self._is_ours(path := args[CHANGES[event]]):
            sys.setprofile(None)
            self._at(event.removeprefix("os."), path)

    def _profile(self, frame, event: str, called) -> None:
        """Profile the thread that has a file of ours open for writing."""
        del frame
        if event != "c_call":
            return
        draft = self._drafts.path
        if called.__name__ == "write" and getattr(called.__self__, "name", None) in {
            draft,
            Path(draft),
        }:
            self._at("write", draft)
        elif called.__name__ == "fsync":
            self._at("tear", draft)
            self._at("fsync", draft)

    def _is_ours(self, path: object) -> bool:
        return isinstance(path, str | Path) and os.fspath(path).startswith(self._root)

    def _at(self, what: str, path: str | Path) -> None:
        key = os.fspath(path).removeprefix(self._root)
        with self._lock:
            name = self._seen.named(f"{what} {place(key)}")
            self.trace.append(name)
        if name != self._deadly:
            return
        if what == "tear":
            # A kill within the write call leaves half a file.
            os.truncate(path, Path(path).stat().st_size // 2)
        if what in {"link", "rename"}:
            time.sleep(self._stall_s)
        # Signal this thread: in a stopped process, another thread might still act.
        signal.pthread_kill(threading.get_ident(), self._blow)
