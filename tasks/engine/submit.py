"""Sends one submit, once, and applies its answer to the job and its lane."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from manifests.lifecycle import (
    Accepted,
    Doubted,
    Intended,
    Refused,
    Rejected,
    Ticket,
)
from tasks.dispatch import Lane
from tasks.engine.environment import Deps
from tasks.engine.reserve import Reservation
from tasks.engine.submit_mark import SubmitMark, account_fingerprint
from tasks.engine.trouble import Stage
from tasks.providers.errors import (
    CappedError,
    InDoubtError,
    MisconfiguredError,
    NotSentError,
    RejectedError,
    ThrottledError,
)
from tasks.providers.http import submit
from tasks.providers.protocol import Findable

Answer = Accepted | Doubted | Refused | Rejected

LONGEST_WAIT_S: Final = 900.0
"""The longest Retry-After. A lane that asks for more is closed for this run."""


class Submitter:
    """Sends submits, and updates their lanes by the answers."""

    def __init__(self, deps: Deps) -> None:
        self.lanes = deps.lanes
        self._clients = deps.clients
        self._ids = deps.remote_ids
        self._history = deps.ledger.history
        self._now = deps.world.now
        self._troubles = deps.troubles
        self._max_failure_rate = deps.rules.max_failure_rate

    def intended(self, reservation: Reservation, seed: int, ref: str) -> Intended:
        """The event to record before the submit is sent."""
        lane, mark = reservation.lane, ""
        provider = lane.endpoint.provider
        if isinstance(provider, Findable):
            # A request that cannot be built has no mark. `send` raises and closes the lane.
            with suppress(Exception):
                name = provider.mark(reservation.job, reservation.image_url, seed, ref)
                place = lane.endpoint.place
                mark = str(SubmitMark(account_fingerprint(lane), name, place))
        return Intended(
            lane=lane.name,
            route=lane.route.name,
            price_usd=reservation.price_usd,
            seed=seed,
            mark=mark,
        )

    async def send(
        self,
        reservation: Reservation,
        seed: int,
        ref: str,
        *,
        in_time: Callable[[], bool],
    ) -> Answer:
        """Send the submit, once, and only while `in_time` is true."""
        answer = await self._sent(reservation, seed, ref, in_time)
        lane = reservation.lane.name
        if isinstance(answer, Accepted):
            self._troubles.succeeded(lane, Stage.SUBMIT)
        else:
            self._troubles.failed(lane, Stage.SUBMIT, answer.reason)
        return answer

    async def _sent(
        self,
        reservation: Reservation,
        seed: int,
        ref: str,
        in_time: Callable[[], bool],
    ) -> Answer:
        lane = reservation.lane
        provider = lane.endpoint.provider
        request = provider.submit(reservation.job, reservation.image_url, seed, ref)
        try:
            ticket = await submit(
                self._clients, lane.endpoint, request, in_time=in_time
            )
        except ThrottledError as exc:
            lane.limiter.throttled(self._now(), exc.retry_after, exc.over)
            if (exc.retry_after or 0.0) > LONGEST_WAIT_S:
                self.lanes.close(lane, f"asks to wait {exc.retry_after:.0f} s: {exc}")
            return Refused(str(exc))
        except CappedError as exc:
            lane.limiter.rejected()
            self.lanes.close(lane, f"takes no more for now: {exc}")
            return Refused(str(exc))
        except NotSentError as exc:
            lane.limiter.failed(self._now())
            if lane.limiter.breaker.is_down:
                self.lanes.close_here(lane, f"out of reach: {exc}")
            return Refused(str(exc))
        except RejectedError as exc:
            lane.limiter.rejected()
            return Rejected(str(exc))
        except MisconfiguredError as exc:
            lane.limiter.rejected()
            self.lanes.misconfigured(lane, "submit", exc)
            return Refused(str(exc))
        except InDoubtError as exc:
            return self._doubted(lane, exc)
        return self._accepted(lane, reservation.job.id, ticket)

    def _accepted(self, lane: Lane, job: str, ticket: Ticket) -> Answer:
        if other := self._ids.claim(job, self._history(job), ticket):
            return self._doubted_id(lane, ticket, other)
        lane.limiter.accepted(self._now())
        self.lanes.answered(lane, "submit")
        self.lanes.assign_slots()
        return Accepted(ticket)

    def _doubted(self, lane: Lane, error: InDoubtError) -> Doubted:
        lane.limiter.failed(self._now())
        self.lanes.not_own(lane, "submit", error)
        if lane.limiter.breaker.is_down and not lane.paid:
            self.lanes.close_here(lane, f"gives no answer: {error}")
        self.lanes.assign_slots()
        return Doubted(str(error), error.lost)

    def _doubted_id(self, lane: Lane, ticket: Ticket, other: str) -> Doubted:
        """The doubt about a submit that got the id of another job's submit.

        No further answer of the lane can be believed, and each submit may be charged.
        """
        reason = f"{ticket.provider}: this id belongs to job {other}: {ticket.id}"
        lane.limiter.failed(self._now())
        self.lanes.close_here(lane, f"gives one id to two submits: {reason}")
        self.lanes.assign_slots()
        return Doubted(reason)

    def count(self, lane: Lane, job: str, *, failed: bool, reason: str = "") -> None:
        """Count one more ended job of the lane; close the lane if too many failed."""
        lane.count(job, failed=failed)
        if failed:
            self._close_failing(lane, reason)

    def spoiled(self, lane: Lane, job: str, reason: str) -> None:
        """Count a job as failed that was counted as a success before."""
        lane.count_failed(job)
        self._close_failing(lane, reason)

    def _close_failing(self, lane: Lane, reason: str) -> None:
        if why := lane.why_failing(self._max_failure_rate):
            self.lanes.close(lane, f"{why}; the last: {reason}")
