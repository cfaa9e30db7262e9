"""Every store on which the laws must hold: memory, a folder, S3, GCS and Azure."""

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.objects import Objects
from tests.storage.proxies import FaultyProxy
from tests.storage.servers import Cloud


@pytest.fixture(
    params=[
        "memory",
        "file",
        "s3",
        # S3 covers these two remote stores as well; their tests are slow.
        pytest.param("gs", marks=pytest.mark.slow),
        pytest.param("az", marks=pytest.mark.slow),
    ]
)
def root(
    request: pytest.FixtureRequest, tmp_path: Path, clouds: Callable[[str], Cloud]
) -> str:
    match request.param:
        case "memory":
            return f"memory://{secrets.token_hex(6)}"
        case "file":
            folder = tmp_path / "a root"
            folder.mkdir()
            return folder.as_uri()
        case scheme:
            return clouds(scheme).root()


@pytest.fixture
def objects(root: str) -> Objects:
    return Objects.open(root)


@pytest.fixture
def proxy(s3_port: int) -> FaultyProxy:
    return FaultyProxy(s3_port)
