"""A batch of Nightreel, through its lane, on its own worker."""

import json
import os
import subprocess
import sys

import polars as pl
import pytest
from PIL import Image

from storage.media.mp4 import check
from tests.worker.conftest import ROOT, WORKER

pytestmark = [pytest.mark.worker, pytest.mark.timeout(900)]

# As few frames as the lane can ask for: 480p takes a CPU half a minute.
CONFIG = """
[lanes.mine]
route = "nightreel/wan-2.2"
base_url = "{url}"
paid = false

[routes."nightreel/wan-2.2"]
fps = 4

[routes."nightreel/wan-2.2".sampling]
steps = 1
cfg_high = 1
cfg_low = 1
"""


def test_a_batch_is_made_on_ones_own_worker_and_costs_nothing(shared, tmp_path):
    Image.effect_noise((832, 480), 90).convert("RGB").save(tmp_path / "still.png")
    row = {"image": "still.png", "prompt": "a slow pan", "model": "wan-2.2"}
    shape = {"resolution": "480p", "duration_s": 3, "aspect_ratio": "16:9"}
    pl.DataFrame([{"id": "one", **row, **shape}]).write_parquet(tmp_path / "m.parquet")
    (tmp_path / "nightreel.toml").write_text(CONFIG.format(url=shared.url))

    ran = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            WORKER,
            "run",
            "m.parquet",
            "--root",
            "root",
            "--json",
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(tmp_path / "prefect"),
        },
        stdout=subprocess.PIPE,
        check=True,
    )

    summary = json.loads(ran.stdout)
    assert (summary["published"], summary["bought"], summary["spent_usd"]) == (
        1,
        1,
        0.0,
    )
    [mp4] = (tmp_path / "root" / "clips").rglob("*.mp4")
    probe = check(mp4.read_bytes())
    assert (probe.width, probe.height, probe.frames) == (832, 480, 13)
    [attempts] = (tmp_path / "root" / "tables" / "attempts").rglob("*.parquet")
    [stages] = pl.read_parquet(attempts)["stages"]
    assert json.loads(stages).keys() == {
        "wait",
        "prepare",
        "denoise",
        "decode",
        "write",
    }
    [made] = shared.get("/v1/videos", limit=1).json()["data"]
    assert shared.get(f"/v1/videos/{made['id']}/content").content == mp4.read_bytes()
