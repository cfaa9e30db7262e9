"""Checks the language of code and documentation by the rules of CONTRIBUTING.md.

    check_language.py               fails if a folder has more findings than its baseline
    check_language.py --counts      prints the number of findings of each folder, by rule
    check_language.py --all [PATH]  prints every finding, of the whole repository or below PATH
    check_language.py --lower       writes lower counts to the baseline; never raises one

The baseline holds the number of findings of each folder that were there when the check
was introduced. It may only go down; once it is empty, every finding is a failure.
"""

import argparse
import ast
import io
import json
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
BASELINE: Final = ".ci/language_baseline.json"

CODE: Final = (
    "flows",
    "tasks",
    "storage",
    "manifests",
    "nightreel",
    "tests",
    "benchmarks",
    "examples",
    "docs",
    ".ci",
)
PAGES: Final = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
MESSAGES: Final = frozenset({"flows", "tasks", "storage", "manifests", "nightreel"})
"""Folders whose string literals are read by people: messages, help and log lines."""

LONGEST_TEST_NAME: Final = 60
NAMES: Final = frozenset({"said", "past", "mine", "theirs"})

OPENING: Final = re.compile(r"(?:What|Whoever|Whose|Who|Of|That|Where)\b")
FIRST_SENTENCE: Final = re.compile(r".*?[.?!](?=\s|$)", re.DOTALL)
DIRECTIVE: Final = re.compile(r"#(?:!| ?(?:type|noqa|pyright|ruff|fmt|isort|pragma)\b)")
MACHINE_PATH: Final = re.compile(
    r"\.\./shared\b|(?<![\w.:/~-])/(?:work|Users)/|/home/(?!nightreel\b)\w+/"
)
PHRASES: Final = (
    r"whoever",
    r"whomever",
    r"nobody who",
    r"so many",
    r"by now",
    r"of (?:its|their|one's) own",
    r"one's own",
    r"(?:is|are|was) made of it",
    r"(?:come|comes|came|coming) to nothing",
    r"(?:go|goes|went|going) on with",
    r"(?:is|are|was|were) told",
    r"(?:is|are|was|were) said",
    r"(?:bring|brings|brought) home",
    r"(?:let|lets) go again",
    r"as (?:the |its |their )?\w+ (?:has|have) it",
    r"and the like",
    r"as ever",
    r"of late",
    r"by nature",
    r"lifeboats?",
    r"castaways?",
    r"ballast",
    r"adrift",
    r"aboard",
)
PHRASE: Final = re.compile(
    rf"\b(?:{'|'.join(PHRASES)})\b".replace(" ", r"\s+"), re.IGNORECASE
)

FENCE: Final = re.compile(r"^(```|~~~).*?^\1 *$", re.DOTALL | re.MULTILINE)
SPAN: Final = re.compile(r"`[^`\n]+`")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place that breaks a rule."""

    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        """`path:line: rule: text`, as compilers print it."""
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"


@dataclass(frozen=True, slots=True)
class Prose:
    """Text that a person reads, with the line that it starts at."""

    text: str
    line: int
    opens: bool
    """Whether the rule about a docstring's first word applies."""


def findings(path: str, source: str) -> list[Finding]:
    """Every finding in one file; `path` is relative to the root of the repository."""
    if path.endswith(".py"):
        found = [*_in_python(path, source)]
    else:
        page = SPAN.sub(_blanked, FENCE.sub(_blanked, source))
        found = [*_phrases(path, Prose(page, 1, opens=False))]
    found += _paths(path, source)
    return sorted(found)


def _blanked(code: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", code[0])


def _in_python(path: str, source: str) -> Iterator[Finding]:
    tree = ast.parse(source)
    for prose in (*_comments(source), *_strings(tree, path)):
        yield from _phrases(path, prose)
        if prose.opens and OPENING.match(prose.text) and not _asks(prose.text):
            yield Finding(path, prose.line, "opening", _shown(prose.text))
    for name, line in _bound(tree):
        if name in NAMES:
            yield Finding(path, line, "name", name)
    if _top(path) == "tests":
        yield from _long_tests(path, tree)


def _asks(text: str) -> bool:
    first = FIRST_SENTENCE.match(text)
    return first is not None and first[0].endswith("?")


def _comments(source: str) -> Iterator[Prose]:
    """Each block of comments; a comment after code is a block by itself."""
    block: list[tokenize.TokenInfo] = []
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    for token in tokens:
        if token.type != tokenize.COMMENT or DIRECTIVE.match(token.string):
            continue
        if block and not _continues(block[-1], token):
            yield _joined(block)
            block = []
        block.append(token)
    if block:
        yield _joined(block)


def _continues(above: tokenize.TokenInfo, below: tokenize.TokenInfo) -> bool:
    alone = not below.line[: below.start[1]].strip()
    return alone and below.start == (above.start[0] + 1, above.start[1])


def _joined(block: list[tokenize.TokenInfo]) -> Prose:
    text = "\n".join(token.string.lstrip("#").strip() for token in block)
    return Prose(text, block[0].start[0], opens=True)


def _strings(tree: ast.Module, path: str) -> Iterator[Prose]:
    """Docstrings, those of attributes too; other literals where they are messages."""
    documentation: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text)) as literal):
                documentation.add(id(literal))
                yield Prose(text.lstrip(), node.lineno, opens=True)
            case ast.Constant(value=str(text)) if (
                _top(path) in MESSAGES and id(node) not in documentation
            ):
                yield Prose(text, node.lineno, opens=False)
            case _:
                pass


def _bound(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that the module binds, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.arg(arg=name):
                yield name, node.lineno
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)):
                yield name, node.lineno
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno
            case ast.MatchMapping(rest=str(name)):
                yield name, node.lineno
            case _:
                pass


def _long_tests(path: str, tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("test_") and len(node.name) > LONGEST_TEST_NAME:
            text = f"{node.name} has {len(node.name)} characters"
            yield Finding(path, node.lineno, "test-name", text)


def _phrases(path: str, prose: Prose) -> Iterator[Finding]:
    for match in PHRASE.finditer(prose.text):
        line = prose.line + prose.text.count("\n", 0, match.start())
        around = prose.text[max(0, match.start() - 30) : match.end() + 30]
        text = f"{_shown(match[0])!r} in {_shown(around)!r}"
        yield Finding(path, line, "phrase", text)


def _paths(path: str, source: str) -> Iterator[Finding]:
    for number, line in enumerate(source.splitlines(), 1):
        if match := MACHINE_PATH.search(line):
            yield Finding(path, number, "path", match[0])


def _shown(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 90 else f"{flat[:89]}…"


def _top(path: str) -> str:
    return path.partition("/")[0]


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """The checked files among the paths and below them."""
    for path in paths:
        if path.is_file():
            yield path
        else:
            yield from sorted((*path.rglob("*.py"), *path.rglob("*.md")))


def repository(root: Path) -> list[Path]:
    """Every place that is checked when no path is given."""
    named = [root / name for name in (*CODE, *PAGES)]
    return [path for path in named if path.exists()]


def examine(paths: Iterable[Path], root: Path) -> list[Finding]:
    """Every finding below the paths; the check and its tests quote what it forbids."""
    quoting = {".ci/check_language.py", "tests/test_language.py"}
    named = (
        (path.resolve().relative_to(root).as_posix(), path) for path in files(paths)
    )
    return [
        finding
        for name, path in named
        if name not in quoting
        for finding in findings(name, path.read_text("utf-8"))
    ]


def counted(found: Iterable[Finding]) -> Counter[str]:
    """The number of findings by top folder; a page in the root is its own folder."""
    return Counter(_top(finding.path) for finding in found)


def exceeded(counts: Counter[str], baseline: dict[str, int]) -> list[str]:
    """A message for each folder that has more findings than its baseline."""
    return [
        f"{top}: {count} findings, the baseline allows {baseline.get(top, 0)}. "
        f"List them: python3 .ci/check_language.py --all {top}"
        for top, count in sorted(counts.items())
        if count > baseline.get(top, 0)
    ]


def lowered(counts: Counter[str], baseline: dict[str, int]) -> dict[str, int]:
    """The baseline with each count that has gone down; a folder without any leaves it."""
    lower = {top: min(count, counts[top]) for top, count in baseline.items()}
    return {top: count for top, count in sorted(lower.items()) if count}


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Runs one of the four forms above; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--counts", action="store_true", help="findings by folder")
    form.add_argument("--all", nargs="*", metavar="PATH", type=Path)
    form.add_argument("--lower", action="store_true", help="write lower counts")
    asked = parser.parse_args(arguments)
    found = examine(asked.all or repository(root), root)
    if asked.all is not None:
        print(*found, f"{len(found)} findings", sep="\n")
        return 1 if found else 0
    counts = counted(found)
    if asked.counts:
        _print_counts(found)
        return 0
    kept = root / BASELINE
    baseline: dict[str, int] = json.loads(kept.read_text()) if kept.exists() else {}
    if asked.lower:
        kept.write_text(f"{json.dumps(lowered(counts, baseline), indent=2)}\n")
        return 0
    complaints = exceeded(counts, baseline)
    print(*complaints, sep="\n", end="\n" if complaints else "", file=sys.stderr)
    return 1 if complaints else 0


def _print_counts(found: list[Finding]) -> None:
    for top, count in sorted(counted(found).items()):
        rules = Counter(each.rule for each in found if _top(each.path) == top)
        listed = ", ".join(f"{rule} {n}" for rule, n in sorted(rules.items()))
        print(f"{top:16} {count:5}  {listed}")
    print(f"{'all':16} {len(found):5}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
