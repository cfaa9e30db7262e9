"""The text of a batch's artifacts: the board, the bill, and the rows without a clip."""

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from flows.dashboard.markdown import safe, table
from flows.views import counted, halt_reason, lasting, left_s, shortened, span
from tasks.batch.batch import BatchRun
from tasks.dispatch import Lane, usd
from tasks.engine.lane_costs import LaneBill
from tasks.engine.stats import FIRST, WaitReason
from tasks.engine.trouble import Trouble

REASONS: Final = 20
"""Reasons that `wrong` lists, the commonest first."""

COUNTED: Final = 50_000
"""The most jobs put aside for which the board still counts the doubts."""

NONE: Final = "\N{EN DASH}"
"""Not a hyphen, which the UI's tables read as the bullet of a list."""

_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+?(?=:?(\s|$))")


def headline(batch_run: BatchRun) -> str:
    """The state of the batch in one line."""
    tally = batch_run.engine.tally
    done = f"{batch_run.done:,} of {batch_run.plan.jobs:,} done"
    if tally.rejected:
        done += f" ({tally.rejected:,} rejected)"
    parts = [done, f"{_spent(batch_run)} USD"]
    if halt := halt_reason(batch_run):
        parts.append(halt)
    elif (left := left_s(batch_run)) is not None:
        parts.append(f"{span(left)} left")
    return ", ".join(parts)


def board(batch_run: BatchRun) -> str:
    """The state of each lane."""
    rows = [
        [
            safe(lane.name),
            _at_work(batch_run, lane),
            f"{line.clips:,}",
            f"{line.lost + line.free:,}" if line.lost + line.free else NONE,
            usd(line.usd),
            _seconds(line.median_s),
        ]
        for lane in batch_run.engine.lanes.all
        for line in [batch_run.engine.tally.bill[lane.name]]
    ]
    header = ["lane", "at work", "clips", "for nothing", "USD", "a clip takes"]
    parts = [table(header, rows)]
    if troubles := batch_run.troubles:
        parts.append(_troubles_table(troubles, batch_run.world.today()))
    if aside := _aside(batch_run):
        parts.append(aside)
    closed = [lane for lane in batch_run.engine.lanes.all if lane.closed]
    parts += [
        f"Lane **{safe(lane.name)}** is closed: {safe(lane.closed or '')}"
        for lane in closed
    ]
    return "\n\n".join(parts) + "\n"


def _troubles_table(troubles: Sequence[Trouble], now: float) -> str:
    """The troubles at this moment, the oldest first."""
    rows = [
        [
            safe(trouble.lane or NONE),
            str(trouble.stage),
            lasting(trouble, now),
            safe(shortened(trouble.reason)),
        ]
        for trouble in troubles
    ]
    return "## Trouble\n\n" + table(["lane", "stage", "how long", "why"], rows, words=4)


def _spent(batch_run: BatchRun) -> str:
    most, spent = batch_run.wanted.budget_usd, batch_run.engine.tally.budget.spent_usd
    return f"{spent:,.2f}" + ("" if most is None else f" of {most:,.2f}")


def _at_work(batch_run: BatchRun, lane: Lane) -> str:
    if lane.closed:
        return "closed"
    return f"{batch_run.at_work(lane):,} of {lane.limiter.slots:,}"


def _aside(batch_run: BatchRun) -> str:
    waiting_jobs = batch_run.engine.tally.waiting_jobs
    if not waiting_jobs:
        return ""
    remark = f"{len(waiting_jobs):,} put aside"
    if len(waiting_jobs) <= COUNTED:
        doubts = Counter(waiting.why for waiting in waiting_jobs.values())[
            WaitReason.DOUBT
        ]
        remark += f", {doubts:,} of them in doubt" if doubts else ""
    return f"{remark}: `nightreel-wrong` will say why."


def bill_table(batch_run: BatchRun) -> list[dict[str, Any]]:
    """The clips bought in this run, by lane."""
    bill = batch_run.engine.tally.bill
    # In the order of the board and of nightreel.toml.
    places = {lane.name: n for n, lane in enumerate(batch_run.engine.lanes.all)}
    every = sorted(bill, key=lambda one: places.get(one[0], len(places)))
    rows = [_billed(name, line) for name, line in every]
    if len(rows) > 1:
        lines = [line for _, line in every]
        total = LaneBill(
            submits=sum(line.submits for line in lines),
            clips=sum(line.clips for line in lines),
            free=sum(line.free for line in lines),
            lost=sum(line.lost for line in lines),
            usd=sum((line.usd for line in lines), Decimal(0)),
        )
        rows.append(_billed("all", total))
    return rows


def bill_note(batch_run: BatchRun) -> str:
    """The money of this run, and the price of a clip."""
    lines = [line for _, line in batch_run.engine.tally.bill]
    clips = sum(line.clips for line in lines)
    spent = sum((line.usd for line in lines), Decimal(0))
    each = f", {spent / clips:.3f} a clip" if clips else ""
    return f"{usd(spent)} USD{each}"


def _billed(name: str, line: LaneBill) -> dict[str, Any]:
    each = line.usd_a_clip
    return {
        "lane": name,
        "submits": f"{line.submits:,}",
        "clips": f"{line.clips:,}",
        "no clip, free": f"{line.free:,}",
        "no clip, charged": f"{line.lost:,}",
        "USD": usd(line.usd),
        "USD a clip": NONE if each is None else f"{each:.3f}",
        "a clip takes": _seconds(line.median_s),
    }


def _seconds(seconds: float | None) -> str:
    return NONE if seconds is None else f"{seconds:,.1f} s"


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
