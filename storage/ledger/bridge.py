"""Bridges: the events that a gap must have held, as far as later events show.

Each bridge takes the dearest reading: where it is open whether a lost attempt was charged,
it counts as charged.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from manifests.lifecycle import (
    Accepted,
    Adjusted,
    Discarded,
    Doubted,
    Entry,
    Event,
    Generated,
    History,
    IllegalTransitionError,
    Intended,
    Published,
    Refused,
    Risked,
    State,
    Ticket,
)
from storage.ledger.codec import LedgerError

LOST_TICKET: Final = "lost"
"""The id in a ticket that was lost."""

REASON: Final = "its record was lost in a gap of the ledger"

_STEPS: Final = 64
"""The most events of a bridge: more submits of one job are no loss, but another fault."""


@dataclass(slots=True)
class Submits:
    """The submits on record around a gap: a lost submit was one like these."""

    lanes: dict[str, tuple[str, Intended]] = field(
        default_factory=dict[str, tuple[str, Intended]]
    )
    """By lane: a job, and its submit at the highest price."""
    providers: dict[str, str] = field(default_factory=dict[str, str])
    """The lane of each provider."""
    _open: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, entry: Entry) -> None:
        match entry.event:
            case Intended(lane=lane) as event:
                known = self.lanes.get(lane)
                if known is None or known[1].price_usd < event.price_usd:
                    self.lanes[lane] = entry.job, event
                self._open[entry.job] = lane
            case Accepted(ticket) if lane := self._open.pop(entry.job, None):
                self.providers[ticket.provider] = lane
            case _:
                pass

    @property
    def prices(self) -> dict[str, str]:
        return {lane: str(event.price_usd) for lane, (_, event) in self.lanes.items()}

    def lost(self, job: str, history: History, after: Event) -> Intended:
        """The submit of a job that was lost, and that `after` was the answer to."""
        provider = after.ticket.provider if isinstance(after, Accepted) else ""
        lane = self.providers.get(provider)
        if lane is None:
            dearest = max(self.lanes, key=self._price, default=None)
            lane = dearest or provider or "unknown"
        if lane not in self.lanes:
            return Intended(lane=lane, route="", price_usd=Decimal(0), seed=-1)
        other, event = self.lanes[lane]
        return replace(event, seed=-1, mark=_mark(event.mark, other, job, history))

    def ticket(self, lane: str | None) -> Ticket:
        """A ticket of a submit on this lane, without the id that was lost."""
        named = (one for one, its in self.providers.items() if its == lane)
        return Ticket(next(named, "unknown"), LOST_TICKET)

    def _price(self, lane: str) -> Decimal:
        return self.lanes[lane][1].price_usd


def bridge(history: History, entry: Entry, submits: Submits) -> list[Event]:
    """The events between a history and an entry that cannot follow it directly.

    Raises:
        LedgerError: no lost events explain it.
    """
    events: list[Event] = []
    for _ in range(_STEPS):
        try:
            history.after(entry)
        except IllegalTransitionError as error:
            step = _step(entry.job, history, entry.event, submits)
            if step is None:
                raise LedgerError(f"no lost events explain it: {error}") from error
            events.append(step)
            history = history.after(Entry(entry.job, entry.at, step))
        else:
            return events
    raise LedgerError(f"job {entry.job}: no lost events explain {entry.event!r}")


def doubted_again(history: History) -> Iterable[Event]:
    """The events that put a job back in doubt whose ticket was lost.

    Its provider can be asked by the mark of its submit, and it counts as charged once.
    """
    if history.state is State.ACCEPTED:
        yield Refused(REASON)
    else:
        yield Discarded(REASON)
        yield Adjusted(attempt=history.attempts, usd=-history.price_usd, reason=REASON)
    yield Intended(
        lane=history.lane or "",
        route=history.route or "",
        price_usd=history.price_usd,
        seed=-1 if history.seed is None else history.seed,
        mark=history.mark,
    )
    yield Doubted(REASON)


def _step(job: str, history: History, after: Event, submits: Submits) -> Event | None:
    match history.state, after:
        case State.PENDING, _:
            return submits.lost(job, history, after)
        case State.IN_DOUBT, Intended() | Adjusted():
            return Risked(REASON)
        case State.IN_DOUBT, _:
            return Accepted(submits.ticket(history.lane))
        case State.ACCEPTED, Published():
            return Generated()
        case State.ACCEPTED | State.GENERATED, _:
            return Discarded(REASON)
        case _:
            return None


def _mark(mark: str, other: str, job: str, history: History) -> str:
    """The mark of a lost submit, if marks of its lane are made of the job's name alone."""
    found = re.fullmatch(rf"([^:]*):{other}-\d+ (.*)", mark)
    if found is None:
        return ""
    return f"{found[1]}:{job}-{history.attempts + 1} {found[2]}"
