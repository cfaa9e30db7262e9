"""Every store that the laws must hold on: memory, a folder, and a real S3 server."""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage.objects import Objects


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"no S3 server on port {port}")


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    port = free_port()
    settings = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "IOT_MTLS_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        "S3_PERSIST": "0",
        "SERVICES": "s3",
        "SFTP_ENABLED": "0",
    }
    program = Path(sys.executable).with_name("ministack")
    server = subprocess.Popen(
        [program],
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port, server)
        yield port
    finally:
        server.terminate()
        server.wait(10)


def aws(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    # The only pair whose signed links this server takes.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture
def s3_root(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    aws(monkeypatch, s3_port)
    # New for each test: clients are kept by bucket, and the endpoint with them.
    bucket = f"bucket-{secrets.token_hex(6)}"
    url = f"http://127.0.0.1:{s3_port}/{bucket}"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
    return f"s3://{bucket}/night/reel"


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


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make every S3 client that is opened from now on go to this port."""
    return lambda port: aws(monkeypatch, port)
