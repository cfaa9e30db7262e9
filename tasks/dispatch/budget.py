"""Limits on money: a batch's budget, a lane's daily caps, and the money to risk.

Amounts are exact decimals. A check and its reservation are one step, so concurrent jobs
never exceed a limit by a cent.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable
from decimal import Decimal
from math import inf
from typing import Final

DAY_S: Final = 24 * 3600.0


class Budget:
    """A sum of money, reserved before a submit and released if nothing was charged.

    Money in doubt stays spent.
    """

    def __init__(self, budget_usd: Decimal | None = None) -> None:
        self._limit = budget_usd
        self.spent_usd = Decimal(0)
        self.held_usd = Decimal(0)
        """Reserved beyond `spent_usd`: what submits under way may cost above their price."""
        self.may_grow = False
        """Whether more may be granted: a job that finds it short waits."""

    def dealt(self, budget_usd: Decimal, *, more: bool) -> None:
        """Set our cumulative share of a shared budget."""
        self._limit, self.may_grow = budget_usd, more

    @property
    def taken_usd(self) -> Decimal:
        """The amount that is not available any more."""
        return self.spent_usd + self.held_usd

    def affords(self, price_usd: Decimal) -> bool:
        """Whether the price could be reserved now."""
        return self._limit is None or self.taken_usd + price_usd <= self._limit

    def reserve(self, price_usd: Decimal) -> bool:
        """Reserve the price; False, reserving nothing, if the budget does not have it."""
        if not self.affords(price_usd):
            return False
        self.spent_usd += price_usd
        return True

    def settle(self, usd: Decimal) -> None:
        """Add the difference between charge and reservation; below 0 if less was charged."""
        self.spent_usd += usd


class Day:
    """A lane's caps on submits and on money in any 24 hours.

    Times are Unix seconds, because the submits of earlier runs count too.
    """

    def __init__(self, submits: int | None = None, usd: Decimal | None = None) -> None:
        self._most, self._most_usd = submits, usd
        self._taken = deque[tuple[float, Decimal]]()
        self._usd = Decimal(0)
        self._is_dealt = False
        self.may_grow = False
        """Whether more may be granted: a job that finds it full waits."""

    def dealt(self, submits: int | None, usd: Decimal | None, *, more: bool) -> None:
        """Set our cumulative share of shared caps."""
        self._most, self._most_usd = submits, usd
        self._is_dealt, self.may_grow = True, more

    def taken(self, now: float) -> tuple[int, Decimal]:
        """The submits and the money that count at this time."""
        # A grant is used once. The dealer grants again what is over 24 hours old.
        old = -inf if self._is_dealt else now - DAY_S
        while self._taken and self._taken[0][0] <= old:
            self._usd -= self._taken.popleft()[1]
        return len(self._taken), self._usd

    @property
    def caps(self) -> tuple[int | None, Decimal | None]:
        """The most submits, and the most money."""
        return self._most, self._most_usd

    @property
    def limited(self) -> bool:
        return self._most is not None or self._most_usd is not None

    def recall(self, taken: Iterable[tuple[float, Decimal]]) -> None:
        """Add the submits of other runs: their times and prices."""
        for at, usd in taken:
            self._take(at, usd)

    def full(self, usd: Decimal, now: float) -> str | None:
        """Say which cap one more submit at this price would exceed, if any."""
        submits, taken_usd = self.taken(now)
        if self._most is not None and submits >= self._most:
            return f"its cap of {self._most:,} submits in 24 hours is reached"
        if self._most_usd is not None and taken_usd + usd > self._most_usd:
            return f"its cap of {self._most_usd} USD in 24 hours is reached"
        return None

    def reserve(self, usd: Decimal, now: float) -> bool:
        """Count one more submit; False, counting nothing, if a cap forbids it."""
        if self.limited and self.full(usd, now) is not None:
            return False
        self._take(now, usd)
        return True

    def release(self, usd: Decimal) -> None:
        """Remove a submit at this price that was not charged."""
        for n in reversed(range(len(self._taken))):
            if self._taken[n][1] == usd:
                del self._taken[n]
                self._usd -= usd
                return

    def correct(self, usd: Decimal, to_usd: Decimal) -> None:
        """Count a submit that was counted at the price `usd` at another amount."""
        for n in reversed(range(len(self._taken))):
            if self._taken[n][1] == usd:
                self._taken[n] = (self._taken[n][0], to_usd)
                self._usd += to_usd - usd
                return

    def _take(self, at: float, usd: Decimal) -> None:
        if self.limited:
            # Submits of others are heard late, so sort them in by time.
            insort(self._taken, (at, usd))
            self._usd += usd
