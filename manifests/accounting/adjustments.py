"""Adjustments: corrections of what an attempt cost, recorded after it had ended."""

from decimal import Decimal
from typing import NamedTuple

from manifests.lifecycle import FREE, Adjusted, Entry, added_usd


class Adjustment(NamedTuple):
    """All corrections of one attempt together."""

    usd: Decimal = FREE
    """The amount to be added to the cost; less than 0 for a refund."""
    reasons: tuple[str, ...] = ()

    def applied_to(self, cost_usd: Decimal) -> tuple[bool, Decimal]:
        """Whether an attempt was charged in the end, and its cost."""
        cost_usd += self.usd
        return cost_usd > 0, cost_usd

    def added_to(self, reason: str | None) -> str:
        """The reason of the attempt's outcome, followed by those of the corrections."""
        return "; ".join(filter(None, [reason, *self.reasons]))


class Adjustments(dict[tuple[str, int], Adjustment]):
    """The corrections among the entries of a ledger, by job and number of the attempt."""

    def add(self, entry: Entry) -> None:
        """Collect the entry if it is a correction."""
        if isinstance(event := entry.event, Adjusted):
            key = entry.job, event.attempt
            known = self.get(key, Adjustment())
            usd = known.usd + added_usd(event, known.usd)
            self[key] = Adjustment(usd, (*known.reasons, event.reason))
