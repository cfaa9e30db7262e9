"""Markdown that stays what it is meant to be, whatever other people's words are in it."""

from collections.abc import Iterable, Sequence

from manifests.uris import unsigned


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1
) -> str:
    """A table whose first columns are words; the others are figures, digit below digit."""
    rule = ["---" if n < words else "---:" for n in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def safe(text: str) -> str:
    """Other people's words, so that they stay in their cell of a table."""
    flat = " ".join(text.split())
    for mark in "\\`|<>[]*_":
        flat = flat.replace(mark, f"\\{mark}" if mark != "<" else "&lt;")
    return flat


def bare(uri: str) -> str:
    return unsigned(uri).replace("`", "")
