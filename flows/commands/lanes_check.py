"""The check-up at the terminal: what the providers say of the lanes in use, and what is wrong."""

import asyncio
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.commands.terminal import print_json, tell
from flows.config import Settings
from flows.config import lanes as lanes_of
from flows.views.terminal_table import terminal_table
from tasks.dispatch import Finding, cheaper, checked, dearer, usd
from tasks.providers.http import connected

WRONG = 1
"""Exit code: at least one lane differs from the catalogue or cannot be used."""


def check_lanes(settings: Settings, *, as_json: bool) -> int:
    """Ask, and show what came of it; the exit code is 0 where nothing is wrong."""
    found = asyncio.run(_asked(settings))
    if as_json:
        print_json({"lanes": [_plain(finding) for finding in found]})
    else:
        _show(found)
    return WRONG if any(finding.wrong for finding in found) else 0


def _show(found: Sequence[Finding]) -> None:
    console = Console(highlight=False)
    console.print(_table(found))
    console.print("", Text("- is not told by the provider", style="dim"), sep="\n")
    for finding in found:
        for line in finding.wrong:
            tell(line, "red")
        for line in finding.notes:
            tell(line)


async def _asked(settings: Settings) -> list[Finding]:
    on = await lanes_of.opened(settings)
    async with connected() as clients:
        return await checked(on, clients)


def _table(found: Sequence[Finding]) -> Table:
    table = terminal_table(
        *("lane", "route", "key", "credit", "model", "prices", "limits", ""),
        folds=("limits",),
    )
    for finding in found:
        told = finding.report
        credit = None if told.credit_usd is None else usd(told.credit_usd)
        model = {True: "there", False: "gone", None: None}[told.has_model]
        notes = [credit, model, _compared(finding), _borne(finding)]
        end = Text("wrong", "red") if finding.wrong else Text("good", "green")
        cells = [one or Text("-", style="dim") for one in notes]
        table.add_row(
            Text(finding.lane, style="bold"),
            finding.route.name,
            finding.key,
            *cells,
            end,
        )
    return table


def _compared(finding: Finding) -> str | None:
    if not finding.report.prices_usd:
        return None
    more = dearer(finding.route, finding.report)
    less = cheaper(finding.route, finding.report)
    told = [
        f"{len(more)} dearer" if more else "",
        f"{len(less)} cheaper" if less else "",
    ]
    return "\n".join(filter(None, told)) or "as listed"


def _borne(finding: Finding) -> str | None:
    told = finding.report
    limits = [
        (told.slots, "at once"),
        (told.submits_per_minute, "a minute"),
        (told.submits_per_day, "a day"),
    ]
    return ", ".join(f"{most} {of}" for most, of in limits if most is not None) or None


def _plain(finding: Finding) -> dict[str, Any]:
    told = finding.report
    return {
        "lane": finding.lane,
        "route": finding.route.name,
        "key": finding.key,
        "credit_usd": None if told.credit_usd is None else float(told.credit_usd),
        "has_model": told.has_model,
        "prices": [
            {"resolution": resolution, "seconds": seconds, "usd": float(price)}
            for (resolution, seconds), price in told.prices_usd.items()
        ],
        "slots": told.slots,
        "submits_per_minute": told.submits_per_minute,
        "submits_per_day": told.submits_per_day,
        "wrong": [*finding.wrong],
        "notes": [*finding.notes],
    }
