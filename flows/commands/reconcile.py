"""The command `reconcile`: settles jobs in doubt by asking providers and the owner."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from flows.commands.terminal import (
    Config,
    Json,
    LaneNames,
    chosen,
    err,
    existing,
    print_json,
    tell,
)
from flows.config import Settings, amount
from flows.config import lanes as lanes_of
from flows.views import doubts_table, more_doubts
from manifests.lifecycle import FREE
from tasks.dispatch import usd
from tasks.reconcile import (
    Decisions,
    DoubtLine,
    Reconciled,
    Reconciliation,
    opened,
)

ALL = "all"


def reconcile(  # noqa: PLR0913 - each is an option
    root: Annotated[str, typer.Argument(help="The URI of the root.")],
    *,
    config: Config = None,
    lanes: LaneNames = None,
    resubmit: Annotated[
        str | None,
        typer.Option(
            help="Buy these jobs again, at your risk: ids separated by commas, or `all`."
        ),
    ] = None,
    write_off: Annotated[
        str | None,
        typer.Option(
            help="Give these jobs up as charged: ids separated by commas, or `all`."
        ),
    ] = None,
    charged: Annotated[
        list[str] | None,
        typer.Option(
            help="JOB=USD: the amount on the provider's invoice. May be repeated."
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before a job is bought again.")
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Fence out a run that holds the root."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Settle jobs in doubt, fetch finished clips, and correct the money."""
    settings, uri = chosen(config, lanes), existing(root)
    decided = Decided(
        resubmit=_names("--resubmit", resubmit),
        write_off=_names("--write-off", write_off),
        charged=_bills(charged or ()),
    )
    told = Reconciled()
    if decided.resubmit and not yes:
        # The root is free while a person decides.
        told = asyncio.run(_asked(settings, uri, decided, take_over=take_over))
        if not _dared(told.doubts, decided, settings.lanes):
            _end(told, settings, as_json=as_json)
    before = told
    told = asyncio.run(settled(settings, uri, decided, take_over=take_over))
    told.accepted += before.accepted
    told.absent += before.absent
    _end(told, settings, as_json=as_json)


def _end(told: Reconciled, settings: Settings, *, as_json: bool) -> NoReturn:
    if as_json:
        print_json(plain(told))
    else:
        say(told, settings.lanes)
    raise typer.Exit(1 if told.doubts or told.parked else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The owner's options; `all` means every doubt that no other option names."""

    resubmit: frozenset[str] = frozenset()
    write_off: frozenset[str] = frozenset()
    charged: Mapping[str, Decimal] = field(default_factory=dict[str, Decimal])

    def of(self, doubts: Collection[str]) -> Decisions:
        """The decisions for these doubts."""
        named = self.resubmit | self.write_off
        others = frozenset(doubts) - named
        return Decisions(
            resubmit=others if ALL in self.resubmit else self.resubmit,
            write_off=others if ALL in self.write_off else self.write_off,
            charged=self.charged,
        )

    def left(self, doubts: Collection[str]) -> Decisions:
        """The decisions for the doubts that are left after the providers were asked."""
        all_of = self.of(doubts)
        return Decisions(
            resubmit=all_of.resubmit.intersection(doubts),
            write_off=all_of.write_off.intersection(doubts),
            charged=self.charged,
        )


async def _asked(
    settings: Settings, root: str, decided: Decided, *, take_over: bool
) -> Reconciled:
    """Ask about every doubt, and decide nothing."""
    async with _asking(settings, root, decided, take_over=take_over) as reconciliation:
        pass
    return reconciliation.told


async def settled(
    settings: Settings, root: str, decided: Decided, *, take_over: bool
) -> Reconciled:
    """Ask about every doubt, apply the decisions, fetch what is ready, adjust the bill."""
    async with _asking(settings, root, decided, take_over=take_over) as reconciliation:
        await reconciliation.decide(decided.left(reconciliation.doubts()))
        await reconciliation.fetch()
        await reconciliation.settle()
    return reconciliation.told


@asynccontextmanager
async def _asking(
    settings: Settings, root: str, decided: Decided, *, take_over: bool
) -> AsyncGenerator[Reconciliation]:
    """A reconciliation that has checked the decisions and asked about every doubt."""
    on, rules = await lanes_of.opened(settings), lanes_of.rules(settings)
    async with opened(
        root, lanes=on, rules=rules, take_over=take_over
    ) as reconciliation:
        await reconciliation.check(decided.of(reconciliation.doubts()))
        await reconciliation.ask()
        yield reconciliation


def _dared(
    doubts: Sequence[DoubtLine], decided: Decided, lanes: Collection[str]
) -> bool:
    """Show the sum that may be paid twice, and ask."""
    jobs = decided.left([doubt.job for doubt in doubts]).resubmit
    if not jobs:
        return True
    going = [doubt for doubt in doubts if doubt.job in jobs]
    risked = sum((doubt.price_usd for doubt in going), FREE)
    err.print(doubts_table(going, lanes))
    go = "1 job goes" if len(jobs) == 1 else f"{len(jobs):,} jobs go"
    question = (
        f"{go} again: {usd(risked)} USD may be paid a second time. Take the risk?"
    )
    try:
        dares = typer.confirm(question, err=True)
    except typer.Abort:
        # No one can answer: end the line of the question on stderr.
        tell("")
        dares = False
    if not dares:
        tell("nothing was decided")
    return dares


def _names(option: str, option_value: str | None) -> frozenset[str]:
    if option_value is None:
        return frozenset()
    found = frozenset(filter(None, (name.strip() for name in option_value.split(","))))
    if not found or (ALL in found and len(found) > 1):
        raise typer.BadParameter(
            f"{option_value!r} is neither ids nor {ALL}", param_hint=option
        )
    return found


def _bills(charged: Sequence[str]) -> dict[str, Decimal]:
    bills: dict[str, Decimal] = {}
    for pair in charged:
        job, _, billed = pair.partition("=")
        try:
            exact = amount(billed)
        except ValueError as exc:
            wrong = f"{pair!r} is not JOB=USD: {billed!r} {exc}"
            raise typer.BadParameter(wrong, param_hint="--charged") from exc
        if not job or job in bills:
            wrong = f"{pair!r} names no job" if not job else f"{job} is named twice"
            raise typer.BadParameter(wrong, param_hint="--charged")
        bills[job] = exact
    return bills


def plain(told: Reconciled) -> dict[str, Any]:
    doubts = [
        asdict(line) | {"price_usd": float(line.price_usd), "age_s": round(line.age_s)}
        for line in told.doubts
    ]
    counts = {name: getattr(told, name) for name in _WORDS}
    return {
        **counts,
        "settled_usd": float(told.settled_usd),
        "in_doubt_usd": float(_price(told)),
        "parked": told.parked,
        "doubts": doubts,
    }


_WORDS = {
    "accepted": "found at their providers",
    "absent": "never reached their providers: the next run buys them",
    "fetched": "clips fetched",
    "expired": "clips expired at their providers: paid for and lost, to be bought again",
    "resubmit": "to be bought again by the next run, at your risk",
    "written_off": "written off as charged",
}


def _price(told: Reconciled) -> Decimal:
    return sum((line.price_usd for line in told.doubts), FREE)


def say(told: Reconciled, lanes: Collection[str]) -> None:
    for name, words in _WORDS.items():
        if count := getattr(told, name):
            tell(f"{count:,} {words}")
    for reason, clips in told.parked.items():
        tell(f"{clips:,} not fetched: {reason}", "yellow")
    if more := told.settled_usd:
        way = "more" if more > 0 else "less"
        tell(f"{usd(abs(more))} USD {way} charged than was counted")
    if not told.doubts:
        tell("nothing is in doubt")
        return
    console = Console(highlight=False)
    console.print(doubts_table(told.doubts, lanes))
    for line in more_doubts(told.doubts):
        console.print(line)
    tell(
        f"{len(told.doubts):,} in doubt, {usd(_price(told))} USD: what can be asked was "
        "asked. Look at the providers' own pages; then --resubmit or --write-off"
    )
