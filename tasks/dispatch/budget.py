"""Money: what a batch may spend, what a lane may take in a day, what may be risked.

Amounts are exact decimals, and to look and to take are one step, so that no number of
jobs at once takes a cent too much.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable
from decimal import Decimal
from math import inf
from typing import Final

DAY_S: Final = 24 * 3600.0


class Purse:
    """A sum to be spent: reserved before a submit, given back when nothing was charged.

    Money in doubt stays spent.
    """

    def __init__(self, budget_usd: Decimal | None = None) -> None:
        self._budget = budget_usd
        self.spent_usd = Decimal(0)
        self.may_grow = False
        """Whether more may be dealt to it: who finds it short waits."""

    def dealt(self, budget_usd: Decimal, *, more: bool) -> None:
        """So much in all is ours by now of a budget that others spend from too."""
        self._budget, self.may_grow = budget_usd, more

    def affords(self, price_usd: Decimal) -> bool:
        """Whether the price could be reserved now."""
        return self._budget is None or self.spent_usd + price_usd <= self._budget

    def reserve(self, price_usd: Decimal) -> bool:
        """Take the price out of the budget; False, taking nothing, if it is not there."""
        if not self.affords(price_usd):
            return False
        self.spent_usd += price_usd
        return True

    def settle(self, usd: Decimal) -> None:
        """So much more was charged than was reserved; less than 0 where it was less."""
        self.spent_usd += usd


class Day:
    """What one lane may take in any 24 hours: so many submits, so much money.

    Times are Unix seconds: what earlier runs took counts too.
    """

    def __init__(self, submits: int | None = None, usd: Decimal | None = None) -> None:
        self._most, self._most_usd = submits, usd
        self._taken = deque[tuple[float, Decimal]]()
        self._usd = Decimal(0)
        self._is_dealt = False
        self.may_grow = False
        """Whether more may be dealt to it: who finds it full waits."""

    def dealt(self, submits: int | None, usd: Decimal | None, *, more: bool) -> None:
        """So much in all is ours by now of caps that others submit under too."""
        self._most, self._most_usd = submits, usd
        self._is_dealt, self.may_grow = True, more

    def taken(self, now: float) -> tuple[int, Decimal]:
        """What counts by now: submits, and money."""
        # What was dealt is dealt once: what grows old is the dealer's to deal again.
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
        """What was taken in other runs: when, and at what price."""
        for at, usd in taken:
            self._take(at, usd)

    def full(self, usd: Decimal, now: float) -> str | None:
        """Which cap one more submit at this price would pass, in words."""
        submits, taken_usd = self.taken(now)
        if self._most is not None and submits >= self._most:
            return f"its cap of {self._most:,} submits in 24 hours is reached"
        if self._most_usd is not None and taken_usd + usd > self._most_usd:
            return f"its cap of {self._most_usd} USD in 24 hours is reached"
        return None

    def reserve(self, usd: Decimal, now: float) -> bool:
        """Count one more submit; False, counting nothing, if a cap is in the way."""
        if self.limited and self.full(usd, now) is not None:
            return False
        self._take(now, usd)
        return True

    def release(self, usd: Decimal) -> None:
        """A submit at this price was not charged after all."""
        for n in reversed(range(len(self._taken))):
            if self._taken[n][1] == usd:
                del self._taken[n]
                self._usd -= usd
                return

    def _take(self, at: float, usd: Decimal) -> None:
        if self.limited:
            # What others took is heard of late, and grows old in its turn.
            insort(self._taken, (at, usd))
            self._usd += usd
