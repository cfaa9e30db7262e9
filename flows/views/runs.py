"""The latest run of each manifest: its troubles, and why rows have no clip."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any, Final

from rich.console import RenderableType
from rich.text import Text

from flows.views.terminal_table import terminal_table
from flows.views.times import span, utc
from flows.views.troubles import NAMED, lasting, shortened
from tasks.engine.trouble import Trouble

SILENT_S: Final = 90.0
"""The age of a report after which its run may be dead."""

GROUPS: Final = 10
"""Reasons that are shown for each run."""

Report = Mapping[str, Any]


def plain(report: Report) -> dict[str, Any]:
    """For programs: the report as it is, with its times as text."""
    troubles = [
        {**one, "since": utc(float(one["since"]))} for one in report["troubles"]
    ]
    return {**report, "at": utc(float(report["at"])), "troubles": troubles}


def told_at(reports: Sequence[Report]) -> float:
    """The time of the newest report, if its run goes on or was killed; inf if it is over."""
    newest = max(reports, key=lambda report: report["at"], default=None)
    return inf if newest is None or newest["over"] else float(newest["at"])


def never_bought(reports: Sequence[Report], begun: int) -> int:
    """Jobs for which nothing was ever submitted, by the latest run of each manifest.

    `begun` jobs were first submitted after the newest report of a run that is not over.
    """
    count = sum(report["never_bought"] or 0 for report in reports)
    return max(0, count - begun)


def report_lines(report: Report, now: float) -> Iterator[RenderableType]:
    """The state of one run, if a row has no clip or something fails."""
    troubles = [] if report["over"] else [*map(Trouble.load, report["troubles"])]
    if not (troubles or report["waiting"] or report["never_bought"]):
        return
    yield Text(f"{report['batch']}, {_standing(report, now)}", "bold")
    if troubles:
        table = terminal_table("lane", "fails at", "how long", "why", folds=("why",))
        for trouble in troubles:
            table.add_row(
                trouble.lane,
                str(trouble.stage),
                lasting(trouble, now),
                Text(shortened(trouble.reason)),
                style="yellow",
            )
        yield table
    if report["waiting"]:
        yield _waiting(report["waiting"])


def _standing(report: Report, now: float) -> str:
    age_s = max(0.0, now - report["at"])
    state = f"{report['done']:,} of {report['jobs']:,} done"
    if report["over"]:
        state += f", ended {span(age_s)} ago"
    elif age_s > SILENT_S:
        state += f", no report for {span(age_s)}: it may have been killed"
    else:
        state += ", running"
    if report["stopped"]:
        state += f" ({shortened(report['stopped'])})"
    return state


def _waiting(groups: Sequence[Report]) -> RenderableType:
    table = terminal_table(
        *("jobs", "state", "why", "first"), right=("jobs",), folds=("why", "first")
    )
    for group in groups[:GROUPS]:
        first = group["ids"] or [f"row {row}" for row in group["rows"]]
        table.add_row(
            f"{group['jobs']:,}",
            group["state"].replace("_", " "),
            Text(shortened(group["reason"])),
            Text(" ".join(first[:NAMED])),
        )
    return table
