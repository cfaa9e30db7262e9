"""Shapes: events and histories are stored in columns, and are read back without loss.

A column rounds or leaves out a value that it cannot hold, such as an amount with more
than six decimals or a seed of more than 63 bits. The whole row then stands in `exact`, as
JSON.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Final, cast

import orjson
import polars as pl

from manifests.lifecycle import Facts, History, State, Ticket
from manifests.parquet import MONEY

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
}
EXACT: Final = "exact"

_DECIMALS: Final = 6
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
        columns = self._columns(values)
        stored = [_series(name, known, schema[name]) for name, known in columns.items()]
        nothing = pl.repeat(None, len(values), dtype=pl.String, eager=True)
        rows = pl.DataFrame([*stored, nothing.alias(EXACT)])
        if all(map(_holds, stored, columns.values())):
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

    def _columns(self, values: Sequence[Any]) -> dict[str, list[Any]]:
        columns = {name: [getattr(one, name) for one in values] for name in self.plain}
        if self.tickets:
            told = [_told(one.ticket) for one in values]
            columns |= {name: [one[n] for one in told] for n, name in enumerate(TICKET)}
        if self.facts:
            facts = [one.facts for one in values]
            columns |= {
                name: [getattr(one, name, None) for one in facts] for name in FACTS
            }
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


def dumped(value: Any) -> str:
    """An event or a history as JSON."""
    return orjson.dumps(value, default=_plain).decode()


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


def _plain(value: object) -> object:
    match value:
        case Decimal():
            return str(value)
        case Mapping():
            return dict(cast("Mapping[str, str]", value))
        case _:
            raise TypeError(f"{value!r} has no JSON")


def _of(kind: type[Any], stored: dict[str, Any]) -> Any:
    if kind is History:
        stored["state"] = _STATES[stored["state"]]
    return kind(**stored)


def _told(ticket: Ticket | None) -> tuple[str | None, ...]:
    if ticket is None:
        return (None, None, None)
    return ticket.provider, ticket.id, orjson.dumps(dict(ticket.urls)).decode()


def _series(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    if dtype != MONEY:
        return pl.Series(name, values, dtype, strict=False)
    # As text, polars takes amounts eight times as fast as decimals.
    text = [None if usd is None else format(usd, "f") for usd in values]
    return pl.Series(name, text, pl.String).cast(MONEY, strict=False)


def _holds(stored: pl.Series, values: Sequence[Any]) -> bool:
    """Whether a column holds its values as they are."""
    if stored.null_count() > sum(value is None for value in values):
        return False
    return stored.dtype != MONEY or all(
        usd is None or usd == round(usd, _DECIMALS) for usd in values
    )
