"""The documentation: generated parts are up to date, links lead somewhere."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from docs.tools import generate, provider_tables
from docs.tools.glossary_links import linked
from docs.tools.markdown import UnknownPartError, filled, names
from docs.tools.settings_tables import settings_table
from flows.config import EngineSettings, LaneSettings
from storage import layout
from tasks.providers import PROVIDERS

WRITTEN = [*generate.pages()]
PAGES = [*WRITTEN, generate.ROOT / "CONTRIBUTING.md"]
PROVIDER_PAGE = generate.DOCS / "reference" / "providers.md"
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return page.relative_to(generate.ROOT).as_posix()


@cache
def prose(page: Path) -> str:
    """The page without its code."""
    return CODE.sub("", page.read_text("utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text("utf-8"))
    heads = re.findall(r"(?m)^#+ (.+)$", text)
    kept = (re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads)
    return frozenset(re.sub(r"\s", "-", head) for head in kept)


def rows(table):
    """A table's cells, by the first of their row and the head of their column."""
    head, _, *lines = [
        [cell.strip(" *") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in table.splitlines()
    ]
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_page_is_up_to_date(page):
    """The generated parts and glossary links are as `make docs` writes them."""
    message = f"{name(page)} is out of date: run `make docs`"

    assert generate.written(page) == page.read_text("utf-8"), message


def test_each_part_is_on_one_page():
    """Each fact stands once."""
    found = [part for page in PAGES for part in names(page.read_text("utf-8"))]

    assert sorted(found) == sorted(generate.PARTS)


def test_text_around_a_part_is_kept():
    """Only the text between the two marks is replaced."""
    page = "a\n<!-- x: written by `make docs` -->\nold\n<!-- end of x -->\nb\n"

    new = filled(page, {"x": lambda: "new"})

    assert new == page.replace("\nold\n", "\n\nnew\n\n")


def test_unknown_part_is_an_error():
    """A mark with a misspelt name is not left empty."""
    page = "<!-- x: written by `make docs` -->\n<!-- end of x -->\n"

    with pytest.raises(UnknownPartError, match="x"):
        filled(page, {})


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_a_page_and_heading(page):
    """Each relative link names a file of the repository and a heading in it."""
    broken = []
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


def test_site_builds_without_a_warning(tmp_path):
    """Each page has a place in the site, and MkDocs finds no broken link."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-d",
        tmp_path / "site",
    ]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}

    built = subprocess.run(
        command,
        cwd=generate.ROOT,
        env=quiet,
        capture_output=True,
        text=True,
        check=False,
    )

    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "how-to" / "doubts" / "index.html").exists()


def test_each_page_is_in_the_index():
    """A page that the index does not name is not found."""
    index = generate.DOCS / "index.md"
    listed = {(index.parent / link).resolve() for link in LINK.findall(prose(index))}

    missing = {*generate.DOCS.rglob("*.md")} - listed - {index}

    assert missing == set()


def test_page_of_the_root_names_each_place():
    """A folder or object below the root that the page leaves out puzzles its owner."""
    page = (generate.DOCS / "reference" / "root.md").read_text("utf-8")
    facts = vars(layout).items()
    keys = [key for name, key in facts if name.isupper() and isinstance(key, str)]

    assert len(keys) > 5
    assert [key for key in keys if key not in page] == []


def test_glossary_has_one_sentence_for_each_word():
    """Each entry is one sentence below a heading; the headings are in alphabetical order."""
    text = generate.GLOSSARY.read_text("utf-8")
    entries = re.findall(r"(?m)^### (.+)\n\n(.+)\n", text)
    words = [word for word, _ in entries]

    assert len(words) == text.count("### ")
    assert words == sorted(words)
    sentences = [text.removeprefix("*Nightreel.* ") for _, text in entries]
    assert [
        text for text in sentences if not re.fullmatch(r"[A-Z][^!?]*\.", text)
    ] == []


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("A lane.\nLanes.\n", "A [lane](g.md#lane).\nLanes.\n"),
        ("Two lanes.\n", "Two [lanes](g.md#lane).\n"),
        ("It is in\ndoubt.\n", "It is [in\ndoubt](g.md#in-doubt).\n"),
        ("A [lane](g.md#lane) and a lane.\n", None),
        ("# Lanes\n", None),
        ("`lane`\n", None),
        ("```toml\n[lanes.a]\n```\n", None),
        ("| lane |\n", None),
        ("See [the lane](a.md).\n", None),
        ("`--root` is not rooted in an airplane.\n", None),
    ],
)
def test_first_use_of_a_word_is_linked(page, expected):
    """The first use in prose leads to the glossary; code, headings and tables do not."""
    assert linked(page, "g.md") == (page if expected is None else expected)


def test_settings_table_tells_type_and_default():
    """The schema's types, limits and defaults are in words."""
    lanes, engine = (
        rows(settings_table(LaneSettings)),
        rows(settings_table(EngineSettings)),
    )

    assert lanes["`route`"]["default"] == "required"
    assert lanes["`slots`"]["type"] == "whole number, 1 or more"
    assert lanes["`slots`"]["default"] == "the limit of a new account"
    assert lanes["`usd_per_day`"]["type"] == "USD"
    assert engine["`grace_s`"]["type"] == "number, 0 to 25"
    assert engine["`settle_s`"]["default"] == "`60`"


def test_command_line_has_each_option_once():
    """Names that typer derives, and names that a command declares, are both there."""
    text = generate.PARTS["commands"]()
    run = text.partition("## nightreel run\n")[2].partition("\n## ")[0]
    options = rows(run[run.index("| parameter") :].strip())

    assert "    nightreel run MANIFEST --root ROOT [OPTIONS]\n" in run
    assert options["`--finish-by`"]["value"] == "text"
    assert options["`--json`"]["value"] == ""
    assert options["`--limit`"]["value"] == "whole number, 1 or more"
    assert options["`--policy`"]["value"] == "`balanced`, `cheapest`, `fastest`"
    assert "`--stills`, `--no-stills`" in text
    assert "## nightreel config show\n" in text


@pytest.mark.parametrize("provider", PROVIDERS)
def test_provider_has_its_tables_in_its_section(provider):
    """Each provider's section ends with its own answers."""
    head = f"\n## {provider_tables.DISPLAY_NAMES[provider]}\n"
    section = PROVIDER_PAGE.read_text("utf-8").partition(head)[2].partition("\n## ")[0]

    assert names(section) == [f"answers-{provider}"]


@pytest.mark.parametrize(
    ("provider", "kind", "answer"),
    [
        ("fal", "auth", "401"),
        ("kling", "credit", "1100, 1101, 1102"),
        ("runway", "credit", "400 saying “not have enough credits”"),
        ("302ai", "credit", "-10004; -10006"),
        ("atlas", "permission", "403; 404 to a submit; 451"),
        ("wavespeed", "content", "1200"),
        ("kling", "concurrency", "1303"),
        ("runway", "daily cap", "429 saying “daily task limit”"),
        ("atlas", "not found", "400, 404"),
        ("kling", "not found", "404, 1203"),
        ("replicate", "not found", "404"),
    ],
)
def test_refusal_is_in_the_provider_words(provider, kind, answer):
    """The table has the codes and texts that the adapter knows."""
    (dialect, *_) = provider_tables.dialects(provider)

    assert rows(provider_tables.refusals(dialect))[kind]["answer"] == answer


def test_resold_dialect_has_tables_too():
    """302.AI passes WaveSpeed's answers on, and charges otherwise."""
    _, resold = provider_tables.dialects("302ai")

    assert rows(provider_tables.refusals(resold))["content"]["answer"] == "1200"
    assert "unknown: counted as charged" in provider_tables.failures(resold)


def test_effect_of_a_refusal_is_told():
    """The kinds and what Nightreel does about each."""
    kinds = rows(provider_tables.effects())

    assert kinds["throttled"]["Nightreel"] == "waits, and submits less often"


def test_unstated_failure_counts_as_charged():
    """A failure of which no page says whether it is charged counts as charged."""
    assert (
        "| invalid | 400 or 422 of any other kind | unknown: counted as charged | "
        "is rejected | docs, errors: a 422 may be billed, read 2026-11 |"
    ) in provider_tables.answers("fal")
    assert re.search(
        r"\| server \|.*\| no \| may be submitted again \|",
        provider_tables.answers("wavespeed"),
    )


@pytest.mark.parametrize(
    ("provider", "accepted", "cost", "hook"),
    [
        ("fal", "no", "no", "`fal_webhook` in the query"),
        ("Atlas Cloud", "no", "no", "`webhook_url` in the body"),
        ("Replicate", "yes", "no", "`webhook` in the body"),
        ("Runway", "no", "yes", "none"),
        ("WaveSpeed", "yes", "no", "`webhook` in the query"),
    ],
)
def test_questions_are_found_by_use(provider, accepted, cost, hook):
    """The table says what the adapter does, not what somebody wrote about it."""
    assert [*rows(provider_tables.questions())[provider].values()] == [
        *(provider, accepted, cost, hook)
    ]


def test_unverifiable_webhook_is_not_used():
    """A provider whose webhooks cannot be verified is not believed."""
    hook = rows(provider_tables.questions())["Kling"]["webhook address"]

    assert hook.startswith("`callback_url` in the body; not used")
