"""The command `reconcile`: what is in doubt, what can be found out, what its owner decides."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flows import lanes as lanes_of
from flows.terminal import Config, Json, LaneNames, chosen, place, print_json, tell
from manifests.lifecycle import History
from tasks.reconciling import Books, Decisions, DoubtLine, Reconciled, opened

ALL = "all"

SHOWN = 20
"""Doubts that a person is shown before the rest is only counted; `--json` has them all."""


def reconcile(  # noqa: PLR0913 - each is an option
    root: Annotated[str, typer.Argument(help="the root of a run")],
    *,
    config: Config = None,
    lanes: LaneNames = None,
    resubmit: Annotated[
        str | None, typer.Option(help="jobs to buy again, at your risk: ids, or all")
    ] = None,
    write_off: Annotated[
        str | None, typer.Option(help="jobs to give up as charged: ids, or all")
    ] = None,
    charged: Annotated[
        Sequence[str], typer.Option(help="JOB=USD: what the provider billed in the end")
    ] = (),
    yes: Annotated[
        bool, typer.Option("--yes", help="do not ask before a risk is taken")
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="shut out a run that seems to be at work"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask the providers about what is in doubt, fetch what is ready, settle the money."""
    settings = chosen(config, lanes)
    bills = dict(map(_bill, charged))

    async def run() -> Reconciled:
        on = await lanes_of.opened(settings)
        rules = lanes_of.rules(settings)
        async with opened(
            place(root), lanes=on, rules=rules, take_over=take_over
        ) as books:
            await books.ask()
            decisions = _decisions(books, resubmit, write_off, bills)
            if decisions.resubmit and not yes:
                _confirm(books.doubts(), decisions.resubmit)
            await books.decide(decisions)
            await books.fetch()
            await books.settle()
        return books.told

    told = asyncio.run(run())
    if as_json:
        print_json(_plain(told))
    else:
        _say(told)
    raise typer.Exit(1 if told.doubts else 0)


def _decisions(
    books: Books,
    resubmit: str | None,
    write_off: str | None,
    bills: Mapping[str, Decimal],
) -> Decisions:
    doubts = books.doubts()
    return Decisions(
        resubmit=_named(resubmit, doubts),
        write_off=_named(write_off, doubts),
        charged=bills,
    )


def _named(said: str | None, doubts: Mapping[str, History]) -> frozenset[str]:
    if said is None:
        return frozenset()
    if said == ALL:
        return frozenset(doubts)
    return frozenset(name.strip() for name in said.split(",") if name.strip())


def _confirm(doubts: Mapping[str, History], jobs: frozenset[str]) -> None:
    """Show the sum that may be paid twice, and ask."""
    usd = sum((doubts[job].price_usd for job in jobs if job in doubts), Decimal(0))
    said = f"{len(jobs):,} jobs go again: {usd} USD may be paid a second time"
    if not typer.confirm(f"{said}. Take the risk?", err=True):
        raise typer.Exit(1)


def _bill(said: str) -> tuple[str, Decimal]:
    job, _, usd = said.partition("=")
    try:
        amount = Decimal(usd)
    except InvalidOperation:
        amount = Decimal(-1)
    if not job or not amount.is_finite() or amount < 0:
        raise typer.BadParameter(f"--charged {said!r} is not JOB=USD")
    return job, amount


def _plain(told: Reconciled) -> dict[str, Any]:
    doubts = [
        asdict(line) | {"price_usd": float(line.price_usd), "age_s": round(line.age_s)}
        for line in told.doubts
    ]
    said = {name: getattr(told, name) for name in _COUNTS}
    return {**said, "settled_usd": float(told.settled_usd), "doubts": doubts}


_COUNTS = ("accepted", "absent", "fetched", "resubmit", "written_off")

_WORDS = {
    "accepted": "found at their providers",
    "absent": "never reached their providers: the next run buys them",
    "fetched": "clips fetched",
    "resubmit": "to be bought again by the next run, at your risk",
    "written_off": "written off as charged",
}


def _say(told: Reconciled) -> None:
    for name in _COUNTS:
        if count := getattr(told, name):
            tell(f"{count:,} {_WORDS[name]}")
    if told.settled_usd:
        tell(f"{told.settled_usd:+} USD settled with what was counted")
    if not told.doubts:
        tell("nothing is in doubt")
        return
    Console(highlight=False).print(_table(told.doubts))
    total = sum((line.price_usd for line in told.doubts), Decimal(0))
    more = len(told.doubts) - SHOWN
    if more > 0:
        tell(f"and {more:,} more")
    tell(
        f"{len(told.doubts):,} in doubt, {total} USD: what can be asked was asked. "
        "Look at the providers' own pages; then --resubmit or --write-off"
    )


def _table(doubts: Sequence[DoubtLine]) -> Table:
    table = Table("job", "lane", "age", "USD", "can be asked", "why", box=None)
    for line in sorted(doubts, key=lambda line: -line.age_s)[:SHOWN]:
        asks = "yes" if line.askable else "no"
        table.add_row(
            line.job,
            line.lane,
            _age(line.age_s),
            str(line.price_usd),
            asks,
            line.reason,
        )
    return table


def _age(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return (
        f"{hours // 24} d {hours % 24} h" if hours >= 48 else f"{hours} h {minutes} m"
    )
