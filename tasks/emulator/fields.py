"""Checks the fields of a submit as providers do: by name, type and range."""

from collections.abc import Collection, Mapping
from typing import Any

from tasks.emulator.refusals import BadInputError


def text(body: Mapping[str, Any], field: str) -> str:
    """Return a required text that is not blank."""
    match body.get(field):
        case str(value) if value.strip():
            return value
        case None | str():
            raise BadInputError(field, "missing", f"{field}: field required")
        case other:
            message = f"{field}: input should be a valid string"
            raise BadInputError(field, "string_type", message, value=other)


def choice(
    body: Mapping[str, Any], field: str, default: str, allowed: Collection[str]
) -> str:
    """Return one of the allowed words."""
    match body.get(field):
        case None:
            return default
        case str(value) if value in allowed:
            return value
        case other:
            message = f"{field}: must be one of {', '.join(sorted(allowed))}"
            limits = {"expected": sorted(allowed)}
            raise BadInputError(field, "one_of", message, value=other, limits=limits)


def whole(body: Mapping[str, Any], field: str, default: int) -> int:
    """Return a whole number."""
    match body.get(field):
        case None:
            return default
        case int(value) if not isinstance(value, bool):
            return value
        case other:
            message = f"{field}: input should be a valid integer"
            raise BadInputError(field, "int_type", message, value=other)


def between(
    body: Mapping[str, Any], field: str, default: int, *, low: int, high: int
) -> int:
    """Return a whole number within limits."""
    value = whole(body, field, default)
    if value < low:
        kind, limits = "greater_than_equal", {"ge": low}
        message = f"ensure this value is greater than or equal to {low}"
    elif value > high:
        kind, limits = "less_than_equal", {"le": high}
        message = f"ensure this value is less than or equal to {high}"
    else:
        return value
    raise BadInputError(field, kind, message, value=value, limits=limits)


def share(body: Mapping[str, Any], field: str) -> None:
    """Check a number from 0 to 1, which the emulator ignores."""
    match body.get(field):
        case None:
            return
        case int(value) | float(value) if value is not True and 0 <= value <= 1:
            return
        case other:
            message = f"{field}: must be a number from 0 to 1"
            raise BadInputError(field, "less_than_equal", message, value=other)


def out_of(
    body: Mapping[str, Any], field: str, default: int, allowed: Collection[int]
) -> int:
    """Return one of the allowed whole numbers."""
    value = whole(body, field, default)
    if value not in allowed:
        listed = ", ".join(map(str, sorted(allowed)))
        message = f"{field}: must be one of {listed}"
        limits = {"expected": sorted(allowed)}
        raise BadInputError(field, "one_of", message, value=value, limits=limits)
    return value


def seed(body: Mapping[str, Any]) -> int | None:
    """Return the seed; -1 and a missing one leave it to the provider."""
    value = whole(body, "seed", -1)
    if not -1 <= value < 2**31:
        message = "seed: must be between -1 and 2147483647"
        raise BadInputError("seed", "less_than_equal", message, value=value)
    return None if value == -1 else value
