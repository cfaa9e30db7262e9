"""Shapes: events and histories are stored in columns, and are read back without loss.

A column rounds or leaves out a value that it cannot hold, such as an amount with more
than six decimals or a seed of more than 63 bits. The whole row then stands in `exact`, as
JSON.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final

import orjson
import polars as pl

from manifests.lifecycle import Facts, History, State, Ticket
from manifests.parquet import MONEY
from manifests.plain_json import plain

TICKET: Final = {
    "provider": pl.String(),
    "ticket": pl.String(),
    "urls": pl.String(),  # a JSON object
}
FACTS: Final = {
    "sha256": pl.String(),
    "bytes": pl.Int64(),
    "seconds": pl.Float64(),
    "fps": pl.Float64(),
    "width": pl.Int64(),
    "height": pl.Int64(),
    "codec": pl.String(),
    "frames": pl.Int64(),
    "rotation": pl.Int64(),
    "differs": pl.String(),
}
EXACT: Final = "exact"

_PLAIN_AMOUNT: Final = r"^-?[0-9]+(\.[0-9]{1,6}0*)?$"
_STATES: Final = {state.value: state for state in State}
_AMOUNTS: Final = {"price_usd", "spent_usd", "usd"}


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns for values of one class; a ticket and facts have their own columns."""

    kind: type[Any]
    plain: Sequence[str]
    tickets: bool
    facts: bool

    @classmethod
    def of(cls, kind: type[Any]) -> "Shape":
        names = [field.name for field in fields(kind)]
        plain = [name for name in names if name not in {"ticket", "facts"}]
        return cls(kind, plain, "ticket" in names, "facts" in names)

    def rows(self, values: Sequence[Any], schema: pl.Schema) -> pl.DataFrame:
        """Values as rows; `exact` is null where the other columns hold the whole value."""
        rows, held = stored(self.columns(values), schema)
        if held:
            return rows
        back = zip(self.values(rows), values, strict=True)
        exact = [None if one == value else dumped(value) for one, value in back]
        return rows.with_columns(pl.Series(EXACT, exact, pl.String))

    def values(self, rows: pl.DataFrame) -> Iterator[Any]:
        """The values in these rows, in their order."""
        names = (*self.plain, *TICKET, *FACTS)
        columns = [rows[name].to_list() for name in names if name in self]
        for known, exact in zip(
            zip(*columns, strict=True), rows[EXACT].to_list(), strict=True
        ):
            yield self._made(known) if exact is None else loaded(self.kind, exact)

    def __contains__(self, column: str) -> bool:
        if column in self.plain:
            return True
        return (self.tickets and column in TICKET) or (self.facts and column in FACTS)

    def columns(self, values: Sequence[Any]) -> dict[str, list[Any]]:
        """The values by column; a value may be any object with the same attributes."""
        columns = {name: [*map(attrgetter(name), values)] for name in self.plain}
        if self.tickets:
            columns |= ticket_columns([one.ticket for one in values])
        if self.facts:
            columns |= facts_columns([one.facts for one in values])
        return columns

    def _made(self, known: Sequence[Any]) -> Any:
        stored = dict(zip(self.plain, known, strict=False))
        if self.tickets:
            provider, number, urls = known[len(self.plain) :][: len(TICKET)]
            if provider is not None:
                stored["ticket"] = Ticket(provider, number, orjson.loads(urls))
        if self.facts:
            facts = dict(zip(FACTS, known[-len(FACTS) :], strict=True))
            if facts["sha256"] is not None:
                stored["facts"] = Facts(**facts)
        return _of(self.kind, stored)


def stored(
    columns: Mapping[str, Sequence[Any]], schema: pl.Schema
) -> tuple[pl.DataFrame, bool]:
    """These columns as rows, and whether they hold each value as it is."""
    held, found = True, list[pl.Series]()
    for name, values in columns.items():
        column, whole = _series(name, values, schema[name])
        nulls = column.null_count()
        held = held and whole and (not nulls or nulls <= values.count(None))
        found.append(column)
    height = found[0].len() if found else 0
    nothing = pl.repeat(None, height, dtype=pl.String, eager=True)
    return pl.DataFrame([*found, nothing.alias(EXACT)]), held


def ticket_columns(tickets: Sequence[Any]) -> dict[str, list[Any]]:
    """The columns of `TICKET` for these tickets."""
    if None not in tickets:
        urls = [orjson.dumps(dict(one.urls)).decode() for one in tickets]
        ours = [one.provider for one in tickets], [one.id for one in tickets], urls
        return dict(zip(TICKET, ours, strict=True))
    found = [_ticket(one) for one in tickets]
    return {name: [one[n] for one in found] for n, name in enumerate(TICKET)}


def facts_columns(facts: Sequence[Any]) -> dict[str, list[Any]]:
    """The columns of `FACTS` for these facts."""
    if None not in facts:
        return {name: [*map(attrgetter(name), facts)] for name in FACTS}
    return {name: [getattr(one, name, None) for one in facts] for name in FACTS}


def dumped(value: Any) -> str:
    """An event or a history as JSON."""
    return orjson.dumps(value, default=plain).decode()


def loaded(kind: type[Any], text: str) -> Any:
    """The event or history that was dumped."""
    stored = orjson.loads(text)
    for name in _AMOUNTS & stored.keys():
        stored[name] = None if stored[name] is None else Decimal(stored[name])
    if (ticket := stored.get("ticket")) is not None:
        stored["ticket"] = Ticket(**ticket)
    if (facts := stored.get("facts")) is not None:
        stored["facts"] = Facts(**facts)
    return _of(kind, stored)


def _of(kind: type[Any], stored: dict[str, Any]) -> Any:
    if kind is History:
        stored["state"] = _STATES[stored["state"]]
    return kind(**stored)


def _ticket(ticket: Any) -> tuple[str | None, ...]:
    if ticket is None:
        return (None, None, None)
    return ticket.provider, ticket.id, orjson.dumps(dict(ticket.urls)).decode()


def _series(
    name: str, values: Sequence[Any], dtype: pl.DataType
) -> tuple[pl.Series, bool]:
    """A column, and whether its amounts have no more decimals than it can hold."""
    if dtype != MONEY:
        return pl.Series(name, values, dtype, strict=False), True
    # As text, polars takes amounts eight times as fast as decimals.
    amounts = [format(x, "f") if isinstance(x, Decimal) else x for x in values]
    text = pl.Series(name, amounts, pl.String)
    plain = text.str.contains(_PLAIN_AMOUNT).all()
    return text.cast(MONEY, strict=False), plain
