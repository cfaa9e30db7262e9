"""The command `repair`: says what a damaged root has lost, and makes it usable again."""

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.reconcile import Decided, plain, say, settled
from flows.commands.terminal import (
    Config,
    Json,
    LaneNames,
    chosen,
    existing,
    print_json,
    tell,
)
from flows.config import Settings, SettingsError
from storage.ledger import Damage, Gap, KnownRoots
from storage.objects import Objects
from tasks.dispatch import usd
from tasks.reconcile import Reconciled
from tasks.repair import Report, let_go, looked, mended


def repair(  # noqa: PLR0913 - each is an option
    root: Annotated[str, typer.Argument(help="The URI of the root.")],
    *,
    config: Config = None,
    lanes: LaneNames = None,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Repair the root. Without it, nothing is changed."),
    ] = False,
    release: Annotated[
        bool,
        typer.Option(
            "--release",
            help="Buy rows that may have been bought in a gap, at your risk, from the next run on.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what is missing or damaged below a root, and what it may cost; with --yes, repair
    it and fetch what was bought."""
    uri = existing(root)
    if yes and release:
        raise typer.BadParameter(
            "repair first, and look at the gaps", param_hint="--release"
        )
    settings = _settings(config, lanes) if yes else None
    done = asyncio.run(_done(settings, uri, yes=yes, release=release))
    if as_json:
        print_json(done.plain())
    else:
        done.say(root)
    raise typer.Exit(1 if done.left else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The result of the command."""

    report: Report
    reconciled: Reconciled | None
    lanes: Sequence[str] = ()

    @property
    def left(self) -> bool:
        """Whether something is left to do for a person."""
        told = self.reconciled
        unsettled = told is not None and bool(told.doubts or told.parked)
        damaged = bool(self.report.found.bad) and not self.report.repaired
        return damaged or unsettled

    def plain(self) -> dict[str, Any]:
        """For programs."""
        report = self.report
        return {
            "sound": not report.found.damages,
            "repaired": report.repaired,
            "damage": [_plain_damage(one) for one in report.found.damages],
            "gaps": [_plain_gap(one) for one in report.gaps],
            "doubted": report.doubted,
            "regained": report.regained,
            "released": report.released,
            "reconciled": None if self.reconciled is None else plain(self.reconciled),
        }

    def say(self, root: str) -> None:
        """For people."""
        report = self.report
        for one in report.found.damages:
            tell(f"{one.key}: {_found(one)}; {one.cure}", "yellow")
        for gap in report.gaps:
            tell(_told(gap), "yellow")
        self._say_end(shlex.quote(root))
        if self.reconciled is not None:
            say(self.reconciled, self.lanes)

    def _say_end(self, root: str) -> None:
        report = self.report
        if report.found.bad and not report.repaired:
            tell(f"nothing was changed: `nightreel repair {root} --yes` repairs it")
        elif report.repaired:
            tell("repaired: runs use the root again")
        elif not report.found.damages:
            tell("nothing is missing or damaged")
        if report.doubted:
            tell(
                f"{report.doubted:,} back in doubt: the ids at their providers are lost"
            )
        if report.regained:
            tell(f"{report.regained:,} published: their sidecars say so")
        if report.released:
            tell("released: the next run buys what the gaps withheld")
        elif report.gaps and (report.repaired or not report.found.bad):
            tell(
                "rows that are not on record may have been bought in a gap: no run buys "
                "them. Look at the providers' own pages for that time; then "
                f"`nightreel repair {root} --release`"
            )
        if report.repaired and self.reconciled is None:
            tell(
                f"no lanes are configured: `nightreel reconcile {root}` fetches what is paid"
            )


async def _done(
    settings: Settings | None, uri: str, *, yes: bool, release: bool
) -> Done:
    objects = Objects.open(uri)
    if not yes:
        return Done(
            report=await (let_go if release else looked)(objects), reconciled=None
        )
    report = await mended(objects, known=KnownRoots())
    if settings is None or not report.repaired:
        return Done(report=report, reconciled=None)
    told = await settled(settings, uri, Decided(), take_over=False)
    return Done(report=report, reconciled=told, lanes=[*settings.lanes])


def _settings(config: Path | None, lanes: str | None) -> Settings | None:
    """The configuration; None if none was named, and there is none."""
    try:
        return chosen(config, lanes)
    except SettingsError:
        if config is not None or lanes is not None:
            raise
        return None


def _found(one: Damage) -> str:
    return "missing" if one.missing else "damaged"


def _plain_damage(one: Damage) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "key": one.key,
        "found": _found(one),
        "epoch": one.epoch,
        "cure": one.cure,
    }


def _plain_gap(gap: Gap) -> dict[str, Any]:
    return {
        "place": gap.place,
        "first": gap.first,
        "last": gap.last,
        "since": _utc(gap.since),
        "until": _utc(gap.until),
        "submits": 0 if gap.certain else gap.submits,
        "usd": None if gap.usd is None else float(gap.usd),
        "lanes": {lane: float(Decimal(price)) for lane, price in gap.lanes.items()},
        "withholds": not gap.certain,
    }


def _told(gap: Gap) -> str:
    span = f"from {_utc(gap.since) or 'its beginning'} to {_utc(gap.until) or 'today'}"
    if gap.certain:
        return f"gap in {gap.name}, {span}: the index has all purchases"
    if gap.submits is None or gap.usd is None:
        return f"gap in {gap.name}, {span}: nothing bounds what was bought in it"
    prices = ", ".join(f"{lane} {price}" for lane, price in sorted(gap.lanes.items()))
    return (
        f"gap in {gap.name}, {span}: at most {gap.submits:,} submits, "
        f"{usd(gap.usd)} USD ({prices} USD each)"
    )


def _utc(at: float | None) -> str | None:
    if at is None or at == float("inf"):
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
