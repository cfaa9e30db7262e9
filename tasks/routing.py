"""Which lanes may make a job, and which of them should: pure.

A lane can make a job if its route serves the job's model, resolution, duration and
aspect, at a price within the row's limit. Of those that are free, the cheapest does it.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Protocol, TypeVar

from manifests.catalogue import Route
from manifests.jobs import Order


class Routed(Protocol):
    """Whatever has a route and a name: a lane, or the plan of one."""

    @property
    def name(self) -> str: ...
    @property
    def route(self) -> Route: ...


R = TypeVar("R", bound=Routed)


def candidates(order: Order, lanes: Iterable[R]) -> list[R]:
    """The lanes that can make the job, cheapest first."""
    able = [lane for lane in lanes if serves(lane.route, order)]
    return sorted(able, key=lambda lane: (lane.route.price_usd(order.job), lane.name))


def serves(route: Route, order: Order) -> bool:
    """Whether the route can make the job for what its rows will pay."""
    if route.complaint(order.job) is not None:
        return False
    return order.max_usd is None or route.price_usd(order.job) <= order.max_usd


class Purse:
    """A batch's budget: reserved before a submit, given back when nothing was charged.

    Money in doubt stays spent.
    """

    def __init__(self, budget_usd: Decimal | None = None) -> None:
        self._budget = budget_usd
        self.spent_usd = Decimal(0)

    def affords(self, price_usd: Decimal) -> bool:
        """Whether the price could be reserved now."""
        return self._budget is None or self.spent_usd + price_usd <= self._budget

    def reserve(self, price_usd: Decimal) -> bool:
        """Take the price out of the budget; False, taking nothing, if it is not there."""
        if not self.affords(price_usd):
            return False
        self.spent_usd += price_usd
        return True

    def release(self, price_usd: Decimal) -> None:
        """Nothing was charged after all."""
        self.spent_usd -= price_usd
