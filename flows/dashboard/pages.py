"""The text of a batch's artifacts: the board, the bill, and the rows without a clip."""

import re
from collections import Counter
from decimal import Decimal
from typing import Any, Final

from flows.dashboard.markdown import safe, table
from flows.views.progress import halted, left_s
from flows.views.times import span
from tasks.batch.batch import Night
from tasks.dispatch.lanes import Lane
from tasks.dispatch.preflight import usd
from tasks.engine.lane_costs import Line
from tasks.engine.stats import FIRST, WaitReason

REASONS: Final = 20
"""Reasons that `wrong` lists, the commonest first."""

COUNTED: Final = 50_000
"""The most jobs put aside for which the board still counts the doubts."""

NONE: Final = "\N{EN DASH}"
"""Not a hyphen, which the UI's tables read as the bullet of a list."""

_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+?(?=:?(\s|$))")


def headline(night: Night) -> str:
    """The state of the batch in one line."""
    tally = night.engine.tally
    done = f"{night.done:,} of {night.plan.jobs:,} done"
    if tally.rejected:
        done += f" ({tally.rejected:,} refused)"
    parts = [done, f"{_spent(night)} USD"]
    if halt := halted(night):
        parts.append(halt)
    elif (left := left_s(night)) is not None:
        parts.append(f"{span(left)} left")
    return ", ".join(parts)


def board(night: Night) -> str:
    """The state of each lane."""
    rows = [
        [
            safe(lane.name),
            _at_work(night, lane),
            f"{line.clips:,}",
            f"{line.lost + line.free:,}" if line.lost + line.free else NONE,
            usd(line.usd),
            _seconds(line.median_s),
        ]
        for lane in night.engine.lanes.all
        for line in [night.engine.tally.bill[lane.name]]
    ]
    header = ["lane", "at work", "clips", "for nothing", "USD", "a clip takes"]
    parts = [table(header, rows)]
    if aside := _aside(night):
        parts.append(aside)
    closed = [lane for lane in night.engine.lanes.all if lane.closed]
    parts += [
        f"Lane **{safe(lane.name)}** is closed: {safe(lane.closed or '')}"
        for lane in closed
    ]
    return "\n\n".join(parts) + "\n"


def _spent(night: Night) -> str:
    most, spent = night.wanted.budget_usd, night.engine.tally.purse.spent_usd
    return f"{spent:,.2f}" + ("" if most is None else f" of {most:,.2f}")


def _at_work(night: Night, lane: Lane) -> str:
    if lane.closed:
        return "closed"
    return f"{night.at_work(lane):,} of {lane.limiter.slots:,}"


def _aside(night: Night) -> str:
    waiting_jobs = night.engine.tally.waiting_jobs
    if not waiting_jobs:
        return ""
    remark = f"{len(waiting_jobs):,} put aside"
    if len(waiting_jobs) <= COUNTED:
        doubts = Counter(waiting.why for waiting in waiting_jobs.values())[
            WaitReason.DOUBT
        ]
        remark += f", {doubts:,} of them in doubt" if doubts else ""
    return f"{remark}: `wrong` will say why."


def bill_table(night: Night) -> list[dict[str, Any]]:
    """The clips bought in this run, by lane."""
    bill = night.engine.tally.bill
    # In the order of the board and of nightreel.toml.
    places = {lane.name: n for n, lane in enumerate(night.engine.lanes.all)}
    every = sorted(bill, key=lambda one: places.get(one[0], len(places)))
    rows = [_billed(name, line) for name, line in every]
    if len(rows) > 1:
        lines = [line for _, line in every]
        total = Line(
            submits=sum(line.submits for line in lines),
            clips=sum(line.clips for line in lines),
            free=sum(line.free for line in lines),
            lost=sum(line.lost for line in lines),
            usd=sum((line.usd for line in lines), Decimal(0)),
        )
        rows.append(_billed("all", total))
    return rows


def _billed(name: str, line: Line) -> dict[str, Any]:
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


def wrong_table(night: Night) -> list[dict[str, Any]]:
    """Why rows have no clip, the commonest reason first, with the first rows of each."""
    reasons = night.without_clip()
    jobs, rows = Counter[tuple[str, str]](), dict[tuple[str, str], list[int]]()
    for (state, reason), count in reasons.jobs.items():
        # A still's reason contains its URI: group reasons without it.
        like = state.replace("_", " "), _URI.sub("its still", reason, count=1)
        jobs[like] += count
        first = [*rows.get(like, []), *reasons.rows[state, reason]]
        rows[like] = sorted(first)[:FIRST]
    for reason, count, first in night.plan.faults_alike(FIRST):
        jobs["bad row", reason] = count
        rows["bad row", reason] = first
    listed = jobs.most_common(REASONS)
    stills = night.stills({row for like, _ in listed for row in rows[like]})
    return [
        {
            # Narrow columns first: a reason may be wider than the page.
            "how many": f"{count:,}",
            "state": "refused" if like[0] == "rejected" else like[0],
            "first rows": ", ".join(map(str, rows[like])) or NONE,
            "why": like[1],
            "their stills": ", ".join(stills.get(row, "embedded") for row in rows[like])
            or NONE,
        }
        for like, count in listed
    ]
