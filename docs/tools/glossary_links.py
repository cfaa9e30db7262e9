"""Links from the first use of a house word on a page to the glossary."""

import re
from collections.abc import Iterator
from typing import Final

LINKED: Final = (
    "attempt",
    "batch",
    "epoch",
    "in doubt",
    "job",
    "lane",
    "ledger",
    "manifest",
    "root",
    "route",
    "shard",
    "sidecar",
    "ticket",
)
"""Words that a stranger may not know, or knows with another meaning."""

NOT_PROSE: Final = re.compile(
    r"""
      ^(?P<fence>```|~~~).*?^(?P=fence)      # a block of code
    | ^<!--\ (?P<part>\S+):.*?<!--\ end\ of\ (?P=part)\ -->   # a generated part
    | ^\ {4}.*?$                             # an indented block of code
    | ^\#.*?$                                # a heading
    | ^\|.*?$                                # a row of a table
    | `[^`]+`                                # a code span
    | !?\[[^\]]*\]\([^)]*\)                  # a link, an image
    | <[^>]+>                                # a URL
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)


def linked(page: str, glossary: str) -> str:
    """The page with the first use of each word in its prose linked to the glossary.

    `glossary` is the path from the page to the glossary.
    """
    for start, end, word in sorted(_unlinked(page, glossary), reverse=True):
        link = f"[{page[start:end]}]({_target(word, glossary)})"
        page = page[:start] + link + page[end:]
    return page


def _unlinked(page: str, glossary: str) -> Iterator[tuple[int, int, str]]:
    prose = NOT_PROSE.sub(lambda match: " " * len(match[0]), page)
    for word in LINKED:
        pattern = word.replace(" ", r"\s+")
        plural = "(?:es)?" if word.endswith("ch") else "s?"
        use = re.search(
            rf"(?<![\w/.-]){pattern}{plural}(?![\w/-])", prose, re.IGNORECASE
        )
        target = page.find(f"]({_target(word, glossary)})")
        if use is not None and not -1 < target < use.start():
            yield use.start(), use.end(), word


def _target(word: str, glossary: str) -> str:
    return f"{glossary}#{word.replace(' ', '-')}"
