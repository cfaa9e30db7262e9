"""Settlements: what was said of attempts' prices after they were counted."""

from dataclasses import dataclass
from decimal import Decimal

from manifests.lifecycle import FREE, HEDGE, Entry, Settled

Key = tuple[str, bool, int]
"""A job, whether it is its hedge, and which of its attempts."""


@dataclass(frozen=True, slots=True)
class Later:
    """What was said of an attempt's price after it was counted."""

    usd: Decimal = FREE
    reasons: tuple[str, ...] = ()


class Settlements(dict[Key, Later]):
    """All that was settled, by attempt."""

    def note(self, entry: Entry) -> None:
        match entry:
            case Entry(life, _, Settled(attempt=attempt, usd=usd, reason=reason)):
                key = life.removesuffix(HEDGE), life.endswith(HEDGE), attempt
                past = self.get(key, Later())
                self[key] = Later(past.usd + usd, (*past.reasons, reason))
            case _:
                pass
