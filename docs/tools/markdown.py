"""Markdown tables, and the marked parts of a page that `make docs` writes."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

Parts = Mapping[str, Callable[[], str]]
"""The generated parts of the documentation by name."""

MARKED: Final = re.compile(
    r"(<!-- (?P<name>\S+): written by `make docs` -->\n).*?(<!-- end of (?P=name) -->)",
    re.DOTALL,
)
"""A generated part with the two comments around it."""


class UnknownPartError(KeyError):
    """A page has a mark for a part that nothing generates."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def code(text: object) -> str:
    """Text in a code span."""
    return f"`{text}`"


def filled(page: str, parts: Parts) -> str:
    """The page with each marked part generated anew.

    Raises:
        UnknownPartError: nothing generates a part that the page has a mark for.
    """

    def part(mark: re.Match[str]) -> str:
        if mark["name"] not in parts:
            raise UnknownPartError(mark["name"])
        return f"{mark[1]}\n{parts[mark['name']]()}\n\n{mark[3]}"

    return MARKED.sub(part, page)


def names(page: str) -> list[str]:
    """The names of the parts that the page has marks for."""
    return [mark["name"] for mark in MARKED.finditer(page)]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
