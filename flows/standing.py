"""The command `status`: how a root stands, in jobs and in money, by its ledger alone."""

import asyncio
import shlex
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import polars as pl
import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.doubting import aligned, doubts_table, more_doubts
from flows.terminal import Json, existing, print_json
from manifests.attempts import ATTEMPTS, attempts
from manifests.lifecycle import FREE, HEDGE, Entry, History, State, fold
from storage import ledger
from storage.objects import Objects
from tasks.checkup import usd
from tasks.reconciling import DoubtLine

UNKNOWN = "its answer is not on record"

WAITING = frozenset({State.PENDING, State.ACCEPTED, State.GENERATED})


def status(
    root: Annotated[str, typer.Argument(help="the root of a run")],
    *,
    as_json: Json = False,
) -> None:
    """How a root stands: jobs, money, and what is in doubt; asks nobody."""
    objects = Objects.open(existing(root))
    standing = stood(asyncio.run(ledger.read(objects)), now=time.time())
    if as_json:
        print_json(standing.plain())
        return
    Console(highlight=False).print(standing.shown(root))


@dataclass(frozen=True, slots=True)
class Share:
    """What one lane has done, in submits."""

    lane: str
    accepted: int
    published: int
    spent_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a ledger says. A hedge is no job, but its money is spent like any other."""

    past: Mapping[str, History]
    states: Mapping[State, int]
    """Jobs by their state."""
    lanes: Sequence[Share]
    doubts: Sequence[DoubtLine]
    """Jobs and hedges, the oldest first."""

    @property
    def spent_usd(self) -> Decimal:
        return sum((history.spent_usd for history in self.past.values()), FREE)

    @property
    def in_doubt_usd(self) -> Decimal:
        return sum((doubt.price_usd for doubt in self.doubts), FREE)

    @property
    def hedges(self) -> int:
        return sum(job.endswith(HEDGE) for job in self.past)

    @property
    def risks(self) -> int:
        return sum(history.risks for history in self.past.values())

    @property
    def at_providers(self) -> int:
        return self.states[State.ACCEPTED] + self.states[State.GENERATED]

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return {
            "jobs": sum(self.states.values()),
            "published": self.states[State.PUBLISHED],
            "rejected": self.states[State.REJECTED],
            "in_doubt": self.states[State.IN_DOUBT],
            "pending": sum(self.states[state] for state in WAITING),
            "at_providers": self.at_providers,
            "hedges": self.hedges,
            "risks": self.risks,
            "spent_usd": float(self.spent_usd),
            "in_doubt_usd": float(self.in_doubt_usd),
            "lanes": [
                {
                    "lane": share.lane,
                    "accepted": share.accepted,
                    "published": share.published,
                    "spent_usd": float(share.spent_usd),
                }
                for share in self.lanes
            ],
            "doubts": [self._plain(doubt) for doubt in self.doubts],
        }

    def shown(self, root: str) -> RenderableType:
        """For people."""
        parts: list[RenderableType] = [self._jobs()]
        if self.lanes:
            parts += ["", self._lanes()]
        if extras := ", ".join(self._extras()):
            parts += ["", Text(extras)]
        if self.doubts:
            parts += [
                "",
                Text("In doubt", "bold"),
                doubts_table(self.doubts),
                *map(Text, more_doubts(self.doubts)),
                "",
                Text(
                    f"`nightreel reconcile {shlex.quote(root)}` asks whoever can be asked"
                ),
            ]
        return Group(*parts)

    def _jobs(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_column(style="dim")
        waiting = sum(self.states[state] for state in WAITING)
        at = f"{self.at_providers:,} of them at providers" if self.at_providers else ""
        doubt = f"{usd(self.in_doubt_usd)} USD" if self.doubts else ""
        rows = [
            ("published", self.states[State.PUBLISHED], ""),
            ("pending", waiting, at),
            ("in doubt", self.states[State.IN_DOUBT], doubt),
            ("rejected", self.states[State.REJECTED], ""),
        ]
        for name, count, note in rows:
            style = "" if count else "dim"
            table.add_row(name, f"{count:,}", note, style=style)
        table.add_row("jobs", f"{sum(self.states.values()):,}", style="bold")
        return table

    def _lanes(self) -> Table:
        table = Table(
            box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim"
        )
        table.add_column("lane")
        for name in ("accepted", "published", "USD"):
            table.add_column(name, justify="right")
        accepted = sum(share.accepted for share in self.lanes)
        published = sum(share.published for share in self.lanes)
        everything = Share("all", accepted, published, self.spent_usd)
        shares = (*self.lanes, everything)
        spent = aligned(share.spent_usd for share in shares)
        for share, amount in zip(shares, spent, strict=True):
            table.add_row(
                share.lane,
                f"{share.accepted:,}",
                f"{share.published:,}",
                amount,
                style="bold" if share is everything else "",
            )
        return table

    def _extras(self) -> Iterator[str]:
        """What of the money is out of the ordinary."""
        if self.hedges:
            spent = (h.spent_usd for job, h in self.past.items() if job.endswith(HEDGE))
            hedges = _counted(self.hedges, "hedge")
            yield f"{usd(sum(spent, FREE))} USD of it on {hedges}"
        if self.risks:
            yield f"{_counted(self.risks, 'risk')} taken"

    def _plain(self, doubt: DoubtLine) -> dict[str, Any]:
        history = self.past[doubt.job]
        return {
            "job": doubt.job,
            "lane": doubt.lane,
            "since": _utc(history.submitted_at),
            "age_s": round(doubt.age_s),
            "price_usd": float(doubt.price_usd),
            "lost": history.lost,
            "reason": doubt.reason,
        }


def stood(entries: Collection[Entry], *, now: float) -> Standing:
    """What a ledger's entries come to."""
    past = fold(entries)
    return Standing(
        past=past,
        states=Counter(
            history.state for job, history in past.items() if not job.endswith(HEDGE)
        ),
        lanes=_shares(entries),
        doubts=sorted(_doubts(past, now), key=lambda doubt: -doubt.age_s),
    )


def _doubts(past: Mapping[str, History], now: float) -> Iterator[DoubtLine]:
    for job, history in past.items():
        if history.state is State.IN_DOUBT:
            yield DoubtLine(
                job=job,
                lane=history.lane or "",
                age_s=now - (history.submitted_at or now),
                price_usd=history.price_usd,
                reason=history.reason or UNKNOWN,
                askable=bool(history.mark),
            )


def _shares(entries: Collection[Entry]) -> list[Share]:
    rows = pl.DataFrame([*attempts(entries)], schema=ATTEMPTS, orient="row")
    lanes = rows.group_by("lane").agg(
        pl.col("accepted_at").is_not_null().sum(),
        pl.col("outcome").eq("published").sum(),
        pl.col("charged_usd").sum(),
    )
    return [Share(*row) for row in lanes.sort("lane").iter_rows()]


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _utc(at: float | None) -> str:
    return (
        "" if at is None else datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds")
    )
