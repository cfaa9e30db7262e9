"""One submit: sent once, and what its answer means for the job and for its lane."""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from manifests.lifecycle import (
    UNBILLED,
    Accepted,
    Doubted,
    History,
    Intended,
    Refused,
    Rejected,
)
from tasks.dispatch.lanes import Lane, Lanes
from tasks.engine.reserve import Offer
from tasks.providers.errors import (
    CappedError,
    InDoubtError,
    MisconfiguredError,
    NotSentError,
    RejectedError,
    ThrottledError,
)
from tasks.providers.http import Clients, submit
from tasks.providers.protocol import Findable

Answer = Accepted | Doubted | Refused | Rejected

LONGEST_WAIT_S: Final = 900.0
"""What a lane may ask us to wait; who asks for more takes nothing more in this run."""


def reference(job_id: str, attempt: int) -> str:
    """Our own name for a submit: the job's id and which attempt it is."""
    return f"{job_id}-{attempt}"


def whose(lane: Lane) -> str:
    """Tells accounts apart, without keeping a key: what one has, another lacks."""
    provider = lane.endpoint.provider
    # What one GPU of one's own lists, another one does not.
    own, place = ("", "") if lane.paid else (UNBILLED, f" {lane.endpoint.base_url}")
    said = f"{provider.name} {provider.key}{place}".encode()
    return f"{own}{hashlib.blake2b(said, digest_size=4).hexdigest()}"


def who_asks(lanes: Iterable[Lane], past: History) -> Lane | None:
    """The lane that asks who was sent its last attempt: the same account or GPU, whatever
    the lane is called by now, before another of the same provider."""
    provider = past.ticket.provider if past.ticket else ""

    def far(lane: Lane) -> tuple[bool, bool]:
        return not past.mark.startswith(f"{whose(lane)}:"), lane.name != past.lane

    theirs = (lane for lane in lanes if lane.endpoint.provider.name == provider)
    return min(theirs, key=far, default=None)


@dataclass(frozen=True, slots=True)
class Submitter:
    """Sends what was offered."""

    lanes: Lanes
    clients: Clients
    now: Callable[[], float]
    max_failure_rate: float

    def intended(self, offer: Offer, seed: int, ref: str) -> Intended:
        """What goes on record before it is sent."""
        provider, mark = offer.lane.endpoint.provider, ""
        if isinstance(provider, Findable):
            # What cannot be written has no mark: `send` says so, and closes the lane.
            with suppress(Exception):
                said = provider.mark(offer.job, offer.image_url, seed, ref)
                mark = f"{whose(offer.lane)}:{said}"
        return Intended(
            lane=offer.lane.name,
            route=offer.lane.route.name,
            price_usd=offer.price_usd,
            seed=seed,
            mark=mark,
        )

    async def send(
        self, offer: Offer, seed: int, ref: str, *, in_time: Callable[[], bool]
    ) -> Answer:
        """Send it, once, and only in time."""
        lane = offer.lane
        provider = lane.endpoint.provider
        request = provider.submit(offer.job, offer.image_url, seed, ref)
        try:
            ticket = await submit(self.clients, lane.endpoint, request, in_time=in_time)
        except ThrottledError as exc:
            lane.pace.throttled(self.now(), exc.retry_after, exc.over)
            if (exc.retry_after or 0.0) > LONGEST_WAIT_S:
                self.lanes.close(lane, f"asks to wait {exc.retry_after:.0f} s: {exc}")
            return Refused(str(exc))
        except CappedError as exc:
            lane.pace.rejected()
            self.lanes.close(lane, f"takes no more for now: {exc}")
            return Refused(str(exc))
        except NotSentError as exc:
            lane.pace.troubled(self.now())
            if lane.pace.hopeless:
                self.lanes.close_here(lane, f"out of reach: {exc}")
            return Refused(str(exc))
        except RejectedError as exc:
            lane.pace.rejected()
            return Rejected(str(exc))
        except MisconfiguredError as exc:
            lane.pace.rejected()
            self.lanes.misconfigured(lane, exc)
            return Refused(str(exc))
        except InDoubtError as exc:
            lane.pace.troubled(self.now())
            if lane.pace.hopeless and not lane.paid:
                self.lanes.close_here(lane, f"gives no answer: {exc}")
            self.lanes.answered()
            return Doubted(str(exc), exc.lost)
        lane.pace.accepted(self.now())
        self.lanes.answered()
        return Accepted(ticket)

    def count(self, lane: Lane, *, failed: bool) -> None:
        """The lane is done with one more job; too many that came to nothing close it."""
        lane.count(failed=failed)
        self._judged(lane, failed=failed)

    def spoiled(self, lane: Lane) -> None:
        """A job of the lane's that seemed to have gone well came to nothing after all."""
        lane.failed += 1
        self._judged(lane, failed=True)

    def _judged(self, lane: Lane, *, failed: bool) -> None:
        if failed and lane.failing(self.max_failure_rate):
            said = f"{lane.failed:,} of {lane.ended:,} jobs came to nothing"
            self.lanes.close(lane, f"{said}: over {self.max_failure_rate:.0%}")
