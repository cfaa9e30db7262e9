"""Reads the fields of a submit as providers do: by name, type and range."""

from collections.abc import Collection, Mapping
from typing import Any

from tasks.emulator.refusals import BadInputError


def text(asked: Mapping[str, Any], field: str) -> str:
    """A field that has to be there and say something."""
    match asked.get(field):
        case str(value) if value.strip():
            return value
        case None | str():
            raise BadInputError(field, "missing", f"{field}: field required")
        case other:
            said = f"{field}: input should be a valid string"
            raise BadInputError(field, "string_type", said, value=other)


def choice(
    asked: Mapping[str, Any], field: str, default: str, allowed: Collection[str]
) -> str:
    """One word out of a few."""
    match asked.get(field):
        case None:
            return default
        case str(value) if value in allowed:
            return value
        case other:
            said = f"{field}: must be one of {', '.join(sorted(allowed))}"
            expected = {"expected": sorted(allowed)}
            raise BadInputError(field, "one_of", said, value=other, limits=expected)


def whole(asked: Mapping[str, Any], field: str, default: int) -> int:
    """A whole number."""
    match asked.get(field):
        case None:
            return default
        case int(value) if not isinstance(value, bool):
            return value
        case other:
            said = f"{field}: input should be a valid integer"
            raise BadInputError(field, "int_type", said, value=other)


def between(
    asked: Mapping[str, Any], field: str, default: int, *, low: int, high: int
) -> int:
    """A whole number within limits."""
    value = whole(asked, field, default)
    if value < low:
        said = f"ensure this value is greater than or equal to {low}"
        limits = {"ge": low}
        kind = "greater_than_equal"
    elif value > high:
        said = f"ensure this value is less than or equal to {high}"
        limits = {"le": high}
        kind = "less_than_equal"
    else:
        return value
    raise BadInputError(field, kind, said, value=value, limits=limits)


def share(asked: Mapping[str, Any], field: str) -> None:
    """A number from 0 to 1, which makes no difference here."""
    match asked.get(field):
        case None:
            return
        case int(value) | float(value) if value is not True and 0 <= value <= 1:
            return
        case other:
            said = f"{field}: must be a number from 0 to 1"
            raise BadInputError(field, "less_than_equal", said, value=other)


def out_of(
    asked: Mapping[str, Any], field: str, default: int, allowed: Collection[int]
) -> int:
    """A whole number out of a few."""
    value = whole(asked, field, default)
    if value not in allowed:
        listed = ", ".join(map(str, sorted(allowed)))
        said = f"{field}: must be one of {listed}"
        expected = {"expected": sorted(allowed)}
        raise BadInputError(field, "one_of", said, value=value, limits=expected)
    return value


def seed(asked: Mapping[str, Any]) -> int | None:
    """The seed asked for; -1 and none leave it to the provider."""
    value = whole(asked, "seed", -1)
    if not -1 <= value < 2**31:
        said = "seed: must be between -1 and 2147483647"
        raise BadInputError("seed", "less_than_equal", said, value=value)
    return None if value == -1 else value
