"""A provider's words are kept without keys, and without holes in plain words."""

import pytest

from tasks.providers.parsing import redact


@pytest.mark.parametrize("key", ["e", "any", "a:b", "", "demo:any", "1234567"])
def test_short_key_masks_nothing(key):
    """A key of a few letters also occurs in ordinary words."""
    assert redact("any demo: bee 1234567", key) == "any demo: bee 1234567"


@pytest.mark.parametrize("part", ["ACCESS-0", "SECRET-01", "ACCESS-0:SECRET-01"])
def test_each_part_of_a_key_is_masked(part):
    """Both parts of a key are secrets, and so is the whole."""
    assert redact(f"for {part} no", "ACCESS-0:SECRET-01") == "for *** no"
