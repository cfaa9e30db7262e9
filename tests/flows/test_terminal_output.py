"""Commands print at any encoding of the terminal, and at 60 columns."""

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from flows.views import doubts_table
from flows.views.terminal_table import terminal_table
from tasks.reconcile import DoubtLine

WIDTH = 60
NIGHTREEL = Path(sys.executable).with_name("nightreel")
CONFIG = """
[manifest]
carry = ["légende"]

[lanes.night]
route = "wavespeed/wan-2.2"
key = "env:LANE_KEY"

[lanes.overnight-european-account]
route = "fal/wan-2.2"
key = "env:LANE_KEY"
"""


@pytest.fixture
def nightreel(tmp_path: Path):
    (tmp_path / "nightreel.toml").write_text(CONFIG, "utf-8")

    def run(
        *words: str, code: int = 0, stdout: int = subprocess.PIPE, **env: str
    ) -> subprocess.CompletedProcess[str]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith("NIGHTREEL_")}
        ran = subprocess.run(
            [NIGHTREEL, *words],
            cwd=tmp_path,
            env={**kept, "LANE_KEY": "a-key", **env},
            stdout=stdout,
            stderr=subprocess.PIPE,
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


@pytest.mark.parametrize("more", [(), ("--all",), ("--sources",)])
def test_lanes_fit_60_columns_uncut(nightreel, more: tuple[str, ...]):
    """A terminal too narrow for the table shows each lane as a block of lines."""
    shown = nightreel("lanes", *more, COLUMNS=str(WIDTH)).stdout

    assert max(map(len, shown.splitlines())) <= WIDTH
    assert "…" not in shown
    for whole in (
        "overnight-european-account",
        "fal/wan-2.2",
        "5 s 0.2025, 8 s 0.3225",
    ):
        assert whole in shown


def test_settings_keep_their_names_at_60_columns(nightreel):
    """A terminal, unlike a pipe, wraps values and sources, and no name of a setting."""
    terminal, stdout = pty.openpty()
    reads = ThreadPoolExecutor(1).submit(read_all, terminal)
    try:
        nightreel("config", "show", stdout=stdout, COLUMNS=str(WIDTH), NO_COLOR="1")
    finally:
        os.close(stdout)
    shown = reads.result(timeout=300)

    assert "lanes.night.submits_per_minute" in shown
    assert "engine.max_failure_rate" in shown


def read_all(terminal: int) -> str:
    """The output up to the end, which Linux reports as an error."""
    read = b""
    with contextlib.suppress(OSError):
        while more := os.read(terminal, 65536):
            read += more
    os.close(terminal)
    return read.decode()


def printed(table) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=WIDTH, highlight=False).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_doubts_fit_60_columns_uncut():
    """A job's id and its price stand whole on their lines."""
    lost = "the connection broke off before an answer came from the provider"
    doubts = [
        DoubtLine(
            job=letter * 32,
            lane="kling",
            age_s=6000.0,
            price_usd=Decimal("1234.5678"),
            reason=lost,
            askable=True,
        )
        for letter in "ab"
    ]

    lines = printed(doubts_table(doubts))

    block = [
        "  lane     kling",
        "  age      1 h 40 min",
        "  USD      1,234.5678",
        "  askable  yes",
        "  why      the connection broke off before an answer came",
        "           from the provider",
    ]
    assert lines == ["a" * 32, *block, "", "b" * 32, *block]


def test_a_table_that_fits_stays_a_table():
    table = terminal_table("lane", "clips", "note", right=("clips",), folds=("note",))
    table.add_row("night", "12,000", "a word " * 9)

    lines = printed(table)

    assert lines[0] == "lane    clips  note"
    assert lines[1].startswith("night  12,000  a word a word")
