"""Keeps a process alive whose stdout or stderr has lost its reader.

A pipe whose reader ended, or a terminal that was closed, makes every write fail. Python then
raises, Rich ends the process, and Python's last flush changes the exit code. A batch that
buys clips must not end for that, so these streams drop the output instead.
"""

import errno
import io
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final

GONE: Final = (errno.EPIPE, errno.EIO)
"""Errors of a write to a pipe without a reader, and to a terminal that was closed."""

_STDERR: Final = 2

_AT_ONCE: Final = 1024
"""The most bytes of one write to stderr: a pipe that has room takes as many."""

_PATIENCE_S: Final = 1.0
"""How long a write to stderr waits for a reader that does not read."""

_LEFT_OUT: Final = b"\n[output was left out here, because nothing read it]\n"


class Raw(io.RawIOBase):
    """A file descriptor that becomes the null device when its reader goes away.

    Stderr also drops what a full disk refuses, and what nothing reads, as on a terminal
    after Ctrl-S: waiting for a reader would stop the event loop, and the heartbeats with
    it. Stdout waits and raises, since a program reads it at the end of a run.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._stalled = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: Any, /) -> int:
        try:
            if self._fd != _STDERR:
                return os.write(self._fd, data)
            return self._write_if_read(data)
        except OSError as exc:
            if exc.errno in GONE:
                _discard(self._fd)
            elif self._fd != _STDERR:
                raise
            return len(data)

    def _write_if_read(self, data: Any) -> int:
        wait_s = 0.0 if self._stalled else _PATIENCE_S
        if not select.select([], [self._fd], [], wait_s)[1]:
            self._stalled = True
            return len(data)
        if self._stalled:
            self._stalled = False
            os.write(self._fd, _LEFT_OUT)
            return 0
        return os.write(self._fd, data[:_AT_ONCE])


def outlive_readers() -> None:
    """Have stdout and stderr drop output that has no reader, in this process.

    Changes no stream that was redirected inside Python, as in a notebook or a test.
    """
    _open_standard_descriptors()
    for name, fd in (("stdout", 1), ("stderr", _STDERR)):
        before = getattr(sys, name)
        if before is None:
            setattr(sys, name, _text(fd))
        elif _is_original(before, fd):
            after = _text(fd, like=before)
            setattr(sys, name, after)
            _move_handlers(before, after)


def outlive_readers_of_a_run() -> None:
    """The same where Prefect started this process for a flow run. Any other process, such as
    a notebook that imports the flow, keeps its streams.
    """
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        outlive_readers()


@contextmanager
def outlive_terminal() -> Generator[None]:
    """Ignore SIGHUP meanwhile, which a terminal sends when it is closed.

    Leaves the signal alone if the program has a handler for it.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _open_standard_descriptors() -> None:
    """Open the null device where 0, 1 or 2 is closed: a later file would get that number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)


def _discard(fd: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)


def _is_original(stream: object, fd: int) -> bool:
    """Whether it is the stream that Python opened for this descriptor."""
    if type(stream) is not io.TextIOWrapper:
        return False
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return isinstance(raw, io.FileIO) and raw.fileno() == fd


def _text(fd: int, *, like: io.TextIOWrapper | None = None) -> io.TextIOWrapper:
    buffer = io.BufferedWriter(Raw(fd))
    if like is None:
        return io.TextIOWrapper(buffer, "utf-8", "replace", line_buffering=True)
    _flush(like, fd)
    return io.TextIOWrapper(
        buffer,
        like.encoding,
        like.errors,
        # An unbuffered stream (PYTHONUNBUFFERED) writes through to a buffer here, so each
        # line has to be flushed.
        line_buffering=like.line_buffering or like.write_through,
    )


def _flush(stream: io.TextIOWrapper, fd: int) -> None:
    try:
        stream.flush()
    except OSError as exc:
        if exc.errno not in GONE:
            raise
        _discard(fd)


def _move_handlers(before: io.TextIOWrapper, after: io.TextIOWrapper) -> None:
    """Have handlers that were made earlier, such as Prefect's, write to the new stream."""
    for handler in _handlers():
        if getattr(handler, "stream", None) is before:
            handler.setStream(after)
        console: Any = getattr(handler, "console", None)
        if getattr(console, "file", None) is before:
            console.file = after


def _handlers() -> Iterator[logging.StreamHandler[io.TextIOWrapper]]:
    manager = logging.root.manager
    for one in (logging.root, *manager.loggerDict.values()):
        if isinstance(one, logging.Logger):
            for handler in one.handlers:
                if isinstance(handler, logging.StreamHandler):
                    yield handler
