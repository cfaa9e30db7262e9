"""Where a process may die: just before each thing that it does to the files below a root,
and before it connects to a provider.

Python tells an audit hook of every file that is opened, linked, renamed or removed, and a
profile hook of every call that writes: nothing of ours is patched.
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
"""What changes names, and which of its arguments is the name that counts."""


def place(path: str) -> str:
    """A key as it is called in every run: without epochs, ids and drafts' own numbers."""
    path = re.sub(r"#\d+$", "", path)
    path = re.sub(r"([0-9a-f]{2}/)?[0-9a-f]{16,32}", "…", path)
    return re.sub(r"(?<![0-9A-Za-z])\d{6}(?!\d)", "…", path)


class Seen(Counter[str]):
    """Names what happens: the second of a name is its `#2`."""

    def named(self, what: str) -> str:
        self[what] += 1
        return what if self[what] == 1 else f"{what} #{self[what]}"


class Watch:
    """Sees what this process does below a root, and ends it at one point of that."""

    def __init__(
        self, root: Path, deadly: str | None, blow: signal.Signals, *, stall_s: float
    ) -> None:
        self.trace: list[str] = []
        self._root = f"{root}/"
        self._deadly = deadly
        self._blow = blow
        # So long a name waits before the process dies in its stead: whoever does not
        # wait for it has gone on by then.
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
        """Of the thread that has a file of ours open for writing."""
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
            # What a kill within the call that writes leaves behind.
            os.truncate(path, Path(path).stat().st_size // 2)
        if what in {"link", "rename"}:
            time.sleep(self._stall_s)
        # To this thread: of a process that is stopped, another might still do it.
        signal.pthread_kill(threading.get_ident(), self._blow)
