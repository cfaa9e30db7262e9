"""Settles jobs in doubt: asks the providers that can be asked, and takes allowed risks.

A provider's answer counts only if it is certain. An absence is certain only at the place
(base URL) that the submit was sent to: another region or proxy may not know the job. A job
whose provider cannot be asked stays in doubt, until its owner allows the risk to its price.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from math import inf
from typing import Final

from manifests.lifecycle import (
    LOST,
    Accepted,
    Event,
    History,
    Refused,
    Risked,
    State,
    Ticket,
)
from tasks.dispatch import DAY_S, Lane
from tasks.engine.environment import Deps
from tasks.engine.own_submits import OwnSubmits
from tasks.engine.poll import MISSED_S, SAME
from tasks.engine.steps import free
from tasks.engine.submit_mark import ABSENT, SubmitMark, lane_to_ask
from tasks.engine.trouble import Stage
from tasks.providers.errors import ProviderError
from tasks.providers.http import Endpoint, ask
from tasks.providers.protocol import (
    Absent,
    Doubt,
    Findable,
    Found,
    Unproven,
    UnreadableError,
)

log = logging.getLogger(__name__)

AT_ONCE: Final = 8

SKEW_S: Final = 15 * 3600.0
"""The largest clock difference assumed between machines that share a root. A machine that
shows local time as UTC is wrong by up to 14 hours. An older doubt is certainly old."""

Record = Callable[[str, Event], Awaitable[None]]


class Doubts:
    """Settles the doubts that need no person."""

    def __init__(self, deps: Deps, record: Record) -> None:
        self.unheard = set[str]()
        """Jobs whose providers may still tell: none answered, or the run was stopped."""
        self._deps = deps
        self._lanes = deps.lanes
        self._record = record
        self._stopping = deps.stopping
        self._now = deps.world.now
        self._today = deps.world.today
        self._own = OwnSubmits(deps.objects)
        self.met: dict[tuple[str, int], float] = {}
        """By job and attempt: when this process first knew of the doubt, by its own clock."""

    def meet(self, doubts: Mapping[str, History]) -> None:
        """Register doubts, and note when this process first knew of each."""
        for job, history in doubts.items():
            # No clock is wrong by so much. Ours may be set while we run, so read it once.
            old = self._today() - (history.submitted_at or 0.0) > SKEW_S
            self.met.setdefault((job, history.attempts), -inf if old else self._now())

    def met_by(self, other: "Doubts") -> None:
        """Count the ages of doubts from when another part of this process knew of them."""
        self.met.update(other.met)

    def learn(self, history: History) -> None:
        """Add a submit whose remote id is on record."""
        self._own.add(history)

    async def asked(self, doubts: Mapping[str, History]) -> dict[str, Event]:
        """Ask about each doubt, and record what is certain; the recorded events by job."""
        free = asyncio.Semaphore(AT_ONCE)
        alike = Counter(_identity(history) for history in doubts.values())

        async def one(job: str, history: History) -> tuple[str, Event] | None:
            lane = self._lane_to_ask(history)
            # Two doubts that look alike to the provider are never told apart.
            if lane is None or alike[_identity(history)] > 1:
                return None
            async with free:
                found = await self._found(lane, job, history)
            if found is None:
                return None
            today = (history.submitted_at or 0.0) > self._today() - DAY_S
            buyer = self._lanes.get(history.lane or "")
            if isinstance(found, Refused) and today and buyer is not None:
                buyer.day.release(history.price_usd)
            await self._record(job, found)
            return job, found

        told = await asyncio.gather(*(one(*doubt) for doubt in doubts.items()))
        return dict(each for each in told if each is not None)

    def askable(self, history: History) -> bool:
        """Whether the provider can be asked through the account that submitted the job.

        The listing of another account proves nothing.
        """
        return self._lane_to_ask(history) is not None

    def _lane_to_ask(self, history: History) -> Lane | None:
        lane = lane_to_ask(self._lanes.all, history)
        findable = lane is not None and isinstance(lane.endpoint.provider, Findable)
        return lane if findable else None

    def due_in_s(self, job: str, history: History) -> float:
        """Seconds until the provider may be asked about the job.

        A request may still be under way after its process has died (see
        `REQUEST_LIVES_S`). An unanswered submit waits for twice `settle_s` at least: the
        provider may have accepted it as late as we gave it up. The submitter may have run
        until a moment ago, on another clock. So the age counts from when this process first
        knew of the doubt.
        """
        lane = self._lanes.get(history.lane or "")
        if lane is not None and free(history, lane):  # asking too early costs nothing
            return 0.0
        self.meet({job: history})
        waits = 2 if history.lost == "silent" else 1
        met_at = self.met[job, history.attempts]
        rules = self._deps.rules
        wait_s = max(waits * rules.settle_s, rules.absent_after_s)
        return max(0.0, met_at + wait_s - self._now())

    async def _found(
        self, lane: Lane, job: str, history: History
    ) -> Accepted | Refused | None:
        provider = lane.endpoint.provider
        if not isinstance(provider, Findable):
            return None
        # A job accepted just now is not in the provider's listing yet.
        with suppress(TimeoutError):
            due_s = self.due_in_s(job, history)
            await asyncio.wait_for(self._stopping.wait(), due_s)
        self.unheard.add(job)
        if self._stopping.is_set():
            return None
        doubt = await self._own.doubt(history)
        try:
            found = await self._asked(lane.endpoint, provider, doubt)
        except (ProviderError, UnreadableError) as exc:
            self._deps.troubles.failed(lane.name, Stage.DOUBT, str(exc), job)
            log.warning(
                "doubt.not_settled job=%s lane=%s it stays in doubt: %s",
                job,
                lane.name,
                exc,
            )
            return None
        if self._stopping.is_set() and isinstance(found, Absent):
            return None
        self.unheard.discard(job)
        return self._certain(lane, job, history, found)

    def _certain(
        self, lane: Lane, job: str, history: History, found: Found
    ) -> Accepted | Refused | None:
        """The event that a provider's answer proves, if it proves one."""
        mark = SubmitMark.of(history.mark)
        match found:
            case Ticket() as ticket:
                return self._accepted(lane, job, history, ticket)
            case Absent(reason) if mark.sent_through(lane):
                return Refused(f"{ABSENT}{reason}")
            case Absent():
                log.warning(
                    "doubt.other_place job=%s lane=%s it stays in doubt: %s has no such "
                    "job, and %s",
                    job,
                    lane.name,
                    lane.endpoint.place,
                    sent_elsewhere(mark),
                )
                return None
            case Unproven(reason):
                log.warning(
                    "doubt.unproven job=%s lane=%s it stays in doubt: %s",
                    job,
                    lane.name,
                    reason,
                )
                return None
            case None:
                return None

    def _accepted(
        self, lane: Lane, job: str, history: History, ticket: Ticket
    ) -> Accepted | None:
        other = self._deps.remote_ids.claim(job, history, ticket)
        if other is None:
            return Accepted(ticket)
        log.warning(
            "doubt.not_settled job=%s lane=%s it stays in doubt: the id %s belongs to "
            "job %s",
            job,
            lane.name,
            ticket.id,
            other,
        )
        return None

    async def _asked(
        self, endpoint: Endpoint, provider: Findable, doubt: Doubt
    ) -> Found:
        """Ask the provider about the job; ask several times before it counts as missing.

        One of its machines may not know yet what another one accepted.
        """
        found = await ask(self._deps.clients, endpoint, provider.find(doubt))
        for missed in range(1, SAME):
            if self._stopping.is_set() or not isinstance(found, Absent | Unproven):
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), MISSED_S * missed)
            found = await ask(self._deps.clients, endpoint, provider.find(doubt))
        return found

    async def release_unpaid(self, doubts: Mapping[str, History]) -> set[str]:
        """Release jobs on own GPUs for another submit at once: a second clip costs nothing."""
        unpaid = {
            job: history
            for job, history in doubts.items()
            if (lane := self._lanes.get(history.lane or "")) is not None
            and free(history, lane)
        }
        taken = await self.risked(unpaid)
        self.unheard -= taken
        return taken

    async def risked(self, doubts: Mapping[str, History]) -> set[str]:
        """Release jobs for another submit within the lane owner's limit on risk.

        The jobs most likely to have been refused go first.
        """
        taken = set[str]()
        for job, history in sorted(doubts.items(), key=lambda each: _odds(each[1])):
            lane = self._lanes.get(history.lane or "")
            if lane is None or (history.billed and not lane.paid):
                continue
            # Even at a price of 0: a paid provider may send a bill that we do not know of.
            if lane.paid and not lane.risk_usd:
                continue
            price_usd = self._deps.charges.reserved_usd(job, history)
            if lane.risk.reserve(price_usd):
                what = f"risked {price_usd} USD" if lane.paid else "submitted again"
                message = f"{what}: {history.reason or 'no answer'}"
                log.warning(
                    "doubt.risked job=%s lane=%s it is submitted again: %s",
                    job,
                    lane.name,
                    message,
                )
                await self._record(job, Risked(message))
                taken.add(job)
        return taken


def in_doubt(history: Mapping[str, History], keys: Iterable[str]) -> dict[str, History]:
    """The histories of those of `keys` that are in doubt."""
    found = ((key, history.get(key)) for key in keys)
    return {k: h for k, h in found if h is not None and h.state is State.IN_DOUBT}


def sent_elsewhere(mark: SubmitMark) -> str:
    """Say where the submit went, and how the place can be asked."""
    if not mark.place:
        return "an earlier version sent the submit and did not record its base_url"
    return (
        f"the submit went to {mark.place}: use a lane with that base_url to ask there"
    )


def _identity(history: History) -> tuple[str, str]:
    """All that a provider can know a submit by; two places may be one provider's."""
    mark = SubmitMark.of(history.mark)
    return mark.account, mark.name


def _odds(history: History) -> tuple[int, float]:
    """Sort key: the most likely refused first, then the cheapest."""
    lost = LOST.index(history.lost) if history.lost else len(LOST)
    return lost, float(history.price_usd)
