"""Doubts as a person is shown them: how old, how much, and what became of the answer."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from decimal import Decimal

from rich.table import Table
from rich.text import Text

from flows.views.times import span
from tasks.reconcile import DoubtLine

SHOWN = 20
"""Doubts that a person is shown before the rest is only counted; `--json` has them all."""


def doubts_table(
    doubts: Sequence[DoubtLine], lanes: Collection[str] | None = None
) -> Table:
    """The oldest of them; where the lanes in use are known, those are told that need another."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("job", no_wrap=True)
    table.add_column("lane", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("USD", justify="right", no_wrap=True)
    table.add_column("askable", no_wrap=True)
    table.add_column("why", overflow="fold")
    oldest = sorted(doubts, key=lambda doubt: -doubt.age_s)[:SHOWN]
    prices = aligned(doubt.price_usd for doubt in oldest)
    for doubt, price in zip(oldest, prices, strict=True):
        asks = Text("yes") if doubt.askable else Text("no", "dim")
        if lanes is not None and doubt.lane not in lanes:
            asks = Text("no lane", "yellow")
        cells = doubt.lane, span(doubt.age_s), price
        table.add_row(doubt.job, *cells, asks, Text(doubt.reason))
    return table


def aligned(amounts: Iterable[Decimal]) -> list[str]:
    """Exact amounts for one column: cents, and as many places more as any of them has."""
    known = [*amounts]
    exponents = [amount.normalize().as_tuple().exponent for amount in known]
    places = max([2, *(-each for each in exponents if isinstance(each, int))])
    return [f"{amount:,.{places}f}" for amount in known]


def more_doubts(doubts: Sequence[DoubtLine]) -> Iterator[str]:
    """How many are not shown, if any."""
    if (more := len(doubts) - SHOWN) > 0:
        yield f"and {more:,} more"
