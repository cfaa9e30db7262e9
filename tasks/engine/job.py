"""Takes one job from the state that its history left it in, to an end.

The loop: read the history, do the one thing that this state calls for, record what
happened, read again. `_events` is an async generator of events that resumes only once each
event is durable. So the order of its lines is the write-ahead rule. A crash between any two
of them is a crash between two entries, and the next run continues from there.
"""

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Final

from manifests.catalogue import Route
from manifests.expiry import EXPIRED
from manifests.lifecycle import (
    Accepted,
    Discarded,
    Doubted,
    Event,
    Forgotten,
    History,
    Refused,
    Rejected,
    State,
    Ticket,
    Unplayable,
)
from tasks.dispatch import Lane, RunTimes
from tasks.engine.download import UnfetchedError, requested
from tasks.engine.environment import Deps
from tasks.engine.job_run import JobRun, MustWaitError
from tasks.engine.own_faults import OwnFaultError
from tasks.engine.poll import (
    STUCK,
    Ended,
    Patience,
    UnfinishedError,
    UnreadError,
)
from tasks.engine.refetch import Refetcher
from tasks.engine.reserve import Reservation, Reserver
from tasks.engine.stats import UNANSWERED, Tally, WaitReason
from tasks.engine.steps import AtProvider, AtWorkError, Steps, free
from tasks.engine.submit import (
    LONGEST_WAIT_S,
    Answer,
    Submitter,
)
from tasks.engine.submit_mark import lane_for_ticket, reference
from tasks.engine.trouble import Stage
from tasks.providers.errors import InDoubtError, MisconfiguredError, ProviderError
from tasks.providers.protocol import Finished, Gone

log = logging.getLogger(__name__)

SEND_WITHIN_S: Final = 30.0
"""The greatest age of an intent when its request is sent. A process that was frozen for
longer may have been replaced, and its submit taken for never sent: a holder counts as dead
after 60 silent seconds, and a doubt of that age is asked about."""


WITHHELD: Final = (
    "it may have been bought in a gap of the ledger: see `nightreel repair`"
)

LOSSES: Final = 2
"""How often a job that an own GPU forgot is submitted again."""


class JobRunner:
    """Takes jobs through their states, to an end."""

    def __init__(
        self,
        deps: Deps,
        tally: Tally,
        record: Callable[[str, Event], Awaitable[None]],
        refetcher: Refetcher,
    ) -> None:
        self.router = deps.router
        self.tally = tally
        self._deps = deps
        self._record = record
        self._refetcher = refetcher
        self._history = deps.ledger.history
        self._now = deps.world.now
        self._today = deps.world.today
        self._reserver = Reserver(deps)
        self._submitter = Submitter(deps)
        self._steps = Steps(deps)
        self._run_times = RunTimes()
        self._waited_for = set[str]()
        """Lanes whose stuck jobs were logged, although no other lane can make them."""

    async def run(self, run: JobRun) -> History:
        """Process the job; record each event before the next step begins."""
        async with aclosing(self._events(run)) as events:
            async for event in events:
                await self._record(run.job_id, event)
        return self._history(run.job_id)

    async def _events(self, run: JobRun) -> AsyncGenerator[Event, None]:
        """Yield the job's remaining events, up to an end or a wait."""
        try:
            while step := self._next_step(run, self._history(run.job_id)):
                moved = False
                async with aclosing(step) as events:
                    async for event in events:
                        moved = True
                        yield event
                if not moved:
                    return
        except MustWaitError as exc:
            self.tally.set_waiting(run.job_id, exc.why, self._reason(run, exc))
            if self._history(run.job_id).state is State.PENDING:
                self.router.bought(run.order)
        finally:
            run.release_slot()

    def _reason(self, run: JobRun, wait: MustWaitError) -> str:
        """Why the job waits; a stop keeps the reason that the job waited for before."""
        if wait.why is not WaitReason.STOPPED:
            return wait.reason
        lanes = [lane.name for lane in run.able]
        before = (
            run.refused
            or self._history(run.job_id).reason
            or self._deps.troubles.reason(lanes, Stage.SUBMIT, Stage.UPLOAD)
        )
        return f"{before}; {wait.reason}" if before else wait.reason

    def _next_step(
        self, run: JobRun, history: History
    ) -> AsyncGenerator[Event, None] | None:
        """The step that the history calls for, or None at an end."""
        match history:
            case History(state=State.PENDING) if gap := self._deps.ledger.withheld(
                run.job_id
            ):
                raise MustWaitError(WaitReason.GAP, f"{WITHHELD} ({gap.name})")
            case History(state=State.PENDING) if history.losses > LOSSES:
                reason = f"{history.losses} times sent and lost: {history.reason}"
                raise MustWaitError(WaitReason.ATTEMPTS, reason)
            case History(state=State.PENDING) if (
                history.failures < self._deps.rules.attempts
            ):
                return self._buy(run, history)
            case History(state=State.PENDING):
                reason = f"{history.failures} attempts failed: {history.reason}"
                raise MustWaitError(WaitReason.ATTEMPTS, reason)
            case History(state=State.IN_DOUBT):
                raise MustWaitError(WaitReason.DOUBT, history.reason or UNANSWERED)
            case History(state=State.ACCEPTED, ticket=Ticket() as ticket):
                return self._follow(run, history, ticket)
            case History(state=State.GENERATED, ticket=Ticket() as ticket):
                return self._publish(run, history, ticket)
            case _:
                return None

    async def _buy(self, run: JobRun, history: History) -> AsyncGenerator[Event, None]:
        """One submit: recorded before it is sent, and its answer recorded after it."""
        if history.accepted_at is not None and history.lane:
            run.tried.add(history.lane)
        reservation = await self._reserver.reserve(run, self._failed(history))
        seed = run.order.job.seed_after(history.discards)
        ref = reference(reservation.lane, run.job_id, history)
        self.router.bought(run.order)
        meant = self._now(), self._today()
        yield self._submitter.intended(reservation, seed, ref)
        if why_not := self._why_not_send(run, *meant):
            answer = self._refuse_unsent(reservation, why_not)
        else:
            answer = await self._submitter.send(
                reservation,
                seed,
                ref,
                in_time=lambda: self._since(*meant) <= SEND_WITHIN_S,
            )
        if isinstance(answer, Refused | Rejected):
            # At once: a lane whose day seems full to a waiting job is closed.
            self._deps.charges.refused(run.job_id)
        # The time of the answer, without the time that recording it takes.
        answered = self._now()
        yield answer
        match answer:
            case Accepted():
                run.accepted = answered
            case Doubted():
                run.release_slot_after_typical_run()
            case _:
                run.release_slot()
                self._requeue(run, answer)

    def _since(self, now: float, today: float) -> float:
        """Seconds since then, the larger of two clocks.

        The monotonic clock of a machine that slept stood still, and the other clock may be
        set back at any time.
        """
        return max(self._now() - now, self._today() - today)

    def _why_not_send(self, run: JobRun, now: float, today: float) -> str | None:
        """Why a submit that was just recorded must not be sent.

        It may be too late, because another run may have bought the job meanwhile. Or its
        lane's price rose while it was recorded.
        """
        if (old_s := self._since(now, today)) > SEND_WITHIN_S:
            return f"meant {old_s:.0f} s ago, over {SEND_WITHIN_S:.0f}"
        return self._deps.charges.unaffordable(run.job_id)

    @staticmethod
    def _refuse_unsent(reservation: Reservation, why: str) -> Answer:
        reservation.lane.limiter.not_sent()
        reason = f"not sent: {why}"
        log.warning(
            "submit.not_sent lane=%s the job goes round again: %s",
            reservation.lane.name,
            reason,
        )
        return Refused(reason)

    def _requeue(self, run: JobRun, ended: Event) -> None:
        """Count the job as one to be bought again, if its attempt failed."""
        if isinstance(ended, Refused | Discarded | Forgotten):
            self.router.requeue(run.order)

    def _failed(self, history: History) -> Route | None:
        """The route on which an attempt at the job failed, if it is still in use."""
        routes = (lane.route for lane in self._deps.lanes.all)
        return next(
            (route for route in routes if route.name == history.failed_route), None
        )

    async def _follow(
        self, run: JobRun, history: History, ticket: Ticket
    ) -> AsyncGenerator[Event, None]:
        """Poll an accepted job until the provider has finished it."""
        job = self._at_provider(run, history, ticket)
        ended = await job.poll()
        # First: a lane that it closes gives the slot to no other job.
        self._count(run, job.lane, ended)
        run.release_slot()
        if isinstance(ended, Finished):
            run.clip_url = ended.url
        elif not isinstance(ended, Gone):
            # The provider may have failed on the link to the still.
            run.still_urls.clear()
        event = self._steps.ended(job, ended)
        self._requeue(run, event)
        yield event

    def _count(self, run: JobRun, lane: Lane, ended: Ended) -> None:
        # A free refusal to make a row is no fault of the lane. Neither is a clip that it
        # made and that was not fetched in time.
        unpaid = isinstance(ended, Rejected) and not ended.charged
        made = isinstance(ended, Finished | Gone)
        if isinstance(ended, Finished) and not lane.paid and run.accepted is not None:
            took_s = self._now() - run.accepted
            self._run_times.finished(lane.route, run.order.job, took_s)
        reason = "" if isinstance(ended, Finished) else ended.reason
        if reason:
            self._deps.troubles.failed(lane.name, Stage.GENERATE, reason)
        else:
            self._deps.troubles.succeeded(lane.name, Stage.GENERATE)
        if reason.startswith(STUCK):
            lane.stuck += 1
            log.warning(
                "job.stuck job=%s lane=%s it goes to another lane: %s",
                run.job_id,
                lane.name,
                reason,
            )
        failed = not (made or unpaid)
        self._submitter.count(lane, run.job_id, failed=failed, reason=reason)

    def _stuck_s(self, run: JobRun, lane: Lane, history: History) -> float:
        """The age at which a job that does not move is given up; only own GPUs' jobs are."""
        if not free(history, lane):
            return math.inf
        limit_s = self._run_times.stuck_after_s(lane.route, run.order.job)
        if math.isinf(limit_s) or _has_other(run, lane):
            return limit_s
        if self._age_s(run, history) > limit_s and lane.name not in self._waited_for:
            self._waited_for.add(lane.name)
            log.warning(
                "job.slow job=%s lane=%s it is over %.0f s old, others took a tenth of "
                "that: it is waited for, because no other lane is open",
                run.job_id,
                lane.name,
                limit_s,
            )
        return math.inf

    async def _publish(
        self, run: JobRun, history: History, ticket: Ticket
    ) -> AsyncGenerator[Event, None]:
        """Fetch and publish the clip of a finished job."""
        if run.clip_url is None and (
            kept := await self._deps.publisher.kept(run.job_id)
        ):
            yield kept
            return
        job = self._at_provider(run, history, ticket)
        url, run.clip_url = run.clip_url, None
        request = requested(run.order, run.still_changes, run.still_size)
        try:
            event = await self._steps.publish(job, request=request, url=url)
        except AtWorkError as exc:
            raise MustWaitError(WaitReason.UNFINISHED, str(exc)) from exc
        except UnfetchedError as exc:
            reason = self._refetcher.add(job, request, str(exc))
            raise MustWaitError(WaitReason.UNFINISHED, reason) from exc
        self.count_spoiled(job, event)
        self._requeue(run, event)
        yield event

    def count_spoiled(self, job: AtProvider, event: Event) -> None:
        """Count a job as failed if its clip turned out to be bad."""
        bad = isinstance(event, Discarded | Unplayable)
        if bad and not event.reason.startswith(EXPIRED):
            self._submitter.spoiled(job.lane, job.job_id, event.reason)

    def _at_provider(self, run: JobRun, history: History, ticket: Ticket) -> AtProvider:
        lane = self._lane_of(run, history, ticket)
        poll = partial(self._until_ended, run, lane, history, ticket)
        return AtProvider(run.job_id, lane, ticket, poll)

    async def _until_ended(
        self, run: JobRun, lane: Lane, history: History, ticket: Ticket
    ) -> Ended:
        remade_free = free(history, lane)
        dies = _has_other(run, lane) and remade_free
        try:
            return await self._deps.follower.until_ended(
                lane,
                ticket,
                age_s=self._age_s(run, history),
                # Another account never had it. If the lane of an own GPU is gone, its jobs
                # are made again: that costs nothing.
                over=self._steps.may_be_gone(history, lane)
                and (lane.name == history.lane or remade_free),
                patience=Patience(
                    dead_s=self._deps.rules.dead_s if dies else math.inf,
                    left_s=LONGEST_WAIT_S if remade_free else math.inf,
                    unread_s=self._deps.rules.dead_s if remade_free else math.inf,
                    stuck_s=partial(self._stuck_s, run, lane, history),
                    heard=partial(self._heard, lane),
                ),
            )
        except MisconfiguredError as exc:
            raise MustWaitError(WaitReason.UNFINISHED, str(exc)) from exc
        except UnreadError as exc:
            raise OwnFaultError("our own reading of the provider's answers") from exc
        except UnfinishedError as exc:
            raise MustWaitError(WaitReason.UNFINISHED, str(exc)) from exc

    def _heard(self, lane: Lane, error: ProviderError | None) -> bool:
        """Apply a poll's answer to the lane; return whether the job is asked about again."""
        lanes = self._deps.lanes
        match error:
            case None:
                lanes.answered(lane, "poll")
            case InDoubtError():
                lanes.not_own(lane, "poll", error)
            case MisconfiguredError():
                lanes.misconfigured(lane, "poll", error)
                # The key may be good again, also after the lane has closed.
                return lane.key_was_good
            case _:
                pass
        return True

    def _age_s(self, run: JobRun, history: History) -> float:
        if run.accepted is not None:
            return self._now() - run.accepted
        return self._today() - (history.accepted_at or 0.0)

    def _lane_of(self, run: JobRun, history: History, ticket: Ticket) -> Lane:
        """The lane that accepted the job. After a restart, take its slot there again."""
        lane = lane_for_ticket(self._deps.lanes.all, history)
        if lane is None:
            reason = f"no lane in use asks {ticket.provider}, who has it"
            raise MustWaitError(WaitReason.UNFINISHED, reason)
        if run.slot is None and history.state is State.ACCEPTED:
            lane.limiter.hold_slot()
            run.slot = lane
        return lane


def _has_other(run: JobRun, lane: Lane) -> bool:
    """Whether another open lane can make the job."""
    return any(each.closed is None and each is not lane for each in run.able)
