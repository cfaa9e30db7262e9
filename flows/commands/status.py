"""The command `status`: how a root stands, in jobs and in money, by its ledger alone."""

import asyncio
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.commands.terminal import Json, existing, print_json
from flows.config import lanes as lanes_of
from flows.config import settings
from flows.views import expiring
from flows.views.amounts import aligned, counted
from flows.views.doubts import doubts_table, more_doubts
from flows.views.terminal_table import terminal_table
from flows.views.times import utc
from manifests.accounting.totals import Share, Standing
from manifests.catalogue.loader import shipped
from manifests.catalogue.routes import Route
from manifests.expiry import AT_PROVIDERS, in_use
from manifests.lifecycle import FREE, History, State
from storage.ledger.ledger import entries
from storage.objects.client import Objects
from storage.pause_flag import paused
from tasks.dispatch.preflight import usd
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
    Console(highlight=False).print(seen.shown(root))


async def observed(root: str, *, config: Path | None = None) -> "Seen":
    """Read the root's ledger and its pause flag.

    Raises:
        OpeningError: there is no such folder.
        SettingsError: the configuration cannot be used.
    """
    routes, objects = _routes(config), Objects.open(existing(root))
    standing, since = await stood(objects), await paused(objects)
    return seen_at(standing, routes, now=time.time(), paused_at=since)


def _routes(config: Path | None) -> Mapping[str, Route]:
    """How long providers keep a clip, by our figures or by those of whoever knows better."""
    if config is None:
        return shipped().routes
    mine = lanes_of.chosen(settings.load(config))
    return in_use(shipped().routes, mine.values())


async def stood(objects: Objects) -> Standing:
    """What is on record comes to, however much it is."""
    standing = Standing()
    async for some in entries(objects):
        standing.add(some)
    if standing.unplaced:
        async for some in entries(objects):
            standing.place(some)
    return standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a ledger says at a moment."""

    standing: Standing
    now: float
    doubts: Sequence[DoubtLine]
    """The oldest first."""
    clips: Sequence[expiring.Clip]
    """The first to expire first."""
    paused_at: float | None = None

    @property
    def in_doubt_usd(self) -> Decimal:
        return sum((doubt.price_usd for doubt in self.doubts), FREE)

    def plain(self) -> dict[str, Any]:
        """For programs."""
        states, standing = self.standing.states, self.standing
        return {
            "jobs": sum(states.values()),
            "published": states[State.PUBLISHED],
            "rejected": states[State.REJECTED],
            "in_doubt": states[State.IN_DOUBT],
            "pending": sum(states[state] for state in WAITING),
            "at_providers": sum(states[state] for state in AT_PROVIDERS),
            "risks": standing.risks,
            "spent_usd": float(standing.spent_usd),
            "in_doubt_usd": float(self.in_doubt_usd),
            "lanes": [
                {
                    "lane": lane,
                    "accepted": share.accepted,
                    "published": share.published,
                    "spent_usd": float(share.spent_usd),
                }
                for lane, share in sorted(standing.lanes.items())
            ],
            "expiring": expiring.plain(self.clips),
            "paused_since": utc(self.paused_at) if self.paused_at else None,
            "parked": self.parked,
            "doubts": [self._plain(doubt) for doubt in self.doubts],
        }

    @property
    def parked(self) -> dict[str, int]:
        """Clips that are paid for and on which our own code failed, by the reason."""
        return dict(
            Counter(
                history.reason
                for history in self.standing.lives.values()
                if history.parks and history.reason and history.state in AT_PROVIDERS
            ).most_common()
        )

    def shown(self, root: str) -> RenderableType:
        """For people."""
        parts: list[RenderableType] = [self._jobs()]
        if self.paused_at:
            goes_on = f"`nightreel resume {shlex.quote(root)}` goes on"
            said = f"paused since {utc(self.paused_at)}: {goes_on}"
            parts += ["", Text(said, "yellow")]
        if self.standing.lanes:
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
                Text(
                    f"`nightreel reconcile {shlex.quote(root)}` asks whoever can be asked"
                ),
            ]
        return Group(*parts)

    def _jobs(self) -> Table:
        table = terminal_table("state", "jobs", "", right=("jobs",), header=False)
        table.columns[-1].style = "dim"
        states = self.standing.states
        waiting = sum(states[state] for state in WAITING)
        away = sum(states[state] for state in AT_PROVIDERS)
        at = f"{away:,} of them at providers" if away else ""
        doubt = f"{usd(self.in_doubt_usd)} USD" if self.doubts else ""
        rows = [
            ("published", states[State.PUBLISHED], ""),
            ("pending", waiting, at),
            ("in doubt", states[State.IN_DOUBT], doubt),
            ("rejected", states[State.REJECTED], ""),
        ]
        for name, count, note in rows:
            style = "" if count else "dim"
            table.add_row(name, f"{count:,}", note, style=style)
        table.add_row("jobs", f"{sum(states.values()):,}", style="bold")
        return table

    def _lanes(self) -> Table:
        figures = ("accepted", "published", "USD")
        table = terminal_table("lane", *figures, right=figures)
        lanes = self.standing.lanes
        everything = Share(
            sum(share.accepted for share in lanes.values()),
            sum(share.published for share in lanes.values()),
            self.standing.spent_usd,
        )
        rows = [*sorted(lanes.items()), ("all", everything)]
        spent = aligned(share.spent_usd for _, share in rows)
        for (lane, share), amount in zip(rows, spent, strict=True):
            table.add_row(
                lane,
                f"{share.accepted:,}",
                f"{share.published:,}",
                amount,
                style="bold" if share is everything else "",
            )
        return table

    def _extras(self) -> Iterator[str]:
        """What of the money is out of the ordinary."""
        if risks := self.standing.risks:
            yield f"{counted(risks, 'risk')} taken"

    def _plain(self, doubt: DoubtLine) -> dict[str, Any]:
        history = self.standing.lives[doubt.job]
        return {
            "job": doubt.job,
            "lane": doubt.lane,
            "since": utc(history.submitted_at) if history.submitted_at else "",
            "age_s": round(doubt.age_s),
            "price_usd": float(doubt.price_usd),
            "lost": history.lost,
            "reason": doubt.reason,
        }


def seen_at(
    standing: Standing,
    routes: Mapping[str, Route],
    *,
    now: float,
    paused_at: float | None = None,
) -> Seen:
    """How that stands at this moment."""
    return Seen(
        standing=standing,
        now=now,
        doubts=sorted(_doubts(standing.lives, now), key=lambda doubt: -doubt.age_s),
        clips=expiring.expiring(standing.lives, routes),
        paused_at=paused_at,
    )


def _doubts(past: Mapping[str, History], now: float) -> Iterator[DoubtLine]:
    for job, history in past.items():
        if history.state is State.IN_DOUBT:
            yield DoubtLine(
                job=job,
                lane=history.lane or "",
                age_s=now - (history.submitted_at or now),
                price_usd=history.price_usd,
                reason=history.reason or UNANSWERED,
                askable=bool(history.mark),
            )
