"""The command `status`: the state of a root in jobs and money, from its ledger alone."""

import asyncio
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import inf
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.commands.terminal import Json, opened, print_json
from flows.config import lanes as lanes_of
from flows.config import settings
from flows.views import (
    aligned,
    counted,
    doubts_table,
    expiring,
    more_doubts,
    runs,
    utc,
)
from flows.views.terminal_table import terminal_table
from manifests.accounting import Attempt, LedgerTotals, Outcome
from manifests.catalogue import Route, shipped
from manifests.expiry import AT_PROVIDERS, in_use
from manifests.lifecycle import FREE, State
from storage import run_reports
from storage.ledger import entries, spilled
from storage.objects import Objects
from storage.pause_flag import paused
from tasks.dispatch import usd
from tasks.engine.stats import UNANSWERED
from tasks.reconcile import DoubtLine

WAITING = AT_PROVIDERS | {State.PENDING}

Keeps = Annotated[
    Path | None,
    typer.Option("--config", help="A configuration whose routes set `keeps_s`."),
]


def status(
    root: Annotated[str, typer.Argument(help="The URI of the root.")],
    *,
    config: Keeps = None,
    as_json: Json = False,
) -> None:
    """Show jobs, money, clips at providers and jobs in doubt. Reads only the ledger."""
    seen = asyncio.run(observed(root, config=config))
    if as_json:
        print_json(seen.plain())
        return
    Console(highlight=False).print(seen.rendered(root))


async def observed(root: str, *, config: Path | None = None) -> "Seen":
    """Read the root's ledger, its pause flag, and whether events are spilled.

    Raises:
        OpeningError: there is no such folder.
        SettingsError: the configuration cannot be used.
    """
    routes, objects = _routes(config), await opened(root)
    # The ledger after the reports: it has what was submitted since.
    reports = await run_reports.newest(objects)
    totals = await totals_of(objects, counting_from=runs.told_at(reports))
    since, lost = await paused(objects), await spilled(objects)
    seen = seen_at(totals, routes, now=time.time(), paused_at=since, spilled=lost)
    return replace(seen, reports=reports)


def _routes(config: Path | None) -> Mapping[str, Route]:
    """The routes, with how long providers keep a clip: from the catalogue or the settings."""
    if config is None:
        return shipped().routes
    lanes_in_use = lanes_of.chosen(settings.load(config))
    return in_use(shipped().routes, lanes_in_use.values())


async def totals_of(objects: Objects, *, counting_from: float = inf) -> LedgerTotals:
    """The totals of all that is on record, however much it is."""
    totals = LedgerTotals(counting_from=counting_from)
    async for some in entries(objects):
        totals.add(some)
    if totals.adjustments:
        async for some in entries(objects):
            totals.add_adjustments(some)
    return totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The state of a root at a moment."""

    totals: LedgerTotals
    now: float
    doubts: Sequence[DoubtLine]
    """The oldest first."""
    clips: Sequence[expiring.Clip]
    """The first to expire first."""
    paused_at: float | None = None
    spilled: int = 0
    """Events in spill files, which no run has recorded yet."""

    reports: Sequence[runs.Report] = ()
    """The reports of the latest run of each manifest."""

    @property
    def in_doubt_usd(self) -> Decimal:
        return sum((doubt.price_usd for doubt in self.doubts), FREE)

    def plain(self) -> dict[str, Any]:
        """For programs."""
        states, total = self.totals.states, self.totals.every_lane
        return {
            "jobs": sum(states.values()),
            "published": states[State.PUBLISHED],
            "rejected": states[State.REJECTED],
            "unplayable": states[State.UNPLAYABLE],
            "in_doubt": states[State.IN_DOUBT],
            "pending": sum(states[state] for state in WAITING),
            "at_providers": sum(states[state] for state in AT_PROVIDERS),
            "never_bought": runs.never_bought(self.reports, self.totals.begun),
            "risks": total.risked,
            "spent_usd": float(total.usd),
            "in_doubt_usd": float(self.in_doubt_usd),
            "lanes": [
                {
                    "lane": lane,
                    "accepted": of_lane.accepted,
                    "published": of_lane.clips,
                    "spent_usd": float(of_lane.usd),
                }
                for lane, of_lane in sorted(self.totals.lanes.items())
            ],
            "expiring": expiring.plain(self.clips),
            "paused_since": utc(self.paused_at) if self.paused_at else None,
            "parked": self.parked,
            "spilled": self.spilled,
            "doubts": [self._plain(doubt) for doubt in self.doubts],
            "runs": [*map(runs.plain, self.reports)],
        }

    @property
    def parked(self) -> dict[str, int]:
        """Clips that are paid for and on which our own code failed, by the reason."""
        return dict(
            Counter(
                attempt.reason
                for attempt in self.totals.under_way.values()
                if attempt.parks and attempt.reason
            ).most_common()
        )

    def rendered(self, root: str) -> RenderableType:
        """For people."""
        parts: list[RenderableType] = [self._jobs()]
        if self.paused_at:
            resume = f"`nightreel resume {shlex.quote(root)}` goes on"
            paused = f"paused since {utc(self.paused_at)}: {resume}"
            parts += ["", Text(paused, "yellow")]
        if self.spilled:
            found = f"{counted(self.spilled, 'event')} spilled, not on record yet"
            parts += [
                "",
                Text(f"{found}: start the next run on this machine", "yellow"),
            ]
        for report in self.reports:
            for part in runs.report_lines(report, self.now):
                parts += ["", part]
        if self.totals.lanes:
            parts += ["", self._lanes()]
        if extras := ", ".join(self._extras()):
            parts += ["", Text(extras)]
        if self.clips:
            parts += ["", Text("At providers", "bold")]
            parts.append(expiring.lanes_table(self.clips, self.now))
            parts += ["", expiring.next_table(self.clips, self.now)]
        for reason, clips in self.parked.items():
            parts += ["", Text(f"{counted(clips, 'clip')} not kept: {reason}", "red")]
        if self.doubts:
            parts += [
                "",
                Text("In doubt", "bold"),
                doubts_table(self.doubts),
                *map(Text, more_doubts(self.doubts)),
                "",
                Text(f"`nightreel reconcile {shlex.quote(root)}` asks the providers"),
            ]
        return Group(*parts)

    def _jobs(self) -> Table:
        table = terminal_table("state", "jobs", "", right=("jobs",), header=False)
        table.columns[-1].style = "dim"
        states = self.totals.states
        waiting = sum(states[state] for state in WAITING)
        away = sum(states[state] for state in AT_PROVIDERS)
        at = f"{away:,} of them at providers" if away else ""
        doubt = f"{usd(self.in_doubt_usd)} USD" if self.doubts else ""
        rows = [
            ("published", states[State.PUBLISHED], ""),
            ("pending", waiting, at),
            ("in doubt", states[State.IN_DOUBT], doubt),
            ("rejected", states[State.REJECTED], ""),
            ("unplayable", states[State.UNPLAYABLE], ""),
        ]
        for name, count, note in rows:
            style = "" if count else "dim"
            table.add_row(name, f"{count:,}", note, style=style)
        table.add_row("jobs", f"{sum(states.values()):,}", style="bold")
        if unbought := runs.never_bought(self.reports, self.totals.begun):
            note = "nothing was submitted for these yet"
            table.add_row("never bought", f"{unbought:,}", note)
        return table

    def _lanes(self) -> Table:
        figures = ("accepted", "published", "USD")
        table = terminal_table("lane", *figures, right=figures)
        total = self.totals.every_lane
        rows = [*sorted(self.totals.lanes.items()), ("all", total)]
        spent = aligned(of_lane.usd for _, of_lane in rows)
        for (lane, of_lane), amount in zip(rows, spent, strict=True):
            table.add_row(
                lane,
                f"{of_lane.accepted:,}",
                f"{of_lane.clips:,}",
                amount,
                style="bold" if of_lane is total else "",
            )
        return table

    def _extras(self) -> Iterator[str]:
        """Remarks on money that was spent at the owner's risk."""
        if risks := self.totals.every_lane.risked:
            yield f"{counted(risks, 'risk')} taken"

    def _plain(self, doubt: DoubtLine) -> dict[str, Any]:
        attempt = self.totals.under_way[doubt.job]
        return {
            "job": doubt.job,
            "lane": doubt.lane,
            "since": utc(attempt.submitted_at),
            "age_s": round(doubt.age_s),
            "price_usd": float(doubt.price_usd),
            "lost": attempt.lost,
            "reason": doubt.reason,
        }


def seen_at(
    totals: LedgerTotals,
    routes: Mapping[str, Route],
    *,
    now: float,
    paused_at: float | None = None,
    spilled: int = 0,
) -> Seen:
    """The state of a root at this moment."""
    doubts = _doubts(totals.under_way.values(), now)
    return Seen(
        totals=totals,
        now=now,
        doubts=sorted(doubts, key=lambda doubt: -doubt.age_s),
        clips=expiring.expiring(totals.under_way, routes),
        paused_at=paused_at,
        spilled=spilled,
    )


def _doubts(attempts: Iterable[Attempt], now: float) -> Iterator[DoubtLine]:
    for attempt in attempts:
        if attempt.outcome is Outcome.IN_DOUBT:
            yield DoubtLine(
                job=attempt.job,
                lane=attempt.lane,
                age_s=now - attempt.submitted_at,
                price_usd=attempt.price_usd,
                reason=attempt.reason or UNANSWERED,
                askable=bool(attempt.mark),
            )
