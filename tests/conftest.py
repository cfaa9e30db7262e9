"""What every test can ask for."""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
    """A real S3 server on loopback."""
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


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make every S3 client that is opened from now on go to this port."""

    def aws(port: int) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        # The only pair whose signed links this server takes.
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_REGION", "us-east-1")

    return aws


@pytest.fixture
def s3_root(s3_port: int, through: Callable[[int], None]) -> str:
    through(s3_port)
    # New for each test: clients are kept by bucket, and the endpoint with them.
    bucket = f"bucket-{secrets.token_hex(6)}"
    url = f"http://127.0.0.1:{s3_port}/{bucket}"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
    return f"s3://{bucket}/night/reel"
