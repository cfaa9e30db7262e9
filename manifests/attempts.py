"""The table of attempts: every submit that was meant, what came of it and what it cost."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final

import polars as pl

from manifests.columns import MONEY
from manifests.lifecycle import (
    FREE,
    HEDGE,
    NEW,
    OVER,
    Discarded,
    Entry,
    Event,
    History,
    Published,
    Refused,
    Rejected,
    Risked,
    Settled,
    State,
)
from manifests.tables import TIME, moment, written

ATTEMPTS: Final = pl.Schema(
    {
        "job": pl.String,
        "hedge": pl.Boolean,
        "attempt": pl.UInt32,
        "lane": pl.String,
        "provider": pl.String,
        "model": pl.String,
        "route": pl.String,
        "remote_id": pl.String,
        "seed": pl.Int64,
        "price_usd": MONEY,
        "charged": pl.Boolean,
        "charged_usd": MONEY,
        "outcome": pl.String,
        "reason": pl.String,
        "submitted_at": TIME,
        "accepted_at": TIME,
        "ended_at": TIME,
    }
)
KEY: Final = ("job", "hedge", "attempt")
"""What tells one attempt from another; a job's hedge counts its own."""

_SLICE: Final = 20_000


def write_attempts(
    path: Path, entries: Collection[Entry], *, since: float = 0.0
) -> None:
    """Write one row per attempt, from a ledger's entries in the order they were recorded.

    Those that ended or were settled since a time (Unix seconds), as they ended, then
    those under way. `overtaken` is what its hedge was faster than. `charged` is null
    where nobody knows: in doubt, or risked. `charged_usd` is what an attempt has cost by
    now, and counts what may have been charged: over the latest row of each attempt it
    is the sum that all jobs have spent.
    """
    rows = attempts(entries, since=since)
    with written(path) as write:
        write(pl.DataFrame(schema=ATTEMPTS))
        while some := [*islice(rows, _SLICE)]:
            write(pl.DataFrame(some, schema=ATTEMPTS, orient="row"))


def attempts(
    entries: Collection[Entry], *, since: float = 0.0
) -> Iterator[tuple[Any, ...]]:
    """The rows of `write_attempts`, in the order of ATTEMPTS.

    The entries are gone through twice, so that a job can be forgotten when it is over:
    what is settled may be settled at any time later.
    """
    settled = _settled(entries)
    histories: dict[str, History] = {}
    for entry in entries:
        # It moves no state, and its job may be forgotten by now.
        if isinstance(entry.event, Settled):
            continue
        before = histories.get(entry.job, NEW)
        histories[entry.job] = history = before.after(entry)
        if ending := _ending(before.state, entry.event):
            later = settled.get((entry.job, history.attempts), _UNSETTLED)
            if max(entry.at, later.at) >= since:
                yield _row(entry.job, history, *ending, later=later, at=entry.at)
        if history.state in OVER:
            del histories[entry.job]
    yield from _under_way(histories, settled)


@dataclass(frozen=True, slots=True)
class _Later:
    """What was said of an attempt's price after it was counted."""

    usd: Decimal = FREE
    at: float = float("-inf")
    reasons: tuple[str, ...] = ()


_UNSETTLED: Final = _Later()


def _settled(entries: Iterable[Entry]) -> Mapping[tuple[str, int], _Later]:
    """All that was settled, by job and attempt."""
    found = defaultdict[tuple[str, int], _Later](_Later)
    for entry in entries:
        match entry:
            case Entry(job, at, Settled(attempt=attempt, usd=usd, reason=reason)):
                past = found[job, attempt]
                told = (*past.reasons, reason)
                found[job, attempt] = _Later(past.usd + usd, max(past.at, at), told)
            case _:
                pass
    return found


_UNDER_WAY: Final = {State.IN_DOUBT: None, State.ACCEPTED: True, State.GENERATED: True}


def _under_way(
    histories: Mapping[str, History], settled: Mapping[tuple[str, int], _Later]
) -> Iterator[tuple[Any, ...]]:
    for job, history in histories.items():
        if history.state in _UNDER_WAY:
            charged = _UNDER_WAY[history.state]
            later = settled.get((job, history.attempts), _UNSETTLED)
            yield _row(job, history, history.state.value, charged, later=later, at=None)


def _ending(state: State, event: Event) -> tuple[str, bool | None] | None:
    """How an attempt ends by this, and whether it was charged; None if it does not."""
    match state, event:
        case _, Refused():
            return "refused", False
        case _, Risked():
            return "risked", None
        case _, Discarded():
            return "discarded", True
        case _, Rejected(charged=charged):
            return "rejected", charged
        case State.GENERATED, Published():
            return "published", True
        case State.ACCEPTED, Published():
            # By its hedge, whose own attempt is the one that was published.
            return "overtaken", True
        case _:
            return None


def _row(  # noqa: PLR0913 - what a row is made of
    life: str,
    history: History,
    outcome: str,
    charged: bool | None,  # noqa: FBT001 - a column's value
    *,
    later: _Later,
    at: float | None,
) -> tuple[Any, ...]:
    provider, _, model = (history.route or "").partition("/")
    cost = later.usd + (FREE if charged is False else history.price_usd)
    # A doubt stays one until it is answered, whatever is said of its price.
    if later.reasons and outcome != State.IN_DOUBT:
        charged = cost > 0
    return (
        life.removesuffix(HEDGE),
        life.endswith(HEDGE),
        history.attempts,
        history.lane,
        provider,
        model,
        history.route,
        history.ticket and history.ticket.id,
        history.seed,
        history.price_usd,
        charged,
        cost,
        outcome,
        "; ".join(filter(None, [history.reason, *later.reasons])) or None,
        moment(history.submitted_at),
        moment(history.accepted_at),
        moment(at),
    )
