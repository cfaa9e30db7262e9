"""Measures what a shard's run uses of the shared quotas and budgets, and what it could use."""

from collections.abc import Collection

from tasks.batch.batch import BatchRun
from tasks.dispatch import Lane, RateLimiter
from tasks.distributed.usage import (
    BUDGET,
    Usage,
    millionths,
    minute_of,
    slots_of,
    submits_of,
    usd_of,
)
from tasks.engine.environment import World


class UsageMeter:
    """Makes the reports of one run of a shard."""

    def __init__(self, batch_run: BatchRun, shard: int, world: World) -> None:
        self._engine = batch_run.engine
        self._generation = batch_run.generation
        self._shard = shard
        self._world = world
        self._limiters = {
            lane.account: lane.limiter for lane in batch_run.engine.lanes.all
        }
        self._beat = 0
        self._has_grant = False

    def usage(self, grant_number: int, *, done: bool) -> Usage:
        """The next report; `grant_number` is the number of the grants that the run obeys."""
        self._beat += 1
        self._has_grant = grant_number > 0
        now = self._world.now()
        in_use: dict[str, int] = {}
        wanted: dict[str, int] = {}
        for account, limiter in self._limiters.items():
            slots, minute = slots_of(account), minute_of(account)
            in_use |= {slots: limiter.in_flight, minute: limiter.sent(now)}
            waiting = 0 if done else self._waiting(self._open_lanes(limiter))
            wanted |= {slots: in_use[slots] + waiting, minute: in_use[minute] + waiting}
        spent, needed, minimum = self._money(done=done)
        return Usage(
            shard=self._shard,
            generation=self._generation,
            beat=self._beat,
            grant_number=grant_number,
            in_use=in_use,
            wanted=wanted,
            spent=spent,
            needed=needed,
            minimum=minimum,
            all_wait=not done and self._all_wait(),
            done=done,
        )

    def _open_lanes(self, limiter: RateLimiter) -> list[Lane]:
        """The open lanes of this limiter that lack only slots.

        A lane that waits for money or for its hours must hold no slots, because a run with
        money may wait for them.
        """
        today = self._world.today()
        return [
            lane
            for lane in self._engine.lanes.open
            if lane.limiter is limiter
            and not self._lacks_money(lane, today)
            and not lane.opens_in_s(today)
        ]

    def _lacks_money(self, lane: Lane, today: float) -> bool:
        # Before the first grant there is no money: that grant brings money and slots.
        return self._has_grant and lane.is_short(self._engine.tally.budget, today)

    def _all_wait(self) -> bool:
        """Whether no waiting job could be submitted until more money is granted."""
        today, lanes = self._world.today(), self._engine.lanes.open
        able = [lane for lane in lanes if not self._lacks_money(lane, today)]
        return self._waiting(lanes) > 0 and not self._waiting(able)

    def _waiting(self, lanes: Collection[Lane]) -> int:
        """How many jobs could be submitted on these lanes if there were slots."""
        engine = self._engine
        if engine.done_buying is not None:
            return 0
        return max(engine.router.waiting(lanes), engine.lanes.waiting(lanes))

    def _money(
        self, *, done: bool
    ) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """By budget: the amount spent, the amount needed soon, and the amount of one submit."""
        spent = {BUDGET: millionths(self._engine.tally.budget.taken_usd)}
        needed, minimum = {BUDGET: 0}, {BUDGET: 0}
        for lane in self._engine.lanes.all:
            soon, dearest = 0, millionths(lane.dearest_usd)
            if not (done or lane.closed):
                soon = min(self._waiting([lane]), 2 * lane.limiter.slots + 4)
                minimum[BUDGET] = max(minimum[BUDGET], dearest)
            needed[BUDGET] = max(needed[BUDGET], soon * dearest)
            submits, usd = lane.day.taken(self._world.today())
            name = submits_of(lane.name)
            spent[name], needed[name], minimum[name] = submits, soon, 1
            name = usd_of(lane.name)
            spent[name] = millionths(usd)
            needed[name], minimum[name] = soon * dearest, dearest
        return spent, needed, minimum
