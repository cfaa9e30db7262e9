"""Markdown tables, with other people's words escaped."""

from collections.abc import Iterable, Sequence

from manifests.uris import unsigned


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1
) -> str:
    """A table: the first columns are left-aligned words, the others right-aligned figures."""
    rule = ["---" if n < words else "---:" for n in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def safe(text: str) -> str:
    """Text escaped so that it stays in its table cell."""
    flat = " ".join(text.split())
    for mark in "\\`|<>[]*_":
        flat = flat.replace(mark, f"\\{mark}" if mark != "<" else "&lt;")
    return flat


def bare(uri: str) -> str:
    return unsigned(uri).replace("`", "")
