"""The catalogue of mutants: each still applies, and names tests that exist."""

import ast
from collections import Counter

import pytest

from tests.mutants.catalogue import REPOSITORY, Mutant, catalogue

MUTANTS = catalogue()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: f"{one.file}-{one.breaks}")
def test_mutant_applies_and_is_python(mutant: Mutant):
    """Its old text stands once in its module, and the changed module compiles."""
    text = (REPOSITORY / mutant.file).read_text("utf-8")

    changed = mutant.applied_to(text)

    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))
    assert all((REPOSITORY / path).exists() for path in mutant.tests)


def test_every_mutant_has_a_description_of_its_own():
    described = Counter((one.file, one.breaks) for one in MUTANTS)

    assert max(described.values()) == 1
