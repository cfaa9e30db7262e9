"""The tables a batch leaves: the outcome of every row, and complaints about bad ones."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from manifests.input import COLUMN as EMBEDDED
from manifests.input import Plan, reading, scan, validation
from manifests.job_keys import KEY, ids
from manifests.lifecycle import NEW, History, State
from manifests.parquet import MONEY, SLICE, rewritten, written
from manifests.uris import unsigned

INVALID: Final = "invalid"
"""The state of a row that is not a job; its reason is its complaints."""

TIME: Final = pl.Datetime("us", "UTC")
CLIPS: Final = pl.Schema(
    {
        "row": pl.UInt32,
        "job": pl.String,
        "state": pl.String,
        "uri": pl.String,
        "sha256": pl.String,
        "bytes": pl.Int64,
        "lane": pl.String,
        "provider": pl.String,
        "model_used": pl.String,
        "remote_id": pl.String,
        "seed_used": pl.Int64,
        "attempts": pl.UInt32,
        "price_usd": MONEY,
        "spent_usd": MONEY,
        "submitted_at": TIME,
        "accepted_at": TIME,
        "generated_at": TIME,
        "published_at": TIME,
        "seconds": pl.Float64,
        "fps": pl.Float64,
        "width": pl.UInt32,
        "height": pl.UInt32,
        "codec": pl.String,
        "frames": pl.UInt32,
        "rotation": pl.UInt32,
        "differs": pl.String,
        "reason": pl.String,
    }
)

# The reason why a row has no clip, if its history does not state one.
_WHY: Final[Mapping[State, str]] = {
    State.PENDING: "not made yet: the batch ended before its turn",
    State.IN_DOUBT: "submitted, but no answer is on record: it may have been charged",
    State.ACCEPTED: "the provider has it: the batch ended before it was ready",
    State.GENERATED: "the clip is at the provider: the batch ended before it was fetched",
    State.REJECTED: "rejected",
    State.UNPLAYABLE: "what the provider made is no clip",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """The outcomes of jobs, by their ids."""

    histories: Mapping[str, History]
    reasons: Mapping[str, str]
    """The reason why a job waits, if a run knows more than the ledger."""

    def history(self, job: str) -> History:
        return self.histories.get(job, NEW)

    def why(self, job: str) -> str | None:
        """Why it has no clip; None if it has one."""
        history = self.history(job)
        if history.state is State.PUBLISHED:
            return None
        return self.reasons.get(job) or history.reason or _WHY.get(history.state)

    def of(self, job: str) -> tuple[Any, ...]:
        """A job's part of its rows, in the order of CLIPS."""
        history = self.history(job)
        facts = history.facts
        provider, _, model = (history.route or "").partition("/")
        return (
            job,
            history.state.value,
            history.uri,
            facts and facts.sha256,
            facts and facts.bytes,
            history.lane,
            provider or None,
            model or None,
            history.ticket and history.ticket.id,
            history.seed,
            history.attempts,
            history.price_usd if history.attempts else None,
            history.spent_usd,
            moment(history.submitted_at),
            moment(history.accepted_at),
            moment(history.generated_at),
            moment(history.published_at),
            facts and facts.seconds,
            facts and facts.fps,
            facts and facts.width,
            facts and facts.height,
            facts and facts.codec,
            facts and facts.frames,
            facts and facts.rotation,
            (facts and facts.differs) or None,
            self.why(job),
        )


Tell = Callable[[pl.DataFrame], Outcomes]
"""Gives the outcomes of the jobs with these keys: columns key and also."""


def write_clips(path: Path, manifest: Path, plan: Plan, tell: Tell) -> None:
    """Write one row per manifest row: its own columns, then its outcome.

    `image_bytes` is left out and `image` loses its signature. A column of the manifest
    with the name of one of ours is renamed to `<name>_in`. Rows that share a job repeat
    its prices: sum them over `job`, not over rows.
    """
    with written(path) as write:
        for first, carried in _carried(manifest, plan):
            rows, outcomes = fates(plan, first, carried.height, tell)
            told = [
                (row, *outcomes.of(job))
                if job
                else (row, None, INVALID, *_NOTHING, why)
                for row, job, why in rows.iter_rows()
            ]
            ours = pl.DataFrame(told, schema=CLIPS, orient="row")
            write(carried.rename(_apart(carried.columns)).hstack(ours))


def retold_clips(
    table: Path, out: Path, outcomes: Outcomes, jobs: Collection[str]
) -> bool:
    """Write a clips table to `out` with these jobs' new outcomes; return if any changed.

    Every other row and the order of rows stay as they are.
    """
    of_jobs = pl.col("job").is_in([*jobs])

    def retold(rows: pl.DataFrame) -> pl.DataFrame:
        found = rows.filter(of_jobs).select("row", "job").iter_rows()
        told = [(row, *outcomes.of(job)) for row, job in found]
        anew = pl.DataFrame(told, schema=CLIPS, orient="row")
        return rows.update(anew, on="row", include_nulls=True)

    return rewritten(table, out, retold)


def fates(
    plan: Plan, first: int, count: int, tell: Tell
) -> tuple[pl.DataFrame, Outcomes]:
    """The `count` rows of a plan from `first`, and the outcomes of their jobs.

    Columns: row, job, and the reason if the row is not a job.
    """
    span = pl.Series("row", range(first, first + count), pl.UInt32)
    in_span = pl.col("row").is_between(first, first + count - 1)
    wanted = plan.wanted.filter(in_span).select("row", *KEY)
    jobs = wanted.select("row", pl.Series("job", ids(wanted), pl.String))
    rows = span.to_frame()
    for known in (jobs, in_words(plan.complaints.filter(in_span))):
        rows = rows.join(known, "row", "left", maintain_order="left")
    return rows, tell(wanted.select(*KEY))


def write_complaints(path: Path, plan: Plan) -> None:
    """Write one row per complaint: row, column, value, reason; the last three are text.

    After the first 100,000 they repeat no value.
    """
    text = pl.col("column", "value", "reason").cast(pl.String)
    with written(path) as write:
        for some in plan.complaints.iter_slices(SLICE):
            write(some.with_columns(text))
        write(validation.none().with_columns(text))


def moment(at: float | None) -> datetime | None:
    """A time of the ledger as a table's date and time."""
    return None if at is None else datetime.fromtimestamp(at, UTC)


def _carried(manifest: Path, plan: Plan) -> Iterator[tuple[int, pl.DataFrame]]:
    """The manifest's own columns in slices, each with the number of its first row."""
    frame = scan(manifest, plan.uri)
    kept = [name for name in frame.collect_schema() if name != EMBEDDED]
    for first in range(0, max(plan.rows, 1), SLICE):
        with reading(plan.uri):
            some = frame.select(kept).head(plan.rows).slice(first, SLICE).collect()
        if "image" in kept:
            named = [
                image and unsigned(image) for image in some["image"].cast(pl.String)
            ]
            some = some.with_columns(pl.Series("image", named, pl.String))
        yield first, some


def _apart(carried: Iterable[str]) -> dict[str, str]:
    """New names for the manifest's columns that have the name of one of ours."""
    taken = {*CLIPS, *carried}
    apart: dict[str, str] = {}
    for name in carried:
        if name in CLIPS:
            free = f"{name}_in"
            while free in taken:
                free = f"{free}_in"
            taken.add(free)
            apart[name] = free
    return apart


def in_words(wrong: pl.DataFrame) -> pl.DataFrame:
    """All complaints about each bad row as one text: row, reason."""
    complaint = pl.format("{} {}", "column", "reason").sort_by("column")
    return wrong.group_by("row").agg(reason=complaint.str.join("; "))


_NOTHING: Final = (None,) * (len(CLIPS) - 4)
