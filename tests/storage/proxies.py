"""HTTP relays in front of a real store, each of which can produce network faults."""

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
DENIED_BODY = b"<Error><Code>AccessDenied</Code></Error>"
DENIED = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
    % (len(DENIED_BODY), DENIED_BODY)
)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """An event loop in a separate thread: a test that blocks does not block the
    network."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="relays").start()
    return loop


def _there(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(coroutine, _loop()).result(30)


class Relay:
    """A relay to a port on loopback, one connection for each request."""

    def __init__(self, upstream: int, rewrite: Callable[[bytes], bytes] = bytes):
        self.upstream = upstream
        self.port = 0
        self._rewrite = rewrite
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any] | None] = set()

    def start(self) -> int:
        """Listen, on the earlier port if there was one."""
        self._server = _there(self._listen())
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    def stop(self) -> None:
        """Refuse connections, like a server that is not running."""
        if self._server is not None:
            _loop().call_soon_threadsafe(self._server.close)
            _there(self._server.wait_closed())
            self._server = None

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # Once a client has hung up, only this set refers to the task that still serves
        # it, and an unreferenced task may be collected in the middle of its work.
        self._serving.add(task := asyncio.current_task())
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                request = self._rewrite(await _request(reader))
                writer.write(await self.answer(request))
                await writer.drain()
            with contextlib.suppress(OSError):
                writer.close()
        finally:
            self._serving.discard(task)

    async def answer(self, request: bytes) -> bytes:
        """Fetch the real store's answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            writer.write(_closing(request))
            return await reader.read()
        finally:
            writer.close()


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    headers = dict(
        line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line
    )
    return head + await reader.readexactly(int(headers.get(b"content-length", b"0")))


def _closing(request: bytes) -> bytes:
    return request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


@dataclass
class Fault:
    """The faults of the requests that follow."""

    refuse: int = 0
    """This number of requests is answered 503, and never reaches the store."""
    lose_answers: int = 0
    """This number of requests reaches the store, but the connection breaks before the
    answer."""
    cut: int = 0
    """This number of answers breaks off half-way."""
    flip: int = 0
    """This number of bodies has one bit flipped on the way to the store."""
    swallow: int = 0
    """This number of puts is answered 200, and never reaches the store."""
    swallowed: Callable[[bytes], bool] = lambda request: request.startswith(b"PUT ")
    """Whether a request is one of these puts."""
    tag: Callable[[bytes], bytes] = lambda body: b"0" * 32
    """The ETag of such an answer, from the put's body; empty: none."""
    deny: bool = False
    """All requests are answered 403."""
    slow_s: float = 0.0
    """All answers are delayed by this time."""
    busy_share: float = 0.0
    lost_share: float = 0.0
    """Shares of requests, drawn with a fixed seed."""
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    seen: list[bytes] = field(default_factory=list)
    """The first line of each request."""


class FaultyProxy(Relay):
    """A relay in front of a store that produces the faults that a test sets."""

    def __init__(self, upstream: int):
        super().__init__(upstream)
        self.fault = Fault()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        try:
            yield self.start()
        finally:
            self.stop()

    async def answer(self, request: bytes) -> bytes:
        fault = self.fault
        fault.seen.append(request.partition(b"\r\n")[0])
        await asyncio.sleep(fault.slow_s)
        if fault.deny:
            return DENIED
        if self._strikes("refuse") or fault.dice.random() < fault.busy_share:
            return BUSY
        head, blank, body = request.partition(b"\r\n\r\n")
        if fault.swallowed(request) and self._strikes("swallow"):
            return _written(fault.tag(body))
        if body and self._strikes("flip"):
            middle = len(body) // 2
            flipped = bytes([body[middle] ^ 1])
            request = head + blank + body[:middle] + flipped + body[middle + 1 :]
        answer = await super().answer(request)
        if self._strikes("lose_answers") or fault.dice.random() < fault.lost_share:
            return b""
        return answer[: len(answer) - 3] if self._strikes("cut") else answer

    def _strikes(self, name: str) -> bool:
        left = getattr(self.fault, name)
        setattr(self.fault, name, max(0, left - 1))
        return left > 0


def _written(tag: bytes) -> bytes:
    """The answer to a put that succeeded."""
    line = b'ETag: "%s"\r\n' % tag if tag else b""
    return (
        b"HTTP/1.1 200 OK\r\n"
        + line
        + b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    )


def as_gcs(request: bytes) -> bytes:
    """Translate a request of GCS's XML API for the S3 server, whose API is similar."""
    head, blank, body = request.partition(b"\r\n\r\n")
    lines = [
        b"If-None-Match: *" if line.lower().startswith(b"x-goog-if-gen") else line
        for line in head.split(b"\r\n")
        if not line.lower().startswith(b"authorization:")
    ]
    return b"\r\n".join(lines) + blank + body
