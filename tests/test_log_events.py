"""The log events in the code and their reference table in the documentation."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("nightreel", "flows", "tasks", "storage", "manifests")
LEVELS = {
    **{name: name for name in ("debug", "info", "warning", "error")},
    "exception": "error",
    "log": "",
}
FORM = re.compile(
    r"(?P<event>[a-z]+\.[a-z_]+)(?: [a-z_]+=%(?:\.\d)?[sdrfg])* (?![a-z_]+=)\S.*"
)
ROW = re.compile(r"\| `(?P<event>[^`]+)` \| (?P<level>[a-z]+) \| [^|]+\. \| [^|]+ \|")


def calls() -> Iterator[tuple[str, str, str]]:
    """The place, level and template of each call of a module's `log`."""
    for path in (each for name in PACKAGES for each in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level),
                    args=[first, *others],
                ) if level in LEVELS:
                    template = others[0] if level == "log" else first
                    text = template.value if isinstance(template, ast.Constant) else ""
                    place = f"{path.relative_to(ROOT)}:{node.lineno}"
                    yield place, LEVELS[level], str(text)


def rows() -> dict[str, str]:
    page = ROOT / "docs" / "reference" / "log-events.md"
    lines = page.read_text("utf-8").partition("## Events")[2].splitlines()
    found = [ROW.fullmatch(line) for line in lines if line.startswith("| `")]
    assert None not in found
    assert len(found) == len({row["event"] for row in found if row})
    return {row["event"]: row["level"] for row in found if row}


def test_log_calls_have_the_documented_form():
    """Each is `event key=value … message`, written out in the call."""
    odd = [(place, text) for place, _, text in calls() if not FORM.fullmatch(text)]

    assert odd == []


def test_log_events_are_all_in_the_table():
    """The reference has each event of the code at its level, and no other."""
    known = rows()
    logged = {
        text.partition(" ")[0]: level or known.get(text.partition(" ")[0], "")
        for _, level, text in calls()
    }

    assert logged == known
    assert list(known) == sorted(known)


def test_log_events_have_one_level():
    """An event means the same wherever it is logged."""
    levels: dict[str, set[str]] = {}
    for _, level, text in calls():
        levels.setdefault(text.partition(" ")[0], set()).add(level)

    assert {name for name, each in levels.items() if len(each) > 1} == set()


@pytest.mark.parametrize(
    "text",
    [
        "lane.closed lane=%s",
        "closed lane=%s because",
        "%s went away",
        "lane.closed",
    ],
)
def test_log_form_refuses_other_forms(text):
    """An event without a message, and a message without an event, are found."""
    assert FORM.fullmatch(text) is None
