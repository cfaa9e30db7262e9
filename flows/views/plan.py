"""The answer of `plan`, for people and for programs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.views.terminal_table import counted, terminal_table
from flows.views.times import moment, span
from manifests.input import Plan
from tasks.dispatch import Policy
from tasks.forecast import Alone, Forecast, Share

NONE: Final = "-"
_COLUMNS: Final = ("lane", "clips", "USD", "takes", "until")

UNSEEN: Final = "the stills were not looked at: `nightreel check` and each run do that"

HOW: Final[Mapping[Policy, str]] = {
    "balanced": "each by the cheapest lane that is free",
    "cheapest": "for the least money",
    "fastest": "as soon as can be",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A forecast, with the question that it answers."""

    read: Plan
    """The manifest, with its errors."""
    told: Forecast
    owned: int
    """Jobs that the root's ledger has already: nothing more is bought for them."""
    policy: Policy
    now: datetime
    by: datetime | None

    def after(self, seconds: float) -> datetime:
        """The local time `seconds` from now."""
        moved = datetime.fromtimestamp(self.now.timestamp() + seconds, self.now.tzinfo)
        return moved.replace(microsecond=0)

    @property
    def all(self) -> Share:
        """The totals of all lanes."""
        return Share("all", self.told.jobs, self.told.cost_usd, self.told.seconds)

    def plain(self) -> dict[str, Any]:
        """For programs."""
        told, by = self.told, self.by
        return {
            "rows": self.read.rows,
            "jobs": self.read.jobs,
            "bad_rows": self.read.bad_rows,
            "owned": self.owned,
            "unserved": told.unserved,
            "policy": self.policy,
            "cost_usd": float(told.cost_usd),
            "seconds": round(told.seconds),
            "done_at": self.after(told.seconds).isoformat(),
            "finish_by": None if by is None else by.isoformat(),
            "late": told.late,
            "lanes": [_plain(share) for share in told.shares],
            "alone": [{**_plain(one), "unable": one.unable} for one in told.alone],
        }

    def rendered(self) -> RenderableType:
        """For people."""
        parts: list[RenderableType] = [Text(self.heading(), "bold"), self._shares()]
        remarks = [Text(words, style) for words, style in self.remarks()]
        parts += ["", *remarks, Text(UNSEEN, "dim")]
        if len(self.told.alone) > 1:
            parts += [
                "",
                Text("The same batch on one lane alone", "bold"),
                self._alone(),
            ]
        return Group(*parts)

    def heading(self) -> str:
        by = "" if self.by is None else f", by {moment(self.by, self.now)}"
        return f"{counted(self.told.jobs, 'clip')}, {HOW[self.policy]}{by}"

    def _shares(self) -> Table:
        told = self.told
        table = terminal_table(*_COLUMNS, right=_COLUMNS[1:])
        for share in told.shares:
            table.add_row(share.lane, *self.cells(share), style=_style(share))
        table.add_row("all", *self.cells(self.all), style="bold")
        return table

    def _alone(self) -> Table:
        table = terminal_table(
            *_COLUMNS, "cannot make", right=(*_COLUMNS[1:], "cannot make")
        )
        for one in self.told.alone:
            cells = [*self.cells(one), _count(one.unable)]
            table.add_row(one.lane, *cells, style=_style(one))
        return table

    def cells(self, of: Share | Alone) -> Sequence[str]:
        if not of.jobs:
            return [NONE] * 4
        until = moment(self.after(of.seconds), self.now)
        return [_count(of.jobs), f"{of.cost_usd:,.2f}", span(of.seconds), until]

    def remarks(self) -> Iterator[tuple[str, str]]:
        told = self.told
        if heavy := self.read.heavy:
            yield heavy, "yellow"
        if self.owned:
            yield (
                f"{counted(self.owned, 'clip')} more: done, under way or in doubt already",
                "",
            )
        if told.unserved:
            yield (
                f"{counted(told.unserved, 'clip')} more: dearer than their max_usd",
                "yellow",
            )
        if deadline := self.deadline():
            yield deadline, "bold yellow" if told.late else ""

    def deadline(self) -> str | None:
        """How the forecast compares with the deadline, if there is one."""
        if self.by is None:
            return None
        told, by = self.told, moment(self.by, self.now)
        if told.late:
            last = moment(self.after(told.seconds), self.now)
            some = f"{told.late:,} of {counted(told.jobs, 'clip')}"
            return f"{some} cannot be done by {by}: the last is done {last}"
        if not told.jobs:
            return None
        spare = self.by.timestamp() - self.now.timestamp() - told.seconds
        return f"done by {by}, with {span(spare)} to spare"


def _style(of: Share | Alone) -> str:
    return "" if of.jobs else "dim"


def _count(number: int) -> str:
    return f"{number:,}" if number else NONE


def _plain(of: Share | Alone) -> dict[str, Any]:
    return {
        "lane": of.lane,
        "jobs": of.jobs,
        "cost_usd": float(of.cost_usd),
        "seconds": round(of.seconds),
    }
