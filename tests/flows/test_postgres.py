"""A Prefect server on PostgreSQL, with a batch on it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.flows.conftest import free_port, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FOUND = [
    shutil.which("initdb"),
    *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")),
]
INITDB = next(filter(None, FOUND), None)


def as_nobody(*words: object, **more) -> None:
    """PostgreSQL refuses to run as root."""
    who = {"user": "postgres"} if os.getuid() == 0 else {}
    subprocess.run([*map(str, words)], check=True, capture_output=True, **who, **more)


@pytest.fixture
def postgres():
    """The URL of a database for one test."""
    if INITDB is None:
        pytest.skip("no PostgreSQL on this machine")
    # Not below pytest's folder: other users cannot read that.
    with TemporaryDirectory(prefix="postgres-") as name:
        if os.getuid() == 0:
            shutil.chown(name, "postgres")
        yield from started(Path(name), free_port())


def started(folder: Path, port: int) -> Iterator[str]:
    pg, data = Path(INITDB).parent, folder / "data"
    as_nobody(
        pg / "initdb", "-D", data, "-U", "prefect", "-A", "trust", "-N", cwd=folder
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
    log = folder / "log"
    as_nobody(
        pg / "pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "start", cwd=folder
    )
    try:
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        as_nobody(pg / "pg_ctl", "-D", data, "-m", "immediate", "stop", cwd=folder)


def test_batch_is_visible_on_a_server_with_postgresql(bench, postgres, tmp_path):
    """A Prefect server that stores its records in PostgreSQL shows the batch."""
    bench.manifest(2)
    kept = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres}

    with serving(tmp_path / "home", **kept) as bench.prefect:
        ran = bench.run()
        runs = bench.prefect.post("flow_runs/filter")

    assert (ran.code, ran.reply["published"]) == (0, 2), ran.err
    assert [run["state_type"] for run in runs] == ["COMPLETED"]
