"""The events of a batch that automations can act on: sent, and never waited for.

nightreel.lane.closed     about nightreel.lane.NAME: lane, why, batch, root
nightreel.budget.spent    about nightreel.batch.NAME: batch, root, spent_usd, budget_usd
nightreel.doubt           about nightreel.batch.NAME, once: batch, root, count, usd
nightreel.rejected        about nightreel.batch.NAME, once: batch, root, count, rows
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from prefect.events import emit_event

from manifests.uris import unsigned
from tasks.batch.batch import BatchRun
from tasks.batch.summary import Summary
from tasks.engine.stats import WaitReason

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Events:
    """The events that were sent for a batch."""

    batch_run: BatchRun
    _closed: set[str] = field(default_factory=set[str])
    _spent: bool = False

    async def look(self) -> None:
        """Send new events while the batch runs."""
        for lane in self.batch_run.engine.lanes.all:
            if lane.closed is not None and lane.name not in self._closed:
                self._closed.add(lane.name)
                about = f"nightreel.lane.{lane.name}"
                await self._say("lane.closed", about, lane=lane.name, why=lane.closed)
        if self.batch_run.engine.done_buying is WaitReason.BUDGET:
            await self.spent()

    async def spent(self) -> None:
        """Send, once, that the budget is spent."""
        if self._spent:
            return
        self._spent = True
        await self._say(
            "budget.spent",
            self._batch,
            spent_usd=float(self.batch_run.engine.tally.budget.spent_usd),
            budget_usd=float(self.batch_run.wanted.budget_usd or 0),
        )

    async def ended(self, summary: Summary) -> None:
        """Send what is left for the owner to do."""
        if summary.short_of == "budget":
            await self.spent()
        if summary.too_many_rejected:
            count, rows = summary.rejected, summary.rows
            await self._say("rejected", self._batch, count=count, rows=rows)
        if summary.in_doubt:
            usd = float(self.batch_run.in_doubt_usd)
            await self._say("doubt", self._batch, count=summary.in_doubt, usd=usd)

    @property
    def _batch(self) -> str:
        return f"nightreel.batch.{self.batch_run.batch}"

    async def _say(self, what: str, about: str, **facts: Any) -> None:
        root = unsigned(self.batch_run.wanted.root)
        try:
            # The first event starts a thread and reads settings; without a server nothing
            # is sent.
            await asyncio.to_thread(
                emit_event,
                event=f"nightreel.{what}",
                resource={"prefect.resource.id": about, "nightreel.root": root},
                payload={"batch": self.batch_run.batch, "root": root, **facts},
            )
        # A lost event must not stop the batch; it is logged.
        except Exception as exc:  # noqa: BLE001
            log.warning(
                "event.not_sent event=%s no automation hears of it: %s", what, exc
            )
