"""docs/reference/providers.md says what the code does."""

import re

import pytest

from tasks import wording
from tasks.providers import PROVIDERS


@pytest.fixture(scope="module")
def page():
    return wording.PAGE.read_text("utf-8")


def rows(table):
    """A table's cells, by the first of their row and the head of their column."""
    head, _, *lines = [
        [cell.strip(" *") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in table.splitlines()
    ]
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def test_the_page_is_what_the_code_says(page):
    said = "docs/reference/providers.md is not what the adapters say by now: run `make docs`"

    assert wording.written(page) == page, said


@pytest.mark.parametrize("table", ["words", "failures", "questions"])
def test_the_page_has_a_place_for_each_table(page, table):
    stale = re.sub(r"(?m)^\|.*\n", "", page)

    place = rf"<!-- {table}: written by `make docs` -->\n\n\|.*?<!-- end of {table} -->"
    assert re.search(place, wording.written(stale), re.DOTALL)


def test_what_people_wrote_is_left_as_it_is(page):
    prose = re.compile(r"(?m)^\|.*\n")

    page = page.replace("An adapter only translates.", "An adapter | only translates.")

    assert prose.sub("", wording.written(page)) == prose.sub("", page)


def test_every_provider_has_a_section_of_its_own(page):
    heads = re.findall(r"(?m)^## (.+)$", page)

    assert [name for name in PROVIDERS if wording.CALLED[name] not in heads] == []


@pytest.mark.parametrize(
    ("word", "provider", "told"),
    [
        ("auth", "fal", "401"),
        ("credit", "Kling", "1100, 1101, 1102"),
        ("credit", "Runway", "400 saying “not have enough credits”"),
        ("credit", "302.AI", "-10004; -10006"),
        ("permission", "Atlas Cloud", "403; 404 to a submit; 451"),
        ("content", "WaveSpeed", "1200"),
        ("concurrency", "Kling", "1303"),
        ("daily cap", "Runway", "429 saying “daily task limit”"),
        ("throttled", "Nightreel", "waits, and submits less often"),
        ("not found", "Atlas Cloud", "400, 404"),
        ("not found", "Kling", "404, 1203"),
        ("not found", "Replicate", "404"),
    ],
)
def test_a_word_is_told_as_the_provider_tells_it(word, provider, told):
    assert rows(wording.words())[word][provider] == told


def test_what_nobody_says_of_a_failure_is_counted_as_charged():
    told = wording.failures()

    assert (
        "| fal | invalid | 400 or 422 of any other kind | unknown: counted as charged | "
        "the row is rejected | docs, errors: a 422 may be billed, read 2026-11 |"
    ) in told
    assert re.search(r"\| WaveSpeed \| server \|.*\| no \| it may go again \|", told)


@pytest.mark.parametrize(
    ("provider", "accepted", "charged", "hook"),
    [
        ("fal", "", "", "`fal_webhook` in the query"),
        ("Atlas Cloud", "", "", "`webhook_url` in the body"),
        ("Replicate", "yes", "", "`webhook` in the body"),
        ("Runway", "", "yes", ""),
        ("WaveSpeed", "yes", "", "`webhook` in the query"),
    ],
)
def test_who_can_be_asked_is_found_by_trying(provider, accepted, charged, hook):
    assert [*rows(wording.questions())[provider].values()] == [
        *(provider, accepted, charged, hook)
    ]


def test_a_webhook_that_cannot_be_verified_is_not_used():
    told = rows(wording.questions())["Kling"]["told where to call back"]

    assert told.startswith("`callback_url` in the body; not used")
