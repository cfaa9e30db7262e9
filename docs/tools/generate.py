"""Writes the generated parts of the documentation, and the links to the glossary.

`make docs` runs it. A page marks a generated part with two comments that name it:

    <!-- states: written by `make docs` -->
    <!-- end of states -->

tests/test_documentation.py fails if a page is not as this program would write it.
"""

from collections.abc import Iterator
from os.path import relpath
from pathlib import Path
from typing import Final

from docs.tools import (
    code_facts,
    commands,
    provider_tables,
    python_api,
    settings_tables,
)
from docs.tools.glossary_links import linked
from docs.tools.markdown import Parts, filled

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
GLOSSARY: Final = DOCS / "glossary.md"

PARTS: Final[Parts] = {
    **code_facts.PARTS,
    **commands.PARTS,
    **provider_tables.PARTS,
    **python_api.PARTS,
    **settings_tables.PARTS,
}


def pages() -> Iterator[Path]:
    """Every page of the documentation, and the README."""
    yield ROOT / "README.md"
    yield from sorted(DOCS.rglob("*.md"))


def written(page: Path) -> str:
    """The text of the page, with its generated parts and its links to the glossary."""
    text = filled(page.read_text("utf-8"), PARTS)
    if page == GLOSSARY:
        return text
    return linked(text, relpath(GLOSSARY, page.parent))


def main() -> None:
    """Write every page that is not as it should be."""
    for page in pages():
        text = written(page)
        if text != page.read_text("utf-8"):
            page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
