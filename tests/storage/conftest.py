"""Every store that the laws must hold on: memory, a folder, and a real S3 server."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage.objects import Objects


@pytest.fixture(params=["memory", "file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "memory":
            return f"memory://{secrets.token_hex(6)}"
        case "file":
            return (tmp_path / "a root").as_uri()
        case _:
            return request.getfixturevalue("s3_root")


@pytest.fixture
def objects(root: str) -> Objects:
    return Objects.open(root)


@dataclass
class Fault:
    """What happens to the requests that come after it was set."""

    lose_answers: int = 0
    refuse: int = 0
    seen: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class FaultyProxy:
    """A TCP relay in front of the S3 server that can lose an answer or refuse."""

    upstream: int
    fault: Fault = field(default_factory=Fault)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            request = await _message(reader)
            self.fault.seen.append(request.partition(b"\r\n")[0])
            answer = await self._answer(request)
            writer.write(answer)
            await writer.drain()
        finally:
            writer.close()

    async def _answer(self, request: bytes) -> bytes:
        if self.fault.refuse:
            self.fault.refuse -= 1
            return b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        up_writer.write(request)
        answer = await _message(up_reader, is_head=request.startswith(b"HEAD"))
        up_writer.close()
        if self.fault.lose_answers:
            self.fault.lose_answers -= 1
            return b""
        return answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


async def _message(reader: asyncio.StreamReader, *, is_head: bool = False) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    headers = dict(
        line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line
    )
    length = 0 if is_head else int(headers.get(b"content-length", b"0"))
    return head + await reader.readexactly(length)


@pytest.fixture
def proxy(s3_port: int) -> FaultyProxy:
    return FaultyProxy(s3_port)
