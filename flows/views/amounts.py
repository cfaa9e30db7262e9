"""Counts and money as people read them."""

from collections.abc import Iterable
from decimal import Decimal


def counted(number: int, noun: str) -> str:
    """`1 clip`, `12,000 clips`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def aligned(amounts: Iterable[Decimal]) -> list[str]:
    """Exact amounts for one column: cents, and as many places more as any of them needs."""
    known = [*amounts]
    exponents = [amount.normalize().as_tuple().exponent for amount in known]
    places = max([2, *(-each for each in exponents if isinstance(each, int))])
    return [f"{amount:,.{places}f}" for amount in known]
