"""What each attempt has cost by now, and whether that may still change: for whoever settles."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from manifests.lifecycle import (
    FREE,
    Accepted,
    Discarded,
    Entry,
    Forgotten,
    Generated,
    Intended,
    Refused,
    Rejected,
    Settled,
    Ticket,
)


@dataclass(slots=True)
class Charge:
    """One submit, as far as money goes."""

    job: str
    number: int
    lane: str
    price_usd: Decimal
    counted_usd: Decimal
    ended_at: float | None = None
    ticket: Ticket | None = None


def charges(entries: Iterable[Entry]) -> list[Charge]:
    """Every attempt that has ended without a clip, and the last one of each job besides.

    The last of a job comes last among its own.
    """
    ended: list[Charge] = []
    latest: dict[str, Charge] = {}
    numbered: dict[tuple[str, int], Charge] = {}
    for entry in entries:
        now = latest.get(entry.job)
        match entry.event:
            case Intended(lane=lane, price_usd=price):
                number = now.number + 1 if now else 1
                now = Charge(entry.job, number, lane, price, price)
                latest[entry.job] = numbered[entry.job, number] = now
            case Accepted(ticket) if now:
                now.ticket = ticket
            case Generated(usd=Decimal() as usd) if now:
                now.counted_usd = usd
            case Refused() | Rejected(charged=False) if now:
                now.counted_usd, now.ended_at = FREE, entry.at
                ended.append(now)
            case Discarded() | Forgotten() | Rejected() if now:
                now.ended_at = entry.at
                ended.append(now)
            case Settled(attempt=number, usd=usd):
                numbered[entry.job, number].counted_usd += usd
            case _:
                pass
    done = {id(each) for each in ended}
    return [*ended, *(each for each in latest.values() if id(each) not in done)]
