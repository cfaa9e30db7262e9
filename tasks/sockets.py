"""Our own servers: their listening sockets, and the limits of their connections."""

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

BACKLOG: Final = 2048
"""Connections that may wait to be accepted: uvicorn's default."""
ACCEPTED_AT_ONCE: Final = 64
"""Connections accepted in one step of the event loop: asyncio takes a whole backlog, and
if the process has no file descriptor left, it logs one error for each."""
SILENT_S: Final = 10.0
"""A connection is closed after this time without the head of a request."""
MOST_CONNECTIONS: Final = 256
"""The connections that one server holds."""
KEEP_ALIVE_S: Final = 5
"""How long an idle connection is kept: uvicorn's default."""
REPEATED_S: Final = 60.0
"""The same warning is not logged again before this time."""


class Sparing:
    """Decides which of many equal warnings are logged: one in `REPEATED_S` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged: dict[Hashable, float] = {}
        self._left_out = Counter[Hashable]()

    def due(self, kind: Hashable) -> int | None:
        """How many of this kind were left out since the last one; None: leave it out.

        `kind` must be one of a few: each is kept.
        """
        now = self._clock()
        if now - self._logged.get(kind, -REPEATED_S) < REPEATED_S:
            self._left_out[kind] += 1
            return None
        self._logged[kind] = now
        return self._left_out.pop(kind, 0)


_CLOSED: Final = Sparing()


class BoundedProtocol(H11Protocol):
    """uvicorn's connection, closed if it sends no request, or if there are too many.

    uvicorn itself waits for the first request without end. If a server holds
    `MOST_CONNECTIONS`, the one that has been silent for longest makes room.
    """

    silent_s: float = SILENT_S
    most: int = MOST_CONNECTIONS
    _limit: asyncio.TimerHandle | None = None
    opened_at: float = 0.0
    """By the event loop's clock."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as in uvicorn
        super().connection_made(transport)
        self.opened_at = self.loop.time()
        self._watch()
        if len(self.connections) > self.most:
            every = cast("set[BoundedProtocol]", self.connections)
            silent = [one for one in every if one.is_silent]
            min(silent, key=lambda one: one.opened_at).shut("there are too many")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    @property
    def is_silent(self) -> bool:
        """Whether no request is being received or answered on it."""
        cycle = cast("Any", self.cycle)
        return cycle is None or cycle.response_complete

    def _watch(self) -> None:
        if not self.is_silent:
            self._unwatch()
        elif self._limit is None:
            late = f"no request in {self.silent_s:.0f} s"
            self._limit = self.loop.call_later(self.silent_s, self.shut, late)

    def _unwatch(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def shut(self, why: str) -> None:
        """Close it at once, with a warning."""
        self._unwatch()
        # At once, so that the next connection does not choose it again.
        self.connections.discard(self)
        self.transport.abort()
        if (left_out := _CLOSED.due(why)) is not None:
            more = f" (and {left_out:,} more)" if left_out else ""
            log.warning("connection.closed from=%s %s%s", self.client, why, more)


class BoundedServer(uvicorn.Server):
    """A server with our limits, which logs errors only and takes no signals."""

    def __init__(
        self, app: ASGIApp, *, graceful_s: int, keep_alive_s: int = KEEP_ALIVE_S
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                backlog=ACCEPTED_AT_ONCE,
                log_config=None,
                log_level="error",  # it warns of every request that is not HTTP
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=keep_alive_s,
                timeout_graceful_shutdown=graceful_s,
            )
        )

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take no signals here: the caller handles them."""
        yield

    def stop(self) -> None:
        self.should_exit = True


@contextmanager
def bound(host: str, port: int) -> Generator[socket.socket]:
    """Listen on a TCP socket for the length of a block."""
    # socket.create_server() does not set the protocol's number. Without it asyncio leaves
    # Nagle's algorithm on, and every answer takes 40 ms.
    with socket.socket(
        socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    ) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        yield listener
