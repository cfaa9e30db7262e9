"""Reconciles a root with its providers: settles doubts, fetches clips, counts refunds.

It needs no manifest: the ledger has what was submitted. It asks the providers that can be
asked. Only the owner decides about the other doubts.
"""

import logging
import tempfile
import time
from collections.abc import (
    AsyncGenerator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final

from manifests.accounting import Attempt, Outcome
from manifests.accounting.attempts import attempts
from manifests.expiry import EXPIRED
from manifests.lifecycle import (
    FREE,
    Accepted,
    Adjusted,
    Discarded,
    Event,
    History,
    Published,
    Refused,
    Rejected,
    Risked,
)
from storage.ledger import Ledger, existing_root, read
from tasks.dispatch import Budget, Lane, Router
from tasks.engine import attempts_tables
from tasks.engine.environment import REAL, Deps, Rules
from tasks.engine.in_doubt import Doubts, in_doubt, sent_elsewhere
from tasks.engine.own_faults import park
from tasks.engine.past_tables import retell
from tasks.engine.recover import Fetcher
from tasks.engine.stats import UNANSWERED
from tasks.engine.submit_mark import SubmitMark, lane_to_ask
from tasks.providers.errors import ProviderError
from tasks.providers.http import ask
from tasks.providers.protocol import Billed, UnreadableError

log = logging.getLogger(__name__)

ASKED_AFTER_S: Final = 30 * 24 * 3600.0
"""How long after its end an attempt's charge may still change: Kling keeps tasks for 30 days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """The decisions that only the owner can take, by job id."""

    resubmit: frozenset[str] = frozenset()
    """Jobs in doubt to buy again despite the risk."""
    write_off: frozenset[str] = frozenset()
    """Jobs in doubt that count as charged and lost, and are not wanted any more."""
    charged: Mapping[str, Decimal] = field(default_factory=dict[str, Decimal])
    """By job: the final charge for its last attempt, from the provider's bill."""


class DecisionError(ValueError):
    """A decision about a job that it does not apply to; nothing was recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtLine:
    """A job that is still in doubt."""

    job: str
    lane: str
    age_s: float
    price_usd: Decimal
    reason: str
    askable: bool
    """Whether its provider can be asked, on a lane that is in use."""


@dataclass(slots=True, kw_only=True)
class Reconciled:
    """The result of a reconciliation."""

    accepted: int = 0
    """Doubts whose request the provider has."""
    absent: int = 0
    """Doubts whose request never reached the provider: refunded, and bought by the next run."""
    fetched: int = 0
    """Clips that were fetched."""
    expired: int = 0
    """Clips that were paid for, and that their providers no longer have."""
    parked: dict[str, int] = field(default_factory=dict[str, int])
    """Clips on which our own code failed, by the reason: they stay at their providers."""
    resubmit: int = 0
    written_off: int = 0
    settled_usd: Decimal = FREE
    """The sum to add to the counted cost: below 0 if money was refunded."""
    doubts: list[DoubtLine] = field(default_factory=list[DoubtLine])


@asynccontextmanager
async def opened(
    root: str, *, lanes: Sequence[Lane], rules: Rules, take_over: bool = False
) -> AsyncGenerator["Reconciliation"]:
    """Open a root's reconciliation for the length of the block; update its tables at the end.

    Raises:
        HeldError: another run holds the root.
        StorageError: the root is out of reach.
    """
    objects = REAL.objects(root)
    await existing_root(objects)
    ledger = await Ledger.open(
        objects, name="reconcile", take_over=take_over, whole=True
    )
    try:
        async with REAL.clients() as clients:
            deps = Deps(
                world=REAL,
                rules=rules,
                objects=objects,
                ledger=ledger,
                clients=clients,
                router=Router(lanes, policy="balanced", now=REAL.now, today=REAL.today),
                # A reconciliation buys nothing.
                budget=Budget(Decimal(0)),
            )
            reconciliation = Reconciliation(deps)
            try:
                yield reconciliation
            finally:
                await reconciliation.put_right()
    finally:
        await ledger.close()


class Reconciliation:
    """A root's ledger, compared with the records of its providers."""

    def __init__(self, deps: Deps) -> None:
        self.told = Reconciled()
        self._deps = deps
        self._objects = deps.objects
        self._ledger = deps.ledger
        self._changed = set[str]()
        self._doubts = Doubts(deps, self._record)
        self._fetcher = Fetcher(deps, self._record, self._park)

    @property
    def batch(self) -> str:
        return self._ledger.batch

    def doubts(self) -> dict[str, History]:
        """All jobs in doubt, with their histories."""
        lives = self._ledger.lives
        return in_doubt(lives, list(lives))

    async def ask(self) -> None:
        """Ask about every doubt whose provider can be asked."""
        told = await self._doubts.asked(self.doubts())
        self.told.accepted += sum(isinstance(e, Accepted) for e in told.values())
        self.told.absent += sum(isinstance(e, Refused) for e in told.values())

    async def check(self, decisions: Decisions) -> Mapping[str, Attempt]:
        """Check all decisions; return the last attempt of every job that was submitted.

        Raises:
            DecisionError: one of the decisions does not apply.
        """
        doubts = self.doubts()
        for job in sorted(decisions.resubmit | decisions.write_off):
            if job not in self._ledger.lives:
                raise DecisionError(f"job {job}: nothing was ever submitted for it")
            if job not in doubts:
                state = self._ledger.history(job).state
                raise DecisionError(f"job {job} is {state}, not in doubt")
        if both := decisions.resubmit & decisions.write_off:
            raise DecisionError(f"job {min(both)}: either resubmit it or write it off")
        last = {each.job: each for each in attempts(await read(self._objects))}
        for job, usd in decisions.charged.items():
            if not (usd.is_finite() and usd >= 0):
                problem = (
                    f"job {job}: charged {usd} USD: must be 0 or more, such as 0.25"
                )
                raise DecisionError(problem)
            if job not in last:
                raise DecisionError(f"job {job}: nothing was ever submitted for it")
            history = self._ledger.history(job)
            written = job in decisions.write_off | decisions.resubmit
            if history.charged < last[job].number and not written:
                message = f"job {job} is {history.state}: what it cost is known when that ends"
                raise DecisionError(message)
        return last

    async def decide(self, decisions: Decisions) -> None:
        """Record the owner's decisions.

        Raises:
            DecisionError: one of them does not apply; then none is recorded.
        """
        last = await self.check(decisions)
        for job in sorted(decisions.resubmit):
            await self._record(job, Risked("its owner lets it go again"))
        for job in sorted(decisions.write_off):
            written_off = Rejected("written off by its owner", charged=True)
            await self._record(job, written_off)
        for job, usd in sorted(decisions.charged.items()):
            await self._settle(last[job], usd, "by the provider's bill")
        self.told.resubmit += len(decisions.resubmit)
        self.told.written_off += len(decisions.write_off)

    async def fetch(self) -> None:
        """Fetch the clips that are ready at providers, or will be before the deadline."""
        await self._fetcher.bring_home(self._ledger.lives)

    async def settle(self) -> None:
        """Ask what was charged in the end for the attempts that ended without a clip."""
        since = time.time() - ASKED_AFTER_S
        for attempt in attempts(await read(self._objects)):
            if attempt.ended_at is None or attempt.ended_at < since:
                continue
            if attempt.outcome is not Outcome.PUBLISHED:
                await self._ask_charge(attempt)

    async def _ask_charge(self, attempt: Attempt) -> None:
        lane = self._deps.lanes.get(attempt.lane)
        if lane is None or attempt.ticket is None:
            return
        provider = lane.endpoint.provider
        if not isinstance(provider, Billed):
            return
        try:
            charge = provider.charge(attempt.ticket)
            usd = await ask(self._deps.clients, lane.endpoint, charge)
        except (ProviderError, UnreadableError) as exc:
            log.warning(
                "charge.not_reported lane=%s the recorded price stands: %s",
                lane.name,
                exc,
            )
            return
        if usd is not None:
            await self._settle(attempt, usd, f"{provider.name} says so")

    async def put_right(self) -> None:
        """Update the tables of earlier batches to what is on record now."""
        now = time.time()
        self.told.doubts = [
            DoubtLine(
                job=job,
                lane=history.lane or "",
                age_s=now - (history.submitted_at or now),
                price_usd=history.price_usd,
                reason=self._reason(history),
                askable=self._doubts.askable(history),
            )
            for job, history in self.doubts().items()
        ]
        with tempfile.TemporaryDirectory(prefix="nightreel-") as name:
            folder, ours = Path(name), self._ledger.epoch
            await attempts_tables.write_missing(self._objects, folder, before=ours)
            if self._changed:
                histories = self._ledger.lives
                await retell(self._objects, folder, histories, self._changed)
            await attempts_tables.put_empty(self._objects, folder, self.batch)

    def _reason(self, history: History) -> str:
        """Why it is in doubt; and where it was sent if no lane in use asks that place."""
        reason, mark = history.reason or UNANSWERED, SubmitMark.of(history.mark)
        lane = lane_to_ask(self._deps.lanes.all, history)
        if lane is None or mark.sent_through(lane):
            return reason
        return f"{reason}; {sent_elsewhere(mark)}"

    async def _settle(self, attempt: Attempt, usd: Decimal, why: str) -> None:
        if usd == attempt.cost_usd:
            return
        reason = f"charged {usd} USD, not {attempt.cost_usd}: {why}"
        more = usd - attempt.cost_usd
        settled = Adjusted(attempt=attempt.number, usd=more, reason=reason)
        await self._record(attempt.job, settled)
        self.told.settled_usd += more

    async def _park(self, job: str, error: Exception) -> None:
        reason = await park(job, error, self._ledger.history(job), self._record)
        self.told.parked[reason] = self.told.parked.get(reason, 0) + 1

    async def _record(self, job: str, event: Event) -> None:
        await self._ledger.record(job, event)
        self._changed.add(job)
        match event:
            case Published():
                self.told.fetched += 1
            case Discarded(reason) if reason.startswith(EXPIRED):
                self.told.expired += 1
            case _:
                pass
