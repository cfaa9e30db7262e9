"""The table of attempts: every submit that was meant, and what came of it and was paid."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import polars as pl

from manifests.columns import MONEY
from manifests.lifecycle import (
    NEW,
    TRANSITIONS,
    Discarded,
    Entry,
    Event,
    History,
    Published,
    Refused,
    Rejected,
    State,
)
from manifests.tables import TIME, moment, written

ATTEMPTS: Final = pl.Schema(
    {
        "job": pl.String,
        "attempt": pl.UInt32,
        "lane": pl.String,
        "provider": pl.String,
        "model": pl.String,
        "route": pl.String,
        "remote_id": pl.String,
        "seed": pl.Int64,
        "price_usd": MONEY,
        "charged": pl.Boolean,
        "outcome": pl.String,
        "reason": pl.String,
        "submitted_at": TIME,
        "accepted_at": TIME,
        "ended_at": TIME,
    }
)

_SLICE: Final = 20_000


def write_attempts(path: Path, entries: Iterable[Entry], *, since: float = 0.0) -> None:
    """Write one row per attempt, from a ledger's entries in the order they were recorded.

    Those that ended since a time (Unix seconds), as they ended, then those under way.
    `charged` is null while in doubt.
    """
    rows = _attempts(entries, since)
    with written(path) as write:
        write(pl.DataFrame(schema=ATTEMPTS))
        while some := [*islice(rows, _SLICE)]:
            write(pl.DataFrame(some, schema=ATTEMPTS, orient="row"))


def _attempts(entries: Iterable[Entry], since: float) -> Iterator[tuple[Any, ...]]:
    histories: dict[str, History] = {}
    for entry in entries:
        history = histories.get(entry.job, NEW).after(entry)
        histories[entry.job] = history
        if entry.at >= since and (ending := _ending(entry.event)):
            outcome, charged = ending
            yield _row(entry.job, history, outcome, charged=charged, at=entry.at)
        if not TRANSITIONS[history.state]:
            del histories[entry.job]
    for job, history in histories.items():
        if history.state in _UNDER_WAY:
            charged = _UNDER_WAY[history.state]
            yield _row(job, history, history.state.value, charged=charged, at=None)


_UNDER_WAY: Final = {State.IN_DOUBT: None, State.ACCEPTED: True, State.GENERATED: True}


def _ending(event: Event) -> tuple[str, bool] | None:
    """How this event ends an attempt, and whether it was charged; None if it does not."""
    match event:
        case Refused():
            return "refused", False
        case Discarded():
            return "discarded", True
        case Rejected(charged=charged):
            return "rejected", charged
        case Published():
            return "published", True
        case _:
            return None


def _row(
    job: str, history: History, outcome: str, *, charged: bool | None, at: float | None
) -> tuple[Any, ...]:
    provider, _, model = (history.route or "").partition("/")
    return (
        job,
        history.attempts,
        history.lane,
        provider,
        model,
        history.route,
        history.ticket and history.ticket.id,
        history.seed,
        history.price_usd,
        charged,
        outcome,
        history.reason,
        moment(history.submitted_at),
        moment(history.accepted_at),
        moment(at),
    )
