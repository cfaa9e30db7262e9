"""A job while this process works on it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from manifests.jobs import AspectRatio, Order
from tasks.dispatch import Lane, Lanes
from tasks.engine.stats import WaitReason


class MustWaitError(Exception):
    """The job cannot be bought now: it waits for another run, or for a person."""

    def __init__(self, why: WaitReason, reason: str) -> None:
        super().__init__(reason)
        self.why = why
        self.reason = reason


@dataclass(frozen=True, slots=True)
class StillUrl:
    """A still that a lane's provider can read."""

    url: str
    at: float
    """When (Unix seconds). After `HANDED_FOR_S` the still is handed over again."""
    aspect_ratio: AspectRatio
    """The aspect ratio to ask for: the nearest to the still's, if one must be named."""


@dataclass(slots=True)
class JobRun:
    """The resources of a job while this process works on it. None outlive the process."""

    order: Order
    lanes: Lanes
    able: Sequence[Lane]
    """The lanes that can make it, open or closed, less those for which its still is too
    small."""
    still_urls: dict[str, StillUrl] = field(default_factory=dict[str, StillUrl])
    """By the lane's name."""
    tried: set[str] = field(default_factory=set[str])
    """The lanes on which attempts at it failed, as far as this process knows."""
    still_changes: tuple[str, ...] = ()
    """How the still was changed before it was sent, for the sidecar."""
    still_size: tuple[int, int] | None = None
    """Width and height of the still as it was sent."""
    clip_url: str | None = None
    """The link to the clip, once a poll has returned it."""
    slot: Lane | None = None
    """The lane on which it holds a slot, until the provider is done with it."""
    refused: str | None = None
    """The newest reason why its still could not be handed over, until it was."""
    accepted: float | None = None
    """When this process had its latest submit accepted, by the monotonic clock."""

    @property
    def job_id(self) -> str:
        return self.order.job.id

    def release_slot(self) -> None:
        """Release the slot: the provider has finished the job."""
        if self.slot is not None:
            self.lanes.release_slot(self.slot)
            self.slot = None

    def release_slot_after_typical_run(self) -> None:
        """Release the slot of a job in doubt when the job would be done, if it is at work."""
        if self.slot is not None:
            seconds = self.slot.polls.expected_s() or 60.0
            loop = asyncio.get_running_loop()
            loop.call_later(seconds, self.lanes.release_slot, self.slot)
            self.slot = None
