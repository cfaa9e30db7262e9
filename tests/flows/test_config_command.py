"""`nightreel config show` prints each setting in force and its source, never a key."""

import json

import pytest
from typer.testing import CliRunner

from flows.commands.main import app
from flows.config import Settings

SECRET = "sk-live-5d41402abc4b2a76"
FILE = """\
engine.settle_s = 45   # dotted
[lanes.spicy]
route = "wavespeed/wan-2.2-spicy"
key = "env:WAVESPEED_KEY"
slots = 7

[lanes."fal.1"]
route = "fal/wan-2.2"
key = "env:NOBODYS_KEY"
[routes."fal/wan-2.2".prices_usd]
480p = { 5 = "0.12" }
"""


@pytest.fixture
def shown(tmp_path, monkeypatch):
    path = tmp_path / "nightreel.toml"
    path.write_text(FILE)
    monkeypatch.setenv("WAVESPEED_KEY", SECRET)
    monkeypatch.setenv("NIGHTREEL_CONFIG", str(path))
    monkeypatch.delenv("NOBODYS_KEY", raising=False)
    return CliRunner().invoke(app, ["config", "show", "--json"]), path


def test_each_setting_in_force_is_shown_with_its_source(shown):
    ran, path = shown

    found = {one["name"]: one for one in json.loads(ran.stdout)["settings"]}
    values = {name: (one["value"], one["source"]) for name, one in found.items()}
    assert values["file"] == (str(path), "NIGHTREEL_CONFIG")
    assert values["engine.settle_s"] == (45.0, str(path))
    assert values["engine.grace_s"] == (20.0, "default")
    assert values["lanes.spicy.slots"] == (7, str(path))
    assert values["lanes.spicy.submits_per_minute"][0] == 5
    assert "WaveSpeed docs" in values["lanes.spicy.submits_per_minute"][1]
    assert values["lanes.fal.1.route"] == ("fal/wan-2.2", str(path))
    assert values["routes.fal/wan-2.2.prices_usd.480p.5"] == ("0.12", str(path))
    assert values["report.public_url"] == (None, "default")
    # Every setting that the file may contain is shown.
    tables = {name.partition(".")[0] for name in values} - {"file"}
    assert tables | {"models"} == Settings.model_fields.keys()


def test_key_is_shown_by_its_place_and_whether_it_is_there(shown):
    """`config` shows where a key is kept and whether it is there, not the key."""
    ran, _ = shown

    found = {one["name"]: one for one in json.loads(ran.stdout)["settings"]}
    assert found["lanes.spicy.key"]["value"] == "env:WAVESPEED_KEY"
    assert found["lanes.spicy.key"]["key"] == "there"
    assert found["lanes.fal.1.key"]["key"] == "not there"
    assert SECRET not in ran.output
