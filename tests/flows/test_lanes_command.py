"""`nightreel lanes` shows lanes to people, and as JSON to programs."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from tasks.emulator import Emulator, running

NIGHTREEL = Path(sys.executable).with_name("nightreel")
KEY = "access-5160:" + "secret-5160-" * 3
GENERAL = """
[lanes.night]
route = "wavespeed/wan-2.2"
key = "env:LANE_KEY"
slots = 100
base_url = "{url}/wavespeed"

[lanes.fast]
route = "fal/wan-2.2"
key = "env:LANE_KEY"
base_url = "{url}/fal"
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def lanes(self):
        assert self.out.count("\n") == 1, (self.out, self.err)
        return json.loads(self.out)["lanes"]


@pytest.fixture
def nightreel(tmp_path):
    def run(*words, **env):
        kept = {n: v for n, v in os.environ.items() if not n.startswith("NIGHTREEL_")}
        ran = subprocess.run(
            [NIGHTREEL, "lanes", *words],
            cwd=tmp_path,
            env={**kept, "COLUMNS": "100", "LANE_KEY": KEY, **env},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert "Traceback" not in ran.stderr, ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    return run


@pytest.fixture
def config(tmp_path):
    def write(url="http://127.0.0.1:9", more=""):
        text = GENERAL.format(url=url) + more
        (tmp_path / "nightreel.toml").write_text(text)

    return write


def test_lanes_in_use_are_shown_with_shapes_prices_and_limits(nightreel, config):
    """The lanes in use are shown with their shapes, prices and limits."""
    config()

    shown = nightreel()

    assert (shown.code, shown.err) == (0, "")
    rows = re.split(r"\n\s*\n", shown.out)
    night = next(row for row in rows if row.startswith("night"))
    fast = next(row for row in rows if row.startswith("fast"))
    assert "480p  5 s 0.15, 8 s 0.24" in night
    assert "720p  5 s 0.30, 8 s 0.48" in night
    assert "100 at once, queues" in night
    assert "standard, general" in night
    assert "auto, 16:9, 9:16, 1:1" in fast
    assert "kling" not in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100


def test_the_whole_catalogue_is_shown_without_any_nightreel_toml(nightreel):
    shown = nightreel("--all")

    assert (shown.code, shown.err) == (0, "")
    for text in ("kling/kling-2.5-turbo", "1080p 5 s 0.35", "made by wavespeed"):
        assert text in shown.out
    assert "50 a day" in shown.out
    assert "…" not in shown.out
    assert re.search(r"runway/gen3a-turbo is retired: .*use gen4-turbo", shown.out)
    assert re.search(r"fal/kling-1\.6 is retired: .*use kling-2\.5-turbo", shown.out)
    assert max(map(len, shown.out.splitlines())) <= 100


@pytest.mark.slow
def test_option_sources_shows_source_and_date_of_every_fact(nightreel, config):
    config(more='[routes."fal/wan-2.2".prices_usd]\n480p = { 5 = "0.11" }\n')

    shown = nightreel("--sources", "--lanes", "fast")
    night = nightreel("--sources", "--lanes", "night")

    facts = dict(re.findall(r"^  (\w+) +(\S.*?) *$", shown.out, re.MULTILINE))
    assert facts["prices_usd"] == "nightreel.toml"
    assert facts["endpoints"] == "fal.ai llms.txt of the endpoint, read 2026-11"
    assert re.search(r"^  slots +\[lanes\.night\] *$", night.out, re.MULTILINE)


def test_json_output_is_one_object_with_the_same_facts(nightreel, config):
    config()

    night, *rest = nightreel("--all", "--json").lanes

    assert (night["lane"], night["route"]) == ("night", "wavespeed/wan-2.2")
    assert (night["slots"], night["submits_per_minute"]) == (100, 5)
    assert {"resolution": "720p", "seconds": 5, "usd": 0.3} in night["prices"]
    assert night["sources"]["prices_usd"].startswith("WaveSpeed docs, ")
    assert [each["lane"] for each in rest] == ["fast"] + [None] * (len(rest) - 1)
    retired = {each["route"] for each in rest if each["retired"]}
    assert retired == {"runway/gen3a-turbo", "kling/kling-1.6", "fal/kling-1.6"}


@pytest.mark.slow
def test_check_without_errors_ends_with_0(nightreel, config):
    with running(Emulator(keys=[KEY], credit_usd=Decimal(7))) as url:
        config(url)

        shown = nightreel("--check")
        told = nightreel("--check", "--json")

    assert (shown.code, told.code) == (0, 0)
    [night] = re.findall(r"^night .*$", shown.out, re.MULTILINE)
    assert re.split(r"\s{2,}", night.strip())[2:6] == [
        *("good", "7.00", "there", "as listed")
    ]
    assert [(lane["lane"], lane["key"]) for lane in told.lanes] == [
        *(("night", "good"), ("fast", "good"))
    ]


def test_check_with_an_error_ends_with_1_and_names_it(nightreel, config):
    """A check that finds an error ends with exit code 1 and says what is wrong."""
    dear = '[routes."wavespeed/wan-2.2".prices_usd]\n720p = { 5 = "0.25" }\n'
    with running(Emulator(keys=[KEY])) as url:
        config(url, more=dear)

        shown = nightreel("--check")
        told = nightreel("--check", "--json")
        refused = nightreel("--check", LANE_KEY="sk-not-the-5160")

    night, fast = told.lanes
    assert (shown.code, told.code, refused.code) == (1, 1, 1)
    assert "lane night: wavespeed is dearer" in shown.err
    assert "720p 5 s 0.30, not 0.25" in night["wrong"][0]
    assert fast["wrong"] == []
    assert "lane night: the key is refused" in refused.err
    assert "lane fast: the key is refused" in refused.err
    assert "5160" not in shown.out + refused.out + refused.err


@pytest.mark.slow
def test_invalid_use_ends_with_2(nightreel, config, tmp_path):
    none = nightreel()
    config()
    keyless = nightreel("--check", LANE_KEY="")
    both = nightreel("--check", "--all")
    (tmp_path / "nightreel.toml").write_text("[lanes.night\n")
    broken = nightreel("--all")

    assert [ran.code for ran in (none, keyless, both, broken)] == [2, 2, 2, 2]
    assert "no such file" in none.err
    assert "LANE_KEY is not set, or empty" in keyless.err
    assert "not with --all" in both.err
    assert "not TOML" in broken.err
