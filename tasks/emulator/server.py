"""Serves the emulator over real sockets, where an answer can be lost."""

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tasks.emulator.app import NO_CHANCES, Emulator, Quota
from tasks.emulator.faults import Fault
from tasks.emulator.responses import HANG_UP

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 8400
BACKLOG: Final = 2048

KEEP_ALIVE_S: Final = 75
"""As the proxies in front of providers; uvicorn's own 5 s would reset idle clients."""

UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}


def parse_latency(text: str) -> float:
    """Seconds from words like `60s`, `500ms` or `2m`.

    Raises:
        ValueError: the text is no such thing.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(ms|s|m)", text.strip())
    if match is None:
        raise ValueError(f"latency {text!r} is not a time such as 60s, 500ms or 2m")
    return float(match[1]) * UNITS_S[match[2]]


class _Protocol(H11Protocol):
    """Lets an answer close its own connection, which ASGI has no word for."""

    def connection_made(self, transport: object) -> None:
        super().connection_made(transport)  # pyright: ignore[reportArgumentType] -- asyncio says BaseTransport
        app, close = cast("ASGIApp", self.app), self.transport.close

        async def closable(scope: Scope, receive: Receive, send: Send) -> None:
            scope["extensions"] = {HANG_UP: close}
            await app(scope, receive, send)

        self.app = closable


class _Server(uvicorn.Server):
    def __init__(self, emulator: Emulator, started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                emulator,
                http=_Protocol,
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=2,
            )
        )
        self._told = started
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._told()

    async def main_loop(self) -> None:
        # uvicorn's own looks ten times a second whether it is to stop, which every test
        # would wait for.
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), timeout=0.5)

    def stop(self) -> None:
        """Stop soon; from any thread."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)


@contextmanager
def running(emulator: Emulator, *, port: int = 0) -> Generator[str]:
    """The emulator on a free loopback port, in a thread of its own; yields its address."""
    up = threading.Event()
    with _listening(LOOPBACK, port) as listener:
        server = _Server(emulator, up.set)
        thread = threading.Thread(
            target=server.run, args=([listener],), name="emulator", daemon=True
        )
        thread.start()
        try:
            if not up.wait(timeout=30):
                raise TimeoutError("the emulator did not start within 30 s")
            yield _url(listener)
        finally:
            server.stop()
            thread.join()


def serve(
    emulator: Emulator,
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    started: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until interrupted; `started` is told the address.

    Raises:
        OSError: the port cannot be had.
    """
    with _listening(host, port) as listener:
        url = _url(listener)
        with suppress(KeyboardInterrupt):
            _Server(emulator, lambda: started(url)).run([listener])


def run(  # noqa: PLR0913 -- each is an option of the command
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    latency: float = 2.0,
    jitter: float = 0.0,
    faults: Mapping[Fault, float] = NO_CHANCES,
    seed: int = 0,
    slots: Quota = None,
    submits_per_minute: Quota = None,
    clip: Path | None = None,
    started: Callable[[str], None] = lambda _: None,
) -> None:
    """`nightreel emulate`: `faults` are chances; `clip` is served for every job.

    Raises:
        OSError: the port cannot be had, or the clip cannot be read.
    """
    emulator = Emulator(
        latency_s=latency,
        jitter=jitter,
        chances=faults,
        seed=seed,
        slots=slots,
        submits_per_minute=submits_per_minute,
        clip=None if clip is None else clip.read_bytes(),
    )
    serve(emulator, host=host, port=port, started=started)


def _listening(host: str, port: int) -> socket.socket:
    # Not socket.create_server(): it leaves the protocol's number out, for want of which
    # asyncio leaves Nagle's algorithm on, and every answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"
