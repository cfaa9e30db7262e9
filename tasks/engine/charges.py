"""The submits of a run whose charge is not known yet, and the money reserved for each.

A price that was billed beats a price that was listed. The first bill above its price raises
the prices of its lane for the rest of the run. At the same moment it raises the reservations
of the submits that the lane has under way, so that what is bought from then on fits the
budget. The budget can be exceeded only by those submits.
"""

import logging
from dataclasses import dataclass
from decimal import Decimal

from manifests.jobs import Order
from manifests.lifecycle import (
    FREE,
    Discarded,
    Event,
    Forgotten,
    Generated,
    History,
    Published,
    Refused,
    Rejected,
    Risked,
    Unplayable,
)
from tasks.dispatch import Bill, Budget, Lane, Lanes, Router, usd
from tasks.dispatch.eligibility import serves

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _OpenCharge:
    """A submit whose charge is not known."""

    lane: Lane
    order: Order
    price_usd: Decimal
    """The price that was reserved for it, and that the ledger has."""
    more_usd: Decimal = FREE
    """The money that is held for it beyond this price."""

    @property
    def reserved_usd(self) -> Decimal:
        return self.price_usd + self.more_usd


class OpenCharges:
    """Follows each submit of this run from its reservation to its charge."""

    def __init__(self, lanes: Lanes, router: Router, budget: Budget) -> None:
        self._lanes = lanes
        self._router = router
        self._budget = budget
        self._open: dict[str, _OpenCharge] = {}
        """By job."""

    def begin(self, lane: Lane, order: Order, price_usd: Decimal) -> None:
        """Follow a submit whose price was just reserved."""
        self._open[order.job.id] = _OpenCharge(lane, order, price_usd)

    def reserved_usd(self, job_id: str, history: History) -> Decimal:
        """The money reserved for the job's latest submit, whose charge is not known."""
        charge = self._open.get(job_id)
        return history.price_usd if charge is None else charge.reserved_usd

    def unaffordable(self, job_id: str) -> str | None:
        """Why a submit that is recorded must not be sent, if its lane's price has risen."""
        charge = self._open[job_id]
        if not charge.more_usd:
            return None
        if charge.lane.closed is not None:
            return f"its lane closed: {charge.lane.closed}"
        price = f"its price rose to {usd(charge.reserved_usd)} USD"
        if not serves(charge.lane.route, charge.order):
            return f"{price}, which is over its max_usd"
        return None if self._budget.affords(FREE) else f"{price}: the budget is spent"

    def refused(self, job_id: str) -> None:
        """Release what a submit took of its lane's day: it is not charged."""
        if charge := self._release(job_id):
            charge.lane.day.release(charge.reserved_usd)

    def heed(self, job_id: str, event: Event, before: History) -> None:
        """Apply an event of a job; `before` is the job's history without it."""
        match event:
            case Generated(usd=Decimal() as billed):
                self._billed(job_id, before, billed)
            case Refused() | Rejected(charged=False):
                self.refused(job_id)
            case (
                Published()
                | Discarded()
                | Forgotten()
                | Rejected()
                | Risked()
                | Unplayable()
            ):
                # It may have cost more than its price: what is held for it stays held.
                self._open.pop(job_id, None)
            case _:
                pass

    def raise_prices(self, lane: Lane, bill: Bill) -> None:
        """Raise a lane's prices after a bill, and what is reserved for its submits."""
        listed_usd, billed = bill
        if not lane.raise_prices(listed_usd, billed):
            return
        log.warning(
            "lane.dearer lane=%s %s; write the new prices under "
            '[routes."%s".prices_usd] in nightreel.toml',
            lane.name,
            told_dearer(bill),
            lane.route.name,
        )
        for charge in self._open.values():
            if charge.lane is lane:
                self._hold_more(charge)
        self._router.prices_changed()
        if lane.on_dearer == "close":
            self._lanes.close(lane, told_dearer(bill))
        # Waiting jobs look again for a lane within their max_usd and the budget.
        self._lanes.recheck_budgets()

    def _billed(self, job_id: str, before: History, billed: Decimal) -> None:
        charge = self._release(job_id)
        if charge is not None:
            charge.lane.day.correct(charge.reserved_usd, billed)
        lane = self._lanes.get(before.lane)
        if lane is None or not lane.paid or lane.route.name != before.route:
            return
        # An earlier run's submit: its price stands for the one in the catalogue.
        listed_usd = before.price_usd
        if charge is not None:
            listed_usd = lane.listed.price_usd(charge.order.job)
        if billed > listed_usd:
            self.raise_prices(lane, (listed_usd, billed))

    def _hold_more(self, charge: _OpenCharge) -> None:
        price_usd = charge.lane.route.price_usd(charge.order.job)
        more_usd = price_usd - charge.reserved_usd
        charge.lane.day.correct(charge.reserved_usd, price_usd)
        charge.more_usd += more_usd
        self._budget.held_usd += more_usd

    def _release(self, job_id: str) -> _OpenCharge | None:
        """Release what is held beyond the price; the ledger's events settle the price."""
        charge = self._open.pop(job_id, None)
        if charge is not None:
            self._budget.held_usd -= charge.more_usd
        return charge


def told_dearer(bill: Bill) -> str:
    """A bill above its price, in words."""
    listed_usd, billed = bill
    return (
        f"it charged {usd(billed)} USD for a clip listed at {usd(listed_usd)} USD: "
        "its clips are reserved at this rate from now on"
    )
