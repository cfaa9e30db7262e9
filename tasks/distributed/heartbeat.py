"""The shard's side of shared quotas: reports the usage of a run, and obeys the grants.

`quota` decides the grants, in the batch's process.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from storage import layout
from storage.ledger import claimant
from storage.objects import MissingError, Objects
from tasks.alongside import background
from tasks.batch.batch import BatchRun
from tasks.dispatch import Lane, dearest_bills
from tasks.distributed.mailbox import beat_s
from tasks.distributed.messages import Grants, ShardReport
from tasks.distributed.usage import (
    BUDGET,
    Grant,
    accounts,
    dollars,
    minute_of,
    slots_of,
    submits_of,
    usd_of,
)
from tasks.distributed.usage_meter import UsageMeter
from tasks.engine.environment import World
from tasks.engine.stats import WaitReason

STALE_S: Final = 30.0
"""After this time without a new grant nothing more is bought..."""
BATCH_DEAD_S: Final = 300.0
"""... and after this time the batch counts as dead."""

GRANTS_WITHOUT: Final = 10
"""Messages without a grant for a run that has reported, after which it was fenced out."""

log = logging.getLogger(__name__)


class ShardHeartbeat:
    """The reports of one run of a shard, and the grants that it obeys."""

    def __init__(
        self,
        batch_run: BatchRun,
        objects: Objects,
        *,
        batch: str,
        shard: int,
        world: World,
    ) -> None:
        self._batch_run = batch_run
        self._engine = batch_run.engine
        self._objects = objects
        self._batch = batch
        self._shard = shard
        self._generation = batch_run.generation
        self._world = world
        self._by = claimant(self._generation, batch, world.today())
        self._limiters = {
            lane.account: lane.limiter for lane in batch_run.engine.lanes.all
        }
        self._has_budget = batch_run.wanted.budget_usd is not None
        self._meter = UsageMeter(batch_run, shard, world)
        self._grant_number = 0
        """The number of the grants that the run obeys; 0 before its first grant."""
        self._granted_at = self._read_at = world.now()
        self._latest = 0
        """The number of the newest grants that were read."""
        self._silent_s = 0.0
        """For how long no new grant was heard, while the store could be reached."""
        self._without = 0
        """The number of messages that had no grant for this run."""
        self.shut_out = False
        self._use_nothing()

    def running(self) -> AbstractAsyncContextManager[None]:
        """Send reports and read grants for the length of the block."""
        return background(self._run())

    async def finish(self) -> ShardReport:
        """Send the last report: the shard has been run."""
        report = self._report(done=True)
        await self._send(report, last=True)
        return report

    async def _run(self) -> None:
        every_s = beat_s(self._objects)
        while True:
            try:
                async with asyncio.timeout(STALE_S):
                    await self._read_grants()
                    await self._send(self._report())
            # After any error (such as a grant of another version) it buys nothing, and the
            # log has the reason.
            except Exception as error:  # noqa: BLE001
                log.warning(
                    "shard.heartbeat_lost shard=%d no allocation is received, buying stops if this lasts: %r",
                    self._shard,
                    error,
                )
            if self._world.now() - self._granted_at > STALE_S:
                self._use_nothing()
            if self._silent_s > BATCH_DEAD_S:
                reason = f"no grants for {self._silent_s:.0f} s: the batch is gone"
                self._engine.stop(reason)
            await asyncio.sleep(every_s if self._grant_number else every_s / 5)

    async def _read_grants(self) -> None:
        try:
            key = layout.grant(self._batch)
            data = await self._objects.get(key)
        except MissingError:
            grants = None
        else:
            grants = Grants.load(data, self._objects.uri(key))
        now, beat = self._world.now(), beat_s(self._objects)
        # While the store is out of reach, nothing can be heard.
        self._silent_s += min(now - self._read_at, 2 * beat)
        self._read_at = now
        # Grants count once: they expire if no others follow.
        if grants is not None and grants.number > self._latest:
            self._latest, self._granted_at, self._silent_s = grants.number, now, 0.0
            self._obey(grants)

    def _obey(self, grants: Grants) -> None:
        if grants.stop is not None:
            self._engine.end_within(grants.grace_s, grants.stop)
        self._obey_for_all(grants)
        grant = grants.grants.get(self._shard)
        if grant is None or grant.generation != self._generation:
            self._without_grant(grant)
            return
        self._grant_number = grants.number
        for lane in self._engine.lanes.open:
            if why := _unknown(lane, grant, grants.lanes):
                self._engine.lanes.close_here(lane, why)
        for account, limiter in self._limiters.items():
            limiter.set_share(
                grant.caps.get(slots_of(account), 0),
                grant.caps.get(minute_of(account), 0),
            )
        self._set_budgets(grant)
        if self._engine.done_buying is WaitReason.BUDGET:
            # Without money no slots are granted, so jobs must find out without a turn.
            self._engine.lanes.recheck_budgets()
        self._engine.lanes.assign_slots()

    def _obey_for_all(self, grants: Grants) -> None:
        """Apply what other runs found out about the lanes: bills, and reasons to close."""
        for lane in self._engine.lanes.all:
            if bill := grants.dearest.get(lane.name):
                self._engine.deps.charges.raise_prices(lane, bill)
        for lane in self._engine.lanes.open:
            if why := grants.closed.get(lane.name):
                self._engine.lanes.close(lane, why)

    def _without_grant(self, grant: Grant | None) -> None:
        """Handle a message without a grant for this run.

        A run that was fenced out and has nothing to record learns that only here.
        """
        self._without += 1
        succeeded = grant is not None and grant.generation > self._generation
        if self._grant_number or succeeded or self._without >= GRANTS_WITHOUT:
            self.shut_out = True
            self._engine.stop("shut out")

    def _set_budgets(self, grant: Grant) -> None:
        if self._has_budget:
            granted = dollars(grant.granted.get(BUDGET, 0))
            self._engine.tally.budget.dealt(granted, more=BUDGET not in grant.final)
        for lane in self._engine.lanes.all:
            names = submits_of(lane.name), usd_of(lane.name)
            # The grants of the batch hold, even where our own settings have no cap.
            if lane.day.limited or not grant.granted.keys().isdisjoint(names):
                submits, usd = [
                    grant.granted.get(name, None if cap is None else 0)
                    for name, cap in zip(names, lane.day.caps, strict=True)
                ]
                lane.day.dealt(
                    submits,
                    None if usd is None else dollars(usd),
                    more=not {*names} & {*grant.final},
                )

    def _use_nothing(self) -> None:
        """Set our share of every quota to zero: other shards may hold it."""
        for limiter in self._limiters.values():
            limiter.set_share(0, 0)
        if not self._grant_number:
            self._set_budgets(Grant(generation=self._generation, caps={}, granted={}))

    async def _send(self, report: ShardReport, *, last: bool = False) -> None:
        generation = self._generation
        key = layout.usage(self._batch, self._shard, generation, last=last)
        await self._objects.put(key, report.dump())

    def _report(self, *, done: bool = False) -> ShardReport:
        tally = self._engine.tally
        return ShardReport(
            usage=self._meter.usage(self._grant_number, done=done),
            by=self._by,
            published=tally.published,
            rejected=tally.rejected,
            expired=tally.expired,
            spent_usd=tally.budget.spent_usd,
            bill=tally.bill.counts(),
            closed=self._closed(),
            closed_here={
                lane.name: lane.closed
                for lane in self._engine.lanes.all
                if lane.closed and lane.closed_here
            },
            learned={
                account: learned
                for account, limiter in self._limiters.items()
                if (learned := limiter.learned()) is not None
            },
            waiting_jobs=tally.waiting_jobs if done else {},
            passed_over=sorted(tally.passed_over) if done else [],
            dearest=dearest_bills(self._engine.lanes.all),
            troubles=self._engine.troubles.standing(),
            fault=tally.faults.stopped,
        )

    def _closed(self) -> dict[str, str]:
        """The lanes that no run can use.

        A lane is left out if only our part of its daily cap is used up, or if others may
        still use it.
        """
        today = self._world.today()
        return {
            lane.name: lane.closed
            for lane in self._engine.lanes.all
            if lane.closed
            and not lane.closed_here
            and not lane.day.full(lane.dearest_usd, today)
        }


def _unknown(lane: Lane, grant: Grant, lanes: Sequence[str]) -> str | None:
    """Why nothing will ever be granted to this lane, if so."""
    if lane.name not in lanes:
        known = ", ".join(map(repr, lanes))
        return f"the batch has no such lane: its nightreel.toml names {known}"
    if slots_of(lane.account) not in grant.caps:
        known = ", ".join(repr(account) for account in accounts(grant.caps))
        names = f"its nightreel.toml names {known}, not {lane.account!r}"
        return f"the batch has no such account: {names}"
    submits, usd = lane.day.caps
    if submits is not None and submits_of(lane.name) not in grant.granted:
        return "the batch's nightreel.toml has no submits_per_day for it"
    if usd is not None and usd_of(lane.name) not in grant.granted:
        return "the batch's nightreel.toml has no usd_per_day for it"
    return None
