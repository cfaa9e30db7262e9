"""Settlements: what was said of attempts' prices after they were counted."""

from dataclasses import dataclass
from decimal import Decimal

from manifests.lifecycle import FREE, Entry, Settled

Key = tuple[str, int]
"""A job, and which of its attempts."""


@dataclass(frozen=True, slots=True)
class Later:
    """What was said of an attempt's price after it was counted."""

    usd: Decimal = FREE
    reasons: tuple[str, ...] = ()


class Settlements(dict[Key, Later]):
    """All that was settled, by attempt."""

    def note(self, entry: Entry) -> None:
        match entry:
            case Entry(job, _, Settled(attempt=attempt, usd=usd, reason=reason)):
                past = self.get((job, attempt), Later())
                self[job, attempt] = Later(past.usd + usd, (*past.reasons, reason))
            case _:
                pass
