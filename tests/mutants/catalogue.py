"""Reads the mutants from the TOML files beside it."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """One change of a module, and the tests of which one must fail."""

    file: str
    breaks: str
    """The fault that the change plants."""
    old: str
    new: str
    tests: tuple[str, ...]

    def applied_to(self, text: str) -> str:
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.file}: {self.breaks}: {count} places, not one")
        return text.replace(self.old, self.new)


def catalogue() -> list[Mutant]:
    """Every mutant, by file."""
    return [
        Mutant(module["file"], breaks, old, new, tuple(module["tests"]))
        for path in sorted(Path(__file__).parent.glob("*.toml"))
        for module in tomllib.loads(path.read_text("utf-8"))["module"]
        for breaks, old, new in module["mutants"]
    ]
