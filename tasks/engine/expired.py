"""Clips that whoever made them has no more: what is gone for good, and what is made of it."""

import logging

from manifests.catalogue.routes import Route
from manifests.expiry import expired, is_over
from manifests.lifecycle import Discarded, Forgotten, History
from tasks.dispatch.lanes import Lane

log = logging.getLogger(__name__)


def free(past: History, lane: Lane) -> bool:
    """Whether its attempt costs nobody anything, and did not when it was made: a lane of
    the same name, or of the same engine, may have been paid for then."""
    return not (lane.paid or past.billed)


def owed_no_more(past: History, lane: Lane, route: Route | None, now: float) -> bool:
    """Whether nobody owes us its clip: what the lane's provider has not got is gone."""
    # Engines on GPUs of one's own have their jobs in memory, until they restart.
    return free(past, lane) or is_over(past, route, now)


def gone(life: str, past: History, lane: Lane, why: str) -> Discarded | Forgotten:
    """What is put on record of it."""
    provider = lane.endpoint.provider.name
    if free(past, lane):
        log.warning(
            "job.forgotten job=%s lane=%s the engine lost it, it is made again: %s",
            life,
            lane.name,
            why,
        )
        return Forgotten(f"forgotten by {provider}: {why}")
    lost = expired(provider, why)
    log.error(
        "clip.expired job=%s lane=%s it was paid for, and is bought again: %s",
        life,
        lane.name,
        lost.reason,
    )
    return lost
