"""The holder: the process that may write to a root, and whether it still lives.

An epoch is numbered, and claimed once, by one process. The claimant of a later epoch seals
every older one, and only then reads. So there are never two writers, whatever the clocks
say: the heartbeat only stops a second batch from fencing the first by accident (`lease`).
"""

import os
import re
import secrets
import socket
import subprocess
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

from storage import checksum
from storage.ledger.codec import LedgerError

BEAT_S: Final = 10.0
SILENT_S: Final = 60.0
"""A holder without a heartbeat for this long counts as dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A claim to an epoch, and a heartbeat: the same fields, written again at each beat."""

    epoch: int
    name: str
    """The batch's name, as the user gave it."""
    host: str
    machine: str
    """The scope of `pid`: this boot of this machine, or its container."""
    pid: int
    born: str | None
    """The process's start time, so that a reused pid is not taken for it."""
    token: str
    """A random token, so that no two claims have the same bytes."""
    since: float
    at: float
    """By the holder's clock, for people; it is never compared with another clock."""
    beats: int = 0

    @property
    def batch(self) -> str:
        slug = re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40].strip("-")
        return f"{self.epoch:06d}-{slug or 'batch'}"

    def beating(self, at: float) -> "Holder":
        return replace(self, at=at, beats=self.beats + 1)

    def is_gone(self) -> bool:
        """Whether it was a process of this machine and has certainly ended."""
        if self.machine != _machine():
            return False
        try:
            found = born(self.pid)
        except ProcessLookupError:
            return True
        return None not in {found, self.born} and found != self.born

    def description(self, silent_s: float) -> str:
        """`since` is by its clock; times counted here are given as durations."""
        left_s = max(0.0, SILENT_S - silent_s)
        return (
            f"batch {self.name!r} holds it: pid {self.pid} on {self.host}, since "
            f"{_utc(self.since)} by that machine's clock. Its last beat was seen "
            f"{silent_s:.0f} s ago; if it is dead, the root is free in {left_s:.0f} s"
        )

    def dump(self) -> bytes:
        return checksum.dump(asdict(self))

    @classmethod
    def load(cls, data: bytes, uri: str) -> "Holder":
        """A holder from the bytes that `dump` wrote.

        Raises:
            DamagedError: it is not what was written.
            LedgerError: another Nightreel wrote it.
        """
        fields = checksum.load(data, uri)
        try:
            return cls(**fields)
        except TypeError as error:
            raise LedgerError(f"{uri}: not a claim: {error}") from error


def claimant(epoch: int, name: str, at: float) -> Holder:
    """This process, claiming an epoch."""
    return Holder(
        epoch=epoch,
        name=name,
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        born=born(os.getpid()),
        token=secrets.token_hex(8),
        since=at,
        at=at,
    )


def born(pid: int) -> str | None:
    """When a process of this machine started, in its own units; None if that is hidden.

    Raises:
        ProcessLookupError: it is gone.
    """
    if not Path("/proc/self/stat").exists():
        ps = ("/bin/ps", "-o", "lstart=", "-p", str(pid))
        answer = subprocess.run(ps, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed program and a number
        return answer.stdout.strip() or _hidden(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return _hidden(pid)
    # The name in brackets may hold anything; state is field 3, start time field 22.
    state, *rest = stat.rpartition(")")[2].split()
    if state in "ZX":
        raise ProcessLookupError(pid)
    return rest[18]


def _hidden(pid: int) -> None:
    """Ask the kernel about a process that /proc does not show. /proc may hide the processes
    of other users (hidepid, ProtectProc=).

    Raises:
        ProcessLookupError: there is no such process.
    """
    with suppress(PermissionError):
        os.kill(pid, 0)


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{uuid.getnode():x}"


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
