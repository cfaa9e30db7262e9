"""Troubles, and the reasons why rows have no clip, in lines for people."""

from collections.abc import Iterator
from typing import Final

from flows.views.times import span
from tasks.batch.batch import BatchRun
from tasks.batch.row_states import ReasonGroup
from tasks.engine.trouble import Stage, Trouble

LONGEST: Final = 300
"""Characters of a reason that a line shows."""

GROUPS: Final = 5
"""Reasons that a run prints at its end; the table has the reason of each row."""

NAMED: Final = 3
"""Jobs that a line names."""


def told(trouble: Trouble, now: float) -> str:
    """A trouble in one line; `now` in Unix seconds."""
    return f"{trouble.place}: {shortened(trouble.reason)} ({lasting(trouble, now)})"


def lasting(trouble: Trouble, now: float) -> str:
    """How often a stage has failed, and for how long."""
    what = "job" if trouble.stage is Stage.QUEUE else "failure"
    many = "" if trouble.count == 1 else "s"
    for_s = max(0.0, now - trouble.since)
    return f"{trouble.count:,} {what}{many} in {span(for_s)}"


def shortened(reason: str) -> str:
    """A reason on one line, cut if a provider's answer is long."""
    line = " ".join(reason.split())
    return (
        line
        if len(line) <= LONGEST
        else f"{line[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    )


def unmade(batch_run: BatchRun) -> Iterator[str]:
    """Why rows have no clip, the commonest reason first, and the table that has them all."""
    groups = batch_run.without_clip().groups()
    if not (groups or batch_run.plan.bad_rows):
        return
    yield from map(_line, groups[:GROUPS])
    if more := sum(group.jobs for group in groups[GROUPS:]):
        yield f"{more:,} more for {len(groups) - GROUPS:,} other reasons"
    if bad := batch_run.plan.bad_rows:
        yield f"{bad:,} bad rows, each with its reason in {batch_run.table_uri('complaints')}"
    yield f"every row without a clip, with its reason: {batch_run.table_uri('left')}"


def _line(group: ReasonGroup) -> str:
    first = group.ids[:NAMED] or [f"row {row}" for row in group.rows[:NAMED]]
    some = f" (first: {', '.join(first)})" if first else ""
    state = group.state.replace("_", " ")
    return f"{group.jobs:,} {state}: {shortened(group.reason)}{some}"
