"""Arguments that a person gives to a command, a function or a flow, checked before use."""

import difflib
import math
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import cast, get_args

from tasks.dispatch import Policy


class SettingsError(ValueError):
    """The settings cannot be used; raised before anything is bought."""


def budget(usd: Decimal | float | None) -> Decimal | None:
    """A budget, exactly as it was written; None is no limit.

    Raises:
        SettingsError: it is no amount, such as inf or nan, or it is below 0.
    """
    if usd is None:
        return None
    try:
        exact = Decimal(str(usd))
    except InvalidOperation:
        exact = Decimal("nan")
    if exact.is_finite() and exact >= 0:
        return exact
    problem = f"budget_usd = {usd}: must be US dollars, 0 or more, such as 2.50"
    raise SettingsError(f"{problem}; leave it out for no limit")


def seconds(name: str, value: float) -> float:
    """The value of an argument that is a time in seconds.

    Raises:
        SettingsError: it is negative, or no number.
    """
    if math.isfinite(value) and value >= 0:
        return value
    raise SettingsError(f"{name} = {value}: must be seconds, 0 or more")


def policy(name: str | None) -> Policy | None:
    """The policy of this name; None is that of the configuration.

    Raises:
        SettingsError: there is no such policy.
    """
    names = get_args(Policy)
    if name is None or name in names:
        return cast("Policy | None", name)
    known = f"{', '.join(names[:-1])} or {names[-1]}"
    raise SettingsError(f"policy = {name!r}: must be {known}{nearest(name, names)}")


def nearest(name: str, names: Iterable[str]) -> str:
    """A question for the name that is nearly this one; empty if there is none."""
    match difflib.get_close_matches(name, list(names), n=1):
        case [near]:
            return f" (did you mean {near!r}?)"
        case _:
            return ""
