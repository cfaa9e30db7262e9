"""Commands print at any encoding of the terminal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NIGHTREEL = Path(sys.executable).with_name("nightreel")
CONFIG = """
[manifest]
carry = ["légende"]

[lanes.night]
route = "wavespeed/wan-2.2"
key = "env:LANE_KEY"
"""


@pytest.fixture
def nightreel(tmp_path: Path):
    (tmp_path / "nightreel.toml").write_text(CONFIG, "utf-8")

    def run(*words: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith("NIGHTREEL_")}
        ran = subprocess.run(
            [NIGHTREEL, *words],
            cwd=tmp_path,
            env={**kept, "LANE_KEY": "a-key", **env},
            capture_output=True,
            encoding=env.get("PYTHONIOENCODING", "utf-8"),
            timeout=300,
            check=False,
        )
        assert ran.returncode == code, ran.stderr
        return ran

    return run


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("lanes", "--all"), "US dollars"),
        (("config", "show"), "l?gende"),
        (("config", "--help"), "Show the configuration"),
    ],
)
def test_every_command_prints_on_ascii(nightreel, words: tuple[str, ...], shown: str):
    """Characters that the encoding lacks are replaced, not an error."""
    ran = nightreel(*words, PYTHONIOENCODING="ascii")

    assert shown in ran.stdout


def test_an_error_prints_on_ascii(nightreel, tmp_path: Path):
    (tmp_path / "nightreel.toml").write_text("[lanes.\"é\"]\nroute = 'none'\n", "utf-8")

    ran = nightreel("config", "show", code=2, PYTHONIOENCODING="ascii")

    assert "lanes.?" in ran.stderr


def test_json_on_ascii_loses_no_character(nightreel):
    """A program reads the same values from any encoding."""
    told = [
        json.loads(
            nightreel("config", "show", "--json", PYTHONIOENCODING=encoding).stdout
        )
        for encoding in ("ascii", "utf-8")
    ]

    assert told[0] == told[1]
    assert ["légende"] in [setting["value"] for setting in told[0]["settings"]]
