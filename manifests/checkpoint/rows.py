"""Events and histories as rows of Parquet: the content of a bound epoch's volumes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import polars as pl

from manifests.checkpoint.columns import (
    EXACT,
    FACTS,
    TICKET,
    Shape,
    dumped,
    facts_columns,
    loaded,
    stored,
    ticket_columns,
)
from manifests.job_keys import KEY, ids, keys
from manifests.lifecycle import KINDS, NEW, Entry, History, State
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

_NAMES: Final[Mapping[type[Any], str]] = {kind: name for name, kind in KINDS.items()}
_SHAPES: Final[Mapping[type[Any], Shape]] = {kind: Shape.of(kind) for kind in _NAMES}
_HISTORY: Final = Shape.of(History)
_MADE: Final = replace(NEW, state=State.PUBLISHED, attempts=1)
"""The fields that are alike in all jobs that were published at their first submit."""


class DecodedEntry(Protocol):
    """A line of the ledger as it was decoded: an entry, with the fields of its event.

    Amounts are text. A ticket and facts are objects with the attributes of `Ticket` and
    `Facts`.
    """

    @property
    def job(self) -> str: ...
    @property
    def at(self) -> float: ...


def event_rows(entries: Sequence[Entry]) -> pl.DataFrame:
    """Entries as rows of EVENTS, in their order."""
    places = _places([type(entry.event) for entry in entries])
    rows = [
        _SHAPES[kind].rows([entries[place].event for place in some], EVENTS)
        for kind, some in places.items()
    ]
    return _in_order(entries, places, rows)


def line_rows(
    lines: Sequence[DecodedEntry], kinds: Mapping[type[Any], type[Any]]
) -> pl.DataFrame | None:
    """Lines as rows of EVENTS, given the kind of event of each class of lines.

    None if a column cannot hold a value as it is: then make them `event_rows`.
    """
    places = _places([kinds[type(line)] for line in lines])
    rows: list[pl.DataFrame] = []
    for kind, some in places.items():
        columns = _SHAPES[kind].columns([lines[place] for place in some])
        found, held = stored(columns, EVENTS)
        if not held:
            return None
        rows.append(found)
    return _in_order(lines, places, rows)


def made_rows(
    made: Mapping[str, tuple[Any, Any, Any, Any]],
) -> pl.DataFrame | None:
    """Rows of JOBS for jobs that were published at their first submit, given their four
    lines: intended, accepted, generated, published.

    It equals `job_rows` of their histories, and takes a tenth of the time. None if a
    column cannot hold a value as it is.
    """
    intended, accepted, generated, published = zip(*made.values(), strict=True)
    pairs = [*zip(intended, generated, strict=True)]
    cost = [one.price_usd if clip.usd is None else clip.usd for one, clip in pairs]
    columns = {
        "lane": [one.lane for one in intended],
        "route": [one.route for one in intended],
        "price_usd": cost,
        "seed": [one.seed if clip.seed is None else clip.seed for one, clip in pairs],
        "mark": [one.mark for one in intended],
        "stages": [one.stages for one in generated],
        **ticket_columns([one.ticket for one in accepted]),
        "uri": [one.uri for one in published],
        **facts_columns([one.facts for one in published]),
        "submitted_at": [one.at for one in intended],
        "accepted_at": [one.at for one in accepted],
        "generated_at": [one.at for one in generated],
        "published_at": [one.at for one in published],
    }
    rows, held = stored(columns, JOBS)
    if not held:
        return None
    # The costs were listed until the provider stated them: one attempt, one cost.
    alike = [pl.col("price_usd").alias("spent_usd")]
    alike += [
        pl.lit(getattr(_MADE, name), JOBS[name]).alias(name)
        for name in JOBS.names()
        if name not in rows.columns and name not in KEY and name != "spent_usd"
    ]
    return keys(made).hstack(rows.with_columns(alike)).select(JOBS.names())


def _places(kinds: Sequence[type[Any]]) -> dict[type[Any], list[int]]:
    return {
        kind: [place for place, one in enumerate(kinds) if one is kind]
        for kind in dict.fromkeys(kinds)
    }


def _in_order(
    lines: Sequence[DecodedEntry],
    places: Mapping[type[Any], Sequence[int]],
    by_kind: Iterable[pl.DataFrame],
) -> pl.DataFrame:
    """Rows that were made kind by kind, in the order of the lines."""
    rows = [pl.DataFrame(schema={"place": pl.UInt32, **EVENTS})]
    for (kind, some), found in zip(places.items(), by_kind, strict=True):
        place = pl.Series("place", some, pl.UInt32)
        rows.append(found.with_columns(place, pl.lit(_NAMES[kind]).alias("kind")))
    jobs = pl.Series("job", [line.job for line in lines], pl.String)
    unix = pl.Series("unix", [line.at for line in lines], pl.Float64)
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
    kinds = {name: _SHAPES[kind] for kind, name in _NAMES.items()}
    events = {name: kinds[name].values(part) for (name,), part in by_kind.items()}
    told = zip(rows["job"], rows["unix"], rows["kind"], strict=True)
    return [Entry(job, at, next(events[kind])) for job, at, kind in told]


def job_rows(lives: Mapping[str, History]) -> pl.DataFrame:
    """Lives as rows of JOBS, in their order."""
    rows: Any = _HISTORY.rows([*lives.values()], JOBS)
    return keys(lives).hstack(rows).select(JOBS.names())


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
