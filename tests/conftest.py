"""Fixtures that every test can use."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

import pytest

from tests.storage.proxies import FaultyProxy, Relay, as_gcs
from tests.storage.servers import Cloud, azure_server, environ, s3_server

# The roots that tests open must not be known on this machine, nor in the next test run.
STATE = tempfile.mkdtemp(prefix="nightreel-state-")
os.environ["XDG_STATE_HOME"] = STATE

CLOUDS = ["s3", "gs", "az"]


def pytest_unconfigure() -> None:
    shutil.rmtree(STATE, ignore_errors=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """A real S3 server on loopback."""
    with s3_server() as port:
        yield port


@pytest.fixture(scope="session")
def gcs_port(s3_port: int) -> Iterator[int]:
    """The S3 server, as GCS's XML API sees it."""
    relay = Relay(s3_port, as_gcs)
    yield relay.start()
    relay.stop()


@pytest.fixture(scope="session")
def azure_port() -> Iterator[int]:
    """Azure's own emulator."""
    with azure_server() as port:
        yield port


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Send every store client that is opened from now on to this port."""

    def go(port: int) -> None:
        for name, value in environ(port).items():
            monkeypatch.setenv(name, value)

    return go


@pytest.fixture
def clouds(
    request: pytest.FixtureRequest, through: Callable[[int], None]
) -> Callable[[str], Cloud]:
    """Start the real store of a scheme, and send clients opened from now on to it."""
    ports = {"s3": "s3_port", "gs": "gcs_port", "az": "azure_port"}

    def cloud(scheme: str) -> Cloud:
        port = request.getfixturevalue(ports[scheme])
        through(port)
        return Cloud(scheme, port)

    return cloud


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest, clouds: Callable[[str], Cloud]) -> Cloud:
    """Each real store in turn."""
    return clouds(request.param)


@pytest.fixture
def faulty(cloud: Cloud, through: Callable[[int], None]) -> Iterator[FaultyProxy]:
    """A faulty proxy in front of the real store, for clients opened from now on."""
    proxy = FaultyProxy(cloud.port)
    through(proxy.start())
    yield proxy
    proxy.stop()


@pytest.fixture
def s3_root(clouds: Callable[[str], Cloud]) -> str:
    return clouds("s3").root()
