"""The table of attempts: every submit that was meant, what came of it and what it cost."""

from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from manifests.accounting.adjustments import Settlements
from manifests.lifecycle import (
    FREE,
    NEW,
    OVER,
    Discarded,
    Entry,
    Event,
    Forgotten,
    History,
    Published,
    Refused,
    Rejected,
    Risked,
    Settled,
    State,
)
from manifests.output.clips import TIME, moment
from manifests.parquet import MONEY, SLICE, rewritten, written

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
        "charged_usd": MONEY,
        "outcome": pl.String,
        "reason": pl.String,
        "submitted_at": TIME,
        "accepted_at": TIME,
        "ended_at": TIME,
        "stages": pl.String,
    }
)
KEY: Final = ("job", "attempt")
"""What tells one attempt from another."""


class Attempt(NamedTuple):
    """A row of the table, in the order of ATTEMPTS."""

    job: str
    attempt: int
    lane: str | None
    provider: str
    model: str
    route: str | None
    remote_id: str | None
    seed: int | None
    price_usd: Decimal
    charged: bool | None
    charged_usd: Decimal
    outcome: str
    reason: str | None
    submitted_at: datetime | None
    accepted_at: datetime | None
    ended_at: datetime | None
    stages: str | None

    def settled(self, settlements: Settlements) -> "Attempt":
        """The same, with what was said of its price after it was counted."""
        later = settlements.get((self.job, self.attempt))
        if later is None:
            return self
        cost = self.charged_usd + later.usd
        # A doubt stays one until it is answered, whatever is said of its price.
        charged = self.charged if self.outcome == State.IN_DOUBT else cost > 0
        reason = "; ".join(filter(None, [self.reason, *later.reasons]))
        return self._replace(charged=charged, charged_usd=cost, reason=reason)


@contextmanager
def attempts_table(
    path: Path, *, before: Mapping[str, History]
) -> Generator[Callable[[Iterable[Entry]], None]]:
    """Write one row per attempt of a batch; the function takes what was recorded in it.

    `before` are the lives that were not over when it began, and the entries all that
    came after that, in their order, a few or many at a time. Attempts are told as they
    ended, and in the end those under way. Only lives that are not over are in memory.

    `charged` is null where nobody knows: in doubt, or risked. `charged_usd` is what an
    attempt has cost by now, and counts what may have been charged: over the latest row of
    each attempt it is the sum that all jobs have spent. What is settled of an attempt
    that had ended before the batch is told in the table that has it: see `settling`.
    `stages` are the seconds of each stage where the clip was made, as a JSON object,
    where that is known.
    """
    histories = dict(before)
    settled = Settlements()
    with written(path) as write:
        waiting: list[Attempt] = []

        def flush(least: int) -> None:
            if len(waiting) >= least:
                write(pl.DataFrame(waiting, ATTEMPTS, orient="row"))
                waiting.clear()

        def add(entries: Iterable[Entry]) -> None:
            for entry in entries:
                settled.note(entry)
                waiting.extend(_ended(histories, entry))
                flush(SLICE)

        yield add
        waiting.extend(_under_way(histories))
        flush(0)
    if settled:
        _settle(path, settled)


def attempts(entries: Collection[Entry]) -> Iterator[Attempt]:
    """A row per attempt, from a whole ledger's entries: those that ended, as they ended,
    then those under way.

    The entries are gone through twice: what is settled may be settled at any time later.
    """
    settled = Settlements()
    for entry in entries:
        settled.note(entry)
    histories: dict[str, History] = {}
    for entry in entries:
        for row in _ended(histories, entry):
            yield row.settled(settled)
    for row in _under_way(histories):
        yield row.settled(settled)


def _settle(path: Path, settled: Settlements) -> None:
    """Tell a table's rows with what was settled after they were written."""

    def told(rows: pl.DataFrame) -> pl.DataFrame:
        anew = [Attempt._make(row).settled(settled) for row in rows.iter_rows()]
        return pl.DataFrame(anew, ATTEMPTS, orient="row")

    whole = path.with_name(f"{path.name}.settled")
    rewritten(path, whole, told)
    whole.replace(path)


def _ended(histories: dict[str, History], entry: Entry) -> Iterator[Attempt]:
    """The attempt that ends by this entry, if one does; its job is forgotten when it is
    over."""
    # It moves no state, and its job may be forgotten by now.
    if isinstance(entry.event, Settled):
        return
    before = histories.get(entry.job, NEW)
    histories[entry.job] = history = before.after(entry)
    if ending := _ending(before.state, entry.event):
        yield _row(entry.job, history, *ending, at=entry.at)
    if history.state in OVER:
        del histories[entry.job]


_UNDER_WAY: Final = {State.IN_DOUBT: None, State.ACCEPTED: True, State.GENERATED: True}


def _under_way(histories: Mapping[str, History]) -> Iterator[Attempt]:
    for job, history in histories.items():
        if history.state in _UNDER_WAY:
            charged = _UNDER_WAY[history.state]
            yield _row(job, history, history.state.value, charged, at=None)


def _ending(state: State, event: Event) -> tuple[str, bool | None] | None:
    """How an attempt ends by this, and whether it was charged; None if it does not."""
    match state, event:
        case _, Refused():
            return "refused", False
        case _, Risked():
            return "risked", None
        case _, Discarded():
            return "discarded", True
        case _, Forgotten():
            return "forgotten", True
        case _, Rejected(charged=charged):
            return "rejected", charged
        case _, Published():
            return "published", True
        case _:
            return None


def _row(
    job: str,
    history: History,
    outcome: str,
    charged: bool | None,  # noqa: FBT001 - a column's value
    *,
    at: float | None,
) -> Attempt:
    provider, _, model = (history.route or "").partition("/")
    return Attempt(
        job=job,
        attempt=history.attempts,
        lane=history.lane,
        provider=provider,
        model=model,
        route=history.route,
        remote_id=history.ticket and history.ticket.id,
        seed=history.seed,
        price_usd=history.price_usd,
        charged=charged,
        charged_usd=FREE if charged is False else history.price_usd,
        outcome=outcome,
        reason=history.reason or None,
        submitted_at=moment(history.submitted_at),
        accepted_at=moment(history.accepted_at),
        ended_at=moment(at),
        stages=history.stages,
    )
