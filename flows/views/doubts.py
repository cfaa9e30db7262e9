"""The table of doubts: their age, their price, and what happened to the answer."""

from collections.abc import Collection, Iterator, Sequence

from rich.table import Table
from rich.text import Text

from flows.views.terminal_table import aligned, terminal_table
from flows.views.times import span
from tasks.reconcile import DoubtLine

SHOWN = 20
"""Doubts that are listed before the rest is only counted; `--json` has them all."""


def doubts_table(
    doubts: Sequence[DoubtLine], lanes: Collection[str] | None = None
) -> Table:
    """The oldest doubts; if the lanes in use are known, doubts of other lanes are marked."""
    table = terminal_table(
        *("job", "lane", "age", "USD", "askable", "why"),
        right=("age", "USD"),
        folds=("why",),
    )
    oldest = sorted(doubts, key=lambda doubt: -doubt.age_s)[:SHOWN]
    prices = aligned(doubt.price_usd for doubt in oldest)
    for doubt, price in zip(oldest, prices, strict=True):
        asks = Text("yes") if doubt.askable else Text("no", "dim")
        if lanes is not None and doubt.lane not in lanes:
            asks = Text("no lane", "yellow")
        cells = doubt.lane, span(doubt.age_s), price
        table.add_row(doubt.job, *cells, asks, Text(doubt.reason))
    return table


def more_doubts(doubts: Sequence[DoubtLine]) -> Iterator[str]:
    """The number of doubts that are not shown, if any."""
    if (more := len(doubts) - SHOWN) > 0:
        yield f"and {more:,} more"
