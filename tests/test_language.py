"""The language check finds each forbidden form, and passes plain sentences."""

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "check_language.py"


@pytest.fixture(scope="module")
def language():
    spec = importlib.util.spec_from_file_location("check_language", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def rules(language, source, path="tasks/a.py"):
    return [(each.rule, each.line) for each in language.findings(path, source)]


@pytest.mark.parametrize(
    "source",
    [
        '"""What the run does."""\n',
        '"""Who writes the ledger."""\n',
        '"""Whose key it is."""\n',
        '"""Of a closed ledger, the error."""\n',
        '"""That it was sent."""\n',
        '"""Where clips are kept."""\n',
        "# What is kept.\n",
        "a = 1  # What is kept.\n",
    ],
)
def test_opening_without_subject_is_found(language, source):
    """A docstring or comment may not open with a clause that lacks a subject."""
    assert [rule for rule, _ in rules(language, source)] == ["opening"]


@pytest.mark.parametrize(
    "source",
    [
        '"""Stops buying below a root."""\n',
        '"""Whether the price could be reserved."""\n',
        '"""Who owns the root? Its last claim says so."""\n',
        "# Where does a lost answer go? To `in_doubt`.\n",
        "#! What a shell would run\n",
        "# The store answers late.\n# What it answers is compared.\n",
        'a = "What it is"\n',
    ],
)
def test_plain_opening_passes(language, source):
    """Questions, continuation lines and strings are no openings."""
    assert rules(language, source) == []


def test_attribute_docstring_is_checked(language):
    """A string below an attribute is documentation too."""
    source = 'class Lane:\n    slots: int\n    """What it holds."""\n'

    assert rules(language, source) == [("opening", 3)]


@pytest.mark.parametrize(
    "sentence",
    [
        "Whoever runs it answers for it",
        "Two runs share so many slots",
        "It was bought by now",
        "A process of its own",
        "A GPU of one's own",
        "The job came to nothing",
        "The run goes on with the rest",
        "The user is told at once",
        "The clip is brought home",
    ],
)
def test_banned_phrase_is_found(language, sentence):
    """A banned phrase is found in documentation, comments, messages and pages."""
    assert rules(language, f'"""The law. {sentence}."""\n') == [("phrase", 1)]
    assert rules(language, f"# The law.\n# {sentence}.\n") == [("phrase", 2)]
    assert rules(language, f'raise ValueError("{sentence}")\n') == [("phrase", 1)]
    assert rules(language, f"# Title\n\n{sentence}.\n", "docs/a.md") == [("phrase", 3)]


def test_phrase_over_a_line_break_is_found(language):
    """A line break does not hide a phrase."""
    page = "The job came to\nnothing.\n"

    assert rules(language, page, "README.md") == [("phrase", 1)]


@pytest.mark.parametrize(
    "page",
    [
        "The next run resumes the batch and fetches its clips.\n",
        "```console\n$ nightreel run  # whoever runs it\n```\n",
        "The log has `ledger.lifeboat`.\n",
    ],
)
def test_plain_page_passes(language, page):
    """Code in a page is quoted, not written."""
    assert rules(language, page, "docs/a.md") == []


def test_strings_of_tests_are_not_messages(language):
    """A test may quote a message that its own folder does not write."""
    source = 'assert "is told" in text\n'

    assert rules(language, source, "tests/test_a.py") == []
    assert rules(language, source, "flows/a.py") == [("phrase", 1)]


@pytest.mark.parametrize(
    "source",
    [
        "said = 1\n",
        "self.past = 1\n",
        "for mine in (): pass\n",
        "def a(theirs): pass\n",
        "def said(): pass\n",
        "class said: pass\n",
        "import a as past\n",
        "try: pass\nexcept ValueError as said: pass\n",
        "match a:\n    case [*said]: pass\n",
        "match a:\n    case {**said}: pass\n",
        "match a:\n    case int() as said: pass\n",
        "with a as said: pass\n",
        "(said := 1)\n",
        "[said for said in a]\n",
    ],
)
def test_vague_name_is_found_where_bound(language, source):
    """Names that say nothing are found in every binding."""
    assert [rule for rule, _ in rules(language, source)] == ["name"]


def test_vague_name_may_be_read(language):
    """Only a binding is ours; another library's attribute may have any name."""
    assert rules(language, "a = b.said\n") == []


def test_long_test_name_is_found(language):
    """A test's name has at most 60 characters."""
    fits = f"test_{'a' * 55}"
    source = f"def {fits}(): pass\nasync def {fits}b(): pass\n"

    assert rules(language, source, "tests/test_a.py") == [("test-name", 2)]
    assert rules(language, source, "tasks/a.py") == []


@pytest.mark.parametrize(
    "folders", [("..", "shared", "a.md"), ("", "work", "main"), ("", "home", "me", "a")]
)
def test_machine_path_is_found(language, folders):
    """No file names a place that only one machine has."""
    path = "/".join(folders)
    assert rules(language, f'a = "{path}"\n') == [("path", 1)]
    assert rules(language, f"See {path}.\n", "README.md") == [("path", 1)]


@pytest.mark.parametrize(
    "folders",
    [("https://example.org", "work", "a"), ("flows", "work"), ("/home/nightreel", "a")],
)
def test_other_path_passes(language, folders):
    """A URL, a relative path and the container's own home are no machine's."""
    text = "/".join(folders)
    assert rules(language, f'a = "{text}"\n') == []


def test_more_findings_than_baseline_fail(language):
    """A folder that is not in the baseline may have none."""
    counts = Counter({"flows": 3, "tasks": 2, "docs": 1})

    messages = language.exceeded(counts, {"flows": 2, "tasks": 2})

    assert [message.partition(":")[0] for message in messages] == ["docs", "flows"]
    assert "3 findings, the baseline allows 2" in messages[1]


def test_baseline_only_goes_down(language):
    """Lowering writes fewer findings, never more, and drops a clean folder."""
    counts = Counter({"flows": 9, "tasks": 1})
    baseline = {"flows": 5, "tasks": 4, "tests": 3}

    assert language.lowered(counts, baseline) == {"flows": 5, "tasks": 1}


def test_findings_fail_the_command(language, tmp_path, capsys):
    """Listing prints every finding with its place, and exits with 1."""
    page = tmp_path / "docs" / "a.md"
    page.parent.mkdir()
    page.write_text("Whoever reads this.\n")

    code = language.main(["--all", str(page)], tmp_path)

    assert code == 1
    assert capsys.readouterr().out.startswith("docs/a.md:1: phrase: 'Whoever' in")


def test_clean_files_pass_the_command(language, tmp_path):
    """Without findings, both forms exit with 0."""
    (tmp_path / "README.md").write_text("Nightreel buys each clip once.\n")

    assert language.main(["--all"], tmp_path) == 0
    assert language.main([], tmp_path) == 0


def test_command_lowers_and_holds_the_baseline(language, tmp_path, capsys):
    """One finding more than the baseline fails; one fewer lowers it."""
    baseline = tmp_path / ".ci" / "language_baseline.json"
    baseline.parent.mkdir()
    baseline.write_text('{"README.md": 2}')
    page = tmp_path / "README.md"

    page.write_text("Whoever, whoever, whoever.\n")
    assert language.main([], tmp_path) == 1
    assert "README.md: 3 findings" in capsys.readouterr().err

    page.write_text("Whoever.\n")
    assert language.main(["--lower"], tmp_path) == 0
    assert json.loads(baseline.read_text()) == {"README.md": 1}
