"""The set-up of docs/how-to/schedule.md, command by command, as a new user types it."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.flows.conftest import BIN, QUIET, environment, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
AS_IT_IS = ("examples", "flows", "manifests", "storage", "tasks", "prefect.toml")


def set_up() -> list[str]:
    """The commands of the section, without the text around them."""
    document = (ROOT / "docs/how-to/schedule.md").read_text()
    section = document.partition("\n## Set-up\n")[2].partition("\n## ")[0]
    block = section.partition("```console\n")[2].partition("```")[0]
    assert block.count("\n$ ") + 1 == block.count("\n")
    return [line.removeprefix("$ ") for line in block.splitlines()]


@pytest.fixture
def clone(bench, tmp_path):
    """A clone in which a user has entered lanes and places."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in AS_IT_IS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(BIN.parent)
    bench.manifest(2)
    bench.config("atlas", key="env:WAVESPEED_API_KEY")
    shutil.copy(bench.folder / "nightreel.toml", folder / "examples/nightreel.toml")
    text = (ROOT / "prefect.yaml").read_text()
    for place, my_place in {
        "s3://my-bucket/manifests/tonight.parquet": bench.folder / "m.parquet",
        "s3://my-bucket/nightreel": bench.folder / "root",
    }.items():
        text = text.replace(place, my_place.as_uri())
    (folder / "prefect.yaml").write_text(text)
    return folder


def test_ten_commands_lead_from_nothing_to_a_nightly_batch(bench, clone, tmp_path):
    """Ten commands take a new user from nothing to a nightly batch."""
    commands, port = set_up(), str(free_port())
    env = environment(
        PREFECT_HOME=str(tmp_path / "home"), PREFECT_SERVER_API_PORT=port, **QUIET
    )

    # This test runs in the environment that the first command creates.
    assert commands.pop(0) == "make setup"
    assert len(commands) <= 9
    typed = "\n".join(commands).replace(":4200", f":{port}").replace("=…", "=a-key")
    # A person needs longer to edit two files than the server needs to start.
    typed = re.sub(
        r"(prefect server start.*)",
        r'\1\nuntil curl -sf "$PREFECT_API_URL/health" >/dev/null; do sleep 1; done',
        typed,
    )
    log = tmp_path / "said"
    shell = subprocess.Popen(
        ["bash", "-e", "-c", f"exec >{log} 2>&1\n{typed}\nprefect server stop"],
        cwd=clone,
        env=env,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        code = shell.wait(400)
    finally:
        # This stops the worker in the background and every other process left.
        os.killpg(shell.pid, signal.SIGKILL)

    assert code == 0, log.read_text()
    assert bench.bought == {"pan 0": 1, "pan 1": 1}
    assert len([*(bench.folder / "root/clips").rglob("*.mp4")]) == 2
