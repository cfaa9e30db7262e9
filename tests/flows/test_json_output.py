"""Commands print the fields that docs/reference/json-output.md names."""

import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "json-output.md"


def documented(command: str) -> list[str]:
    """The fields of a command: the code spans of its section's first column."""
    section = PAGE.read_text("utf-8").partition(f"\n## nightreel {command}\n")[2]
    section = section.partition("\n## ")[0]
    cells = re.findall(r"(?m)^\| (`[^|]+) \|", section)
    return sorted(field for cell in cells for field in re.findall(r"`(\w+)`", cell))


def listed(text: str) -> list[str]:
    """The fields of a list's entries, which the page names in one sentence."""
    page = PAGE.read_text("utf-8")
    sentence = page.partition(text)[2].partition(". ")[0].partition(".\n")[0]
    return sorted(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", sentence)))


def test_json_fields_are_documented(bench):
    """A program that reads the page finds each field, and no other."""
    bench.manifest(2)
    assert bench.run().code == 0
    commands = {
        "check": ["check", "m.parquet"],
        "plan": ["plan", "m.parquet"],
        "status": ["status", "root"],
        "reconcile": ["reconcile", "root"],
    }

    ran = bench.each(*([*words, "--json"] for words in commands.values()))

    found = {name: sorted(one.reply) for name, one in zip(commands, ran, strict=True)}
    assert found == {name: documented(name) for name in commands}


def test_json_lists_are_documented(bench):
    """The entries of lanes, of the check and of the settings have the named fields."""
    lanes, checked, config = bench.each(
        ["lanes", "--json"],
        ["lanes", "--check", "--json"],
        ["config", "show", "--json"],
    )

    assert sorted(lanes.reply["lanes"][0]) == listed("list with these fields:")
    assert sorted(checked.reply["lanes"][0]) == listed("With `--check`:")
    assert sorted(config.reply["settings"][0]) == listed("`settings` is a list of")
