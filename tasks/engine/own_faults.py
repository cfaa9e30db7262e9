"""Handles our own faults: unforeseen exceptions on jobs that are paid for.

A job is parked if our code fails to poll, fetch, check or publish its clip. The ledger keeps
it as paid for, with the reason, and the next run tries it again. A few such jobs in a row
mean that Nightreel is broken, and not the clips. Then no more are bought.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from manifests.expiry import AT_PROVIDERS
from manifests.lifecycle import (
    Accepted,
    Doubted,
    Event,
    History,
    Parked,
    Published,
    State,
)

IN_A_ROW: Final = 3
"""Jobs parked with no publication between them, after which no more are bought."""

AGAIN: Final = "it is paid for and is tried again by the next run"

_OURS: Final = ("flows", "manifests", "nightreel", "storage", "tasks")
_LONGEST: Final = 300
"""Characters of an exception's message that are kept."""
_QUERY: Final = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")


class OwnFaultError(Exception):
    """Our own code failed; the message names the part of it, the cause says how."""


@contextmanager
def ours(part: str, *foreseen: type[Exception]) -> Generator[None]:
    """Name the part of our code that runs inside, for the exceptions it must not raise.

    Raises:
        OwnFaultError: it raised an exception that is not `foreseen`.
    """
    try:
        yield
    except foreseen:
        raise
    except Exception as error:
        raise OwnFaultError(part) from error


def explained(error: Exception) -> str:
    """The part of our code that failed, and the exception's type, message and module."""
    part = "our own code"
    if isinstance(error, OwnFaultError) and isinstance(error.__cause__, Exception):
        part, error = str(error), error.__cause__
    name = type(error).__name__
    # Messages of HTTP libraries quote links, whose queries hold signatures.
    message = _QUERY.sub(r"\1", " ".join(str(error).split()))[:_LONGEST]
    place = _place(error)
    return f"{part} failed: {name}" + (f": {message}" if message else "") + place


async def park(
    job: str,
    error: Exception,
    history: History,
    record: Callable[[str, Event], Awaitable[object]],
) -> str:
    """Record why our code failed on a job, if the job may be paid for; the reason.

    The same failure of the same job is recorded once, however many runs meet it. A
    submit whose answer is not on record stays in doubt.

    Raises:
        FencedError, StorageError: nothing can be put on record any more.
    """
    reason = explained(error)
    if history.state is State.IN_DOUBT and history.reason is None:
        await record(job, Doubted(reason, "unread"))
    if history.state not in AT_PROVIDERS:
        return reason
    reason = f"{reason}; {AGAIN}"
    if reason != history.reason:
        await record(job, Parked(reason))
    return reason


@dataclass(slots=True)
class OwnFaults:
    """Counts parked jobs in a row, and decides which lanes may buy no more.

    A lane stops after `IN_A_ROW` of its jobs, if none of its jobs is published between
    them. All lanes stop if no lane's job is published meanwhile, and the parked ones are
    of more than one lane: then it is not one lane's adapter that is broken.

    A lane stops, too, after `IN_A_ROW` submits whose answers our code could not read, if
    it read no other answer as accepted between them: each of them may be charged.
    """

    stopped: str | None = None
    """Why the first lane was stopped, if any was."""
    _latest: str = ""
    _row: list[str] = field(default_factory=list[str])
    """The lanes of the jobs parked since the latest publication."""
    _on: Counter[str] = field(default_factory=Counter[str])
    """By lane: its jobs parked since its latest publication."""
    _unread: Counter[str] = field(default_factory=Counter[str])
    """By lane: submits since its latest ticket whose answers could not be read."""
    _why_unread: str = ""

    def recall(self, lives: Iterable[History]) -> None:
        """Begin with what earlier runs parked, as one short of a reason to stop.

        A few clips that fail in every run must not stop the buying by themselves; if the
        first new clip fails too, Nightreel is still broken.
        """
        for history in lives:
            if history.parks and history.state in AT_PROVIDERS:
                lane = history.lane or ""
                self._on[lane] = min(self._on[lane] + 1, IN_A_ROW - 1)
                if len(self._row) < IN_A_ROW - 1:
                    self._row.append(lane)

    def count(self, event: Event, history: History) -> None:
        """Count one more event, and the history it made."""
        lane = history.lane or ""
        match event:
            case Published():
                self._row.clear()
                self._on[lane] = 0
            case Accepted():
                self._unread[lane] = 0
            case Doubted(reason, "unread"):
                self._why_unread = reason
                self._unread[lane] += 1
            # A job that was parked before says nothing new of the code.
            case Parked(reason) if history.parks == 1:
                self._latest = reason
                self._row.append(lane)
                self._on[lane] += 1
            case _:
                pass

    def why_stop(self, lane: str) -> str | None:
        """Why this lane must buy no more, if so."""
        of_all = len(self._row) if len({*self._row}) > 1 else 0
        if (unread := self._unread[lane]) >= IN_A_ROW:
            return (
                f"Nightreel could not read the answers to {unread} submits in a row, "
                f"which may be charged, so it buys no more: {self._why_unread}"
            )
        jobs = max(of_all, self._on[lane])
        if jobs < IN_A_ROW:
            return None
        return (
            f"Nightreel itself failed on {jobs} paid clips in a row, so it buys no more: "
            f"{self._latest}"
        )


def _place(error: BaseException) -> str:
    """The module of ours in which it happened, as ` (storage/media/mp4.py)`."""
    while error.__cause__ is not None:
        error = error.__cause__
    modules = [name for name in _modules(error.__traceback__) if _is_ours(name)]
    return f" ({modules[-1].replace('.', '/')}.py)" if modules else ""


def _modules(traceback: TracebackType | None) -> Generator[str]:
    while traceback is not None:
        yield str(traceback.tb_frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in _OURS
