"""What a batch says of itself in the Prefect UI: markdown and tables, short and true."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

from manifests.jobs import unsigned
from manifests.reading import Plan
from tasks.night import Night
from tasks.summary import Summary

REASONS: Final = 20
"""Reasons that a summary lists, the commonest first."""

SHOWN: Final = 500
"""Rows of a table artifact: the Parquet table beside the clips has them all."""


def complaints_table(plan: Plan) -> list[dict[str, Any]]:
    """The first bad rows of a manifest."""
    return [
        {
            "row": complaint.row,
            "column": complaint.column,
            "value": complaint.value,
            "reason": complaint.reason,
        }
        for complaint in islice(plan.faults, SHOWN)
    ]


def summary_markdown(summary: Summary, night: Night) -> str:
    """Clips, rejects, doubts, money and time; and what the owner may want to do."""
    parts = [f"# {summary.batch}\n\n{_headline(summary)}"]
    parts.append(
        _table(
            ["rows", "clips", "rejected", "in doubt", "pending"],
            [
                [
                    f"{summary.rows:,}",
                    f"{summary.published:,}",
                    f"{summary.rejected:,}",
                    f"{summary.in_doubt:,}",
                    f"{summary.pending:,}",
                ]
            ],
        )
    )
    parts.append(
        _table(
            ["bought in this run", "spent, USD", "time"],
            [[f"{summary.bought:,}", f"{summary.spent_usd:,.2f}", clock(summary)]],
        )
    )
    if summary.lanes_closed:
        closed = [[name, _safe(why)] for name, why in summary.lanes_closed.items()]
        parts.append("## Lanes closed\n\n" + _table(["lane", "why"], closed))
    if night.plan.bad_rows:
        said = (
            f"{night.plan.bad_rows:,} rows of the manifest are bad: see `complaints`."
        )
        parts.append(said)
    if why := _without_clip(night):
        parts.append("## No clip, and why\n\n" + why)
    parts.append(f"Clips, tables and ledger are under `{_bare(night.wanted.root)}`.")
    return "\n\n".join(parts) + "\n"


def clock(summary: Summary) -> str:
    """The time a run took, as people write it."""
    minutes, seconds = divmod(round(summary.wall_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _headline(summary: Summary) -> str:
    if summary.short_of == "lanes":
        return "**No lane is left**: mend what closed them, and run the batch again."
    if summary.short_of == "budget":
        return "**The budget is spent**: run the batch again with a larger one."
    if summary.in_doubt:
        return (
            f"{_rows(summary.in_doubt)} in doubt: what was submitted may have been "
            "charged, so it is not sent again."
        )
    if summary.pending:
        return f"{_rows(summary.pending)} pending: run the batch again."
    return "Every row is published or rejected."


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count:,} rows are"


def _without_clip(night: Night) -> str:
    rows = [
        [f"{jobs:,}", state.replace("_", " "), _safe(reason)]
        for (state, reason), jobs in night.without_clip().most_common(REASONS)
    ]
    return _table(["jobs", "state", "why"], rows) if rows else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _safe(text: str) -> str:
    """Other people's words, so that they stay in their cell of a markdown table."""
    flat = " ".join(text.split())
    for mark in "\\`|<>[]*_":
        flat = flat.replace(mark, f"\\{mark}" if mark != "<" else "&lt;")
    return flat


def _bare(uri: str) -> str:
    return unsigned(uri).replace("`", "")
