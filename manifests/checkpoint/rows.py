"""Events and histories as rows of Parquet: the content of a bound epoch's volumes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from manifests.checkpoint.columns import EXACT, FACTS, TICKET, Shape, dumped, loaded
from manifests.job_keys import KEY, ids, keys
from manifests.lifecycle import KINDS, Entry, Event, History
from manifests.parquet import MONEY

EVENTS: Final = pl.Schema(
    {
        "job": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "unix": pl.Float64,  # the same time, exact
        "kind": pl.String,
        "lane": pl.String,
        "route": pl.String,
        "price_usd": MONEY,
        "seed": pl.Int64,
        "mark": pl.String,
        **TICKET,
        "reason": pl.String,
        "lost": pl.String,
        "stages": pl.String,  # generated: seconds by stage, as a JSON object
        "charged": pl.Boolean,
        "usd": MONEY,  # generated: what was charged; settled: what is added to it
        "attempt": pl.Int64,
        "uri": pl.String,
        **FACTS,
        EXACT: pl.String,
    }
)
"""A row for each event, in the order in which they were recorded."""

JOBS: Final = pl.Schema(
    {
        **KEY,
        "state": pl.String,
        "attempts": pl.Int64,
        "failures": pl.Int64,
        "discards": pl.Int64,
        "losses": pl.Int64,
        "risks": pl.Int64,
        "parks": pl.Int64,
        "failed_route": pl.String,
        "lane": pl.String,
        "route": pl.String,
        "price_usd": MONEY,
        "spent_usd": MONEY,
        "seed": pl.Int64,
        "mark": pl.String,
        "stages": pl.String,
        "lost": pl.String,
        **TICKET,
        "uri": pl.String,
        **FACTS,
        "reason": pl.String,
        "submitted_at": pl.Float64,  # Unix seconds, as all times here
        "accepted_at": pl.Float64,
        "generated_at": pl.Float64,
        "published_at": pl.Float64,
        EXACT: pl.String,
    }
)
"""A row for each life that an epoch touched: its whole history after it."""

INDEX: Final = pl.Schema({**KEY, "state": pl.String, "whole": pl.String})
"""A row for each of these lives; `whole` has the history of a life not over, as JSON."""

_SHAPES: Final[Mapping[str, Shape]] = {
    name: Shape.of(kind) for name, kind in KINDS.items()
}
_NAMES: Final[Mapping[type[Event], str]] = {kind: name for name, kind in KINDS.items()}
_HISTORY: Final = Shape.of(History)


def event_rows(entries: Sequence[Entry]) -> pl.DataFrame:
    """Entries as rows of EVENTS, in their order."""
    places: dict[str, list[int]] = {}
    for place, entry in enumerate(entries):
        places.setdefault(_NAMES[type(entry.event)], []).append(place)
    rows = [pl.DataFrame(schema={"place": pl.UInt32, **EVENTS})]
    for kind, some in places.items():
        stored = _SHAPES[kind].rows([entries[place].event for place in some], EVENTS)
        place = pl.Series("place", some, pl.UInt32)
        rows.append(stored.with_columns(place, pl.lit(kind).alias("kind")))
    jobs = pl.Series("job", [entry.job for entry in entries], pl.String)
    unix = pl.Series("unix", [entry.at for entry in entries], pl.Float64)
    at = (unix * 1e6).round().cast(pl.Int64, strict=False).cast(EVENTS["at"])
    return (
        pl.concat(rows, how="diagonal")
        .sort("place")
        .with_columns(jobs, unix, at.alias("at"))
        .select(EVENTS.names())
    )


def entries(rows: pl.DataFrame) -> list[Entry]:
    """The entries in these rows, in their order."""
    by_kind = rows.partition_by("kind", as_dict=True)
    events = {kind: _SHAPES[kind].values(part) for (kind,), part in by_kind.items()}
    told = zip(rows["job"], rows["unix"], rows["kind"], strict=True)
    return [Entry(job, at, next(events[kind])) for job, at, kind in told]


def job_rows(lives: Mapping[str, History]) -> pl.DataFrame:
    """Lives as rows of JOBS, in their order."""
    stored: Any = _HISTORY.rows([*lives.values()], JOBS)
    return keys(lives).hstack(stored).select(JOBS.names())


def histories(rows: pl.DataFrame) -> dict[str, History]:
    """The lives in these rows, in their order."""
    return dict(zip(ids(rows), _HISTORY.values(rows), strict=True))


def index_rows(lives: Mapping[str, History]) -> pl.DataFrame:
    """Lives that are not over as rows of INDEX, in their order."""
    states = pl.Series("state", [one.state.value for one in lives.values()], pl.String)
    whole = pl.Series("whole", [dumped(one) for one in lives.values()], pl.String)
    return keys(lives).hstack([states, whole])


def whole(rows: pl.DataFrame) -> dict[str, History]:
    """The lives whose history is whole in these rows of INDEX."""
    part = rows.filter(pl.col("whole").is_not_null())
    told = (loaded(History, text) for text in part["whole"])
    return dict(zip(ids(part), told, strict=True))
