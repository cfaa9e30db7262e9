"""Serves the emulator over real sockets, on which an answer can be lost."""

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
from tasks.sockets import bound

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 8400

KEEP_ALIVE_S: Final = 75
"""Like the proxies in front of providers; uvicorn's default of 5 s would reset idle clients."""

UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}


def parse_latency(text: str) -> float:
    """Parse a time such as `60s`, `500ms` or `2m`; returns seconds.

    Raises:
        ValueError: the text is no time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(ms|s|m)", text.strip())
    if match is None:
        raise ValueError(f"latency {text!r} is not a time such as 60s, 500ms or 2m")
    return float(match[1]) * UNITS_S[match[2]]


class _Protocol(H11Protocol):
    """Lets a response close its connection, which ASGI does not offer."""

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
        # uvicorn's own loop notices a stop after up to 0.1 s, which delays every test.
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), timeout=0.5)

    def stop(self) -> None:
        """Stop soon. Thread-safe."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)


@contextmanager
def running(emulator: Emulator, *, port: int = 0) -> Generator[str]:
    """Serve on a loopback port in a separate thread; yields the address."""
    up = threading.Event()
    with bound(LOOPBACK, port) as listener:
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
    """Serve until interrupted; calls `started` with the address.

    Raises:
        OSError: the port is in use.
    """
    with bound(host, port) as listener:
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
    """Run `nightreel emulate`: `faults` are probabilities; every job gets `clip`.

    Raises:
        OSError: the port is in use, or the clip cannot be read.
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


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"
