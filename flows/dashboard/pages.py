"""The tables of a batch: its bill, and the rows without a clip."""

import re
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

from flows.views import counted
from tasks.batch.batch import BatchRun
from tasks.dispatch import usd
from tasks.engine.lane_costs import LaneBill
from tasks.engine.stats import FIRST

REASONS: Final = 20
"""Reasons that `wrong` lists, the commonest first."""

NONE: Final = "\N{EN DASH}"
"""Not a hyphen, which the UI's tables read as the bullet of a list."""

_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+?(?=:?(\s|$))")


def lane_bills(batch_run: BatchRun) -> list[tuple[str, LaneBill]]:
    """The purchases of this run by lane, those of lanes without any too.

    The last one is `all`, if there is more than one lane.
    """
    bill = batch_run.engine.tally.bill
    # In the order of nightreel.toml; a lane of an earlier run comes last.
    names = dict.fromkeys([lane.name for lane in batch_run.engine.lanes.all])
    names |= dict.fromkeys(name for name, _ in bill)
    every = [(name, bill[name]) for name in names]
    if len(every) > 1:
        every.append(("all", total(line for _, line in every)))
    return every


def total(lines: Iterable[LaneBill]) -> LaneBill:
    """The sum of some bills."""
    every = LaneBill()
    for line in lines:
        every.add(line)
    return every


def bill_table(batch_run: BatchRun) -> list[dict[str, Any]]:
    """The clips bought in this run, by lane; empty if nothing was submitted."""
    bought = {name for name, _ in batch_run.engine.tally.bill}
    lines = lane_bills(batch_run)
    rows = [_billed(name, line) for name, line in lines if name in bought]
    return [*rows, _billed(*lines[-1])] if len(rows) > 1 else rows


def bill_note(batch_run: BatchRun) -> str:
    """The money of this run, and the price of a clip."""
    bought = total(line for _, line in batch_run.engine.tally.bill)
    each = f", {bought.usd / bought.clips:.3f} a clip" if bought.clips else ""
    return f"{usd(bought.usd)} USD{each}"


def _billed(name: str, line: LaneBill) -> dict[str, Any]:
    return {
        "lane": name,
        "submits": f"{line.submits:,}",
        "clips": f"{line.clips:,}",
        "no clip, free": f"{line.free:,}",
        "no clip, charged": f"{line.lost:,}",
        "USD": usd(line.usd),
        "USD a clip": usd_a_clip(line.usd_a_clip),
        "a clip takes": seconds(line.median_s),
    }


def usd_a_clip(each: Decimal | None) -> str:
    return NONE if each is None else f"{each:.3f}"


def seconds(number: float | None) -> str:
    return NONE if number is None else f"{number:,.1f} s"


def wrong_note(batch_run: BatchRun, reasons: int) -> str:
    """The number of jobs and bad rows without a clip, and of the reasons that are listed."""
    jobs = sum(group.jobs for group in batch_run.without_clip().groups())
    count = jobs + batch_run.plan.bad_rows
    return f"{count:,} without a clip, {counted(reasons, 'reason')}"


def wrong_table(batch_run: BatchRun) -> list[dict[str, Any]]:
    """Why rows have no clip, the commonest reason first, with the first rows of each."""
    jobs, rows = Counter[tuple[str, str]](), dict[tuple[str, str], list[int]]()
    for group in batch_run.without_clip().groups():
        # The stills have their own column.
        reason = _URI.sub("its still", group.reason, count=1)
        like = group.state.replace("_", " "), reason
        jobs[like] += group.jobs
        rows[like] = sorted([*rows.get(like, []), *group.rows])[:FIRST]
    for reason, count, first in batch_run.plan.faults_alike(FIRST):
        jobs["bad row", reason] = count
        rows["bad row", reason] = first
    listed = jobs.most_common(REASONS)
    stills = batch_run.stills({row for like, _ in listed for row in rows[like]})
    return [
        {
            # Narrow columns first: a reason may be wider than the page.
            "how many": f"{count:,}",
            "state": like[0],
            "first rows": ", ".join(map(str, rows[like])) or NONE,
            "why": like[1],
            "their stills": ", ".join(stills.get(row, "embedded") for row in rows[like])
            or NONE,
        }
        for like, count in listed
    ]
