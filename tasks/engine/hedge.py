"""Hedges: a second submit for a straggler, so that its clip is there by the deadline.

Off unless the owner allows paying twice. A hedge has a life of its own on the ledger;
whichever submit is ready first makes the clip, and the other is given up.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from manifests.jobs import Order
from manifests.lifecycle import History, Published, State
from tasks.dispatch.lanes import Lane
from tasks.dispatch.policy import Roster

STRAGGLES: Final = 1.5
"""Times the typical run time of its lane after which a job is a straggler."""

RECKONED_S: Final = 5.0
"""Between two reckonings of when a hedge is due, at most..."""
SOONEST_S: Final = 0.01
"""... and at least: what rounding leaves of a second is no pause."""

NEAR: Final = 2.0
"""Typical run times of the other lane before the deadline in which a hedge is bought."""

T = TypeVar("T")

FOLLOWED: Final = frozenset({State.ACCEPTED, State.GENERATED})
"""Where a provider has a hedge, or its clip."""


@dataclass(frozen=True, slots=True)
class Hedges:
    """When a straggler is worth a second submit."""

    allowed: bool
    roster: Roster
    now: Callable[[], float]

    @property
    def possible(self) -> bool:
        """Whether any straggler could be worth one."""
        return self.allowed and math.isfinite(self.roster.ends_at)

    def due_in_s(self, order: Order, lane: Lane, *, age_s: float) -> float:
        """Seconds until a job that its lane took `age_s` ago is hedged; inf for never."""
        if not self.possible:
            return math.inf
        others = [
            other.typical_s()
            for other in self.roster.able(order)
            if other.closed is None and other.route.supplier != lane.route.supplier
        ]
        if not others:
            return math.inf
        quickest, left_s = min(others), self.roster.ends_at - self.now()
        straggles = STRAGGLES * lane.typical_s() - age_s
        due = max(0.0, straggles, left_s - NEAR * quickest)
        return due if due + quickest <= left_s else math.inf


class GivenUpError(Exception):
    """The first submit was faster."""


async def unless(told: asyncio.Event | None, doing: Coroutine[Any, Any, T]) -> T:
    """What a hedge waits for, dropped when it is told that it is not wanted any more.

    Raises:
        GivenUpError: it was.
    """
    if told is None:
        return await doing
    work = asyncio.ensure_future(doing)
    over = asyncio.ensure_future(told.wait())
    try:
        await asyncio.wait({work, over}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise GivenUpError("given up: the first submit was faster")
        return work.result()
    finally:
        over.cancel()
        work.cancel()


def adopted(hedge: History) -> Published:
    """The clip that a hedge published is the job's own."""
    if hedge.uri is None or hedge.facts is None:
        raise ValueError(f"a hedge that is {hedge.state} has no clip")
    return Published(hedge.uri, hedge.facts)


async def sooner(
    mine: "asyncio.Task[object]", other: "asyncio.Task[History]"
) -> History | None:
    """Wait until one of them has the clip: the hedge's history, if the hedge has it."""
    await asyncio.wait({mine, other}, return_when=asyncio.FIRST_COMPLETED)
    if other.done() and not mine.done():
        history = other.result()
        if history.state is State.PUBLISHED:
            return history
    return None
