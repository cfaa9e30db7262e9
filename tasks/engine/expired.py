"""Handles a clip that the provider no longer has.

The event is `Discarded` if the clip was paid for, and `Forgotten` (remade free) on own GPUs.
"""

import logging

from manifests.catalogue.routes import Route
from manifests.expiry import expired, is_over
from manifests.lifecycle import Discarded, Forgotten, History
from tasks.dispatch.lanes import Lane

log = logging.getLogger(__name__)


def free(history: History, lane: Lane) -> bool:
    """Whether the attempt is free now, and was free when it was made.

    A lane with the same name or engine may have been a paid one then.
    """
    return not (lane.paid or history.billed)


def owed_no_more(history: History, lane: Lane, route: Route | None, now: float) -> bool:
    """Whether the provider need not keep the clip any more: if it is missing, it is gone."""
    # Engines on own GPUs keep their jobs in memory, until they restart.
    return free(history, lane) or is_over(history, route, now)


def gone(life: str, history: History, lane: Lane, why: str) -> Discarded | Forgotten:
    """The event to record for a lost clip."""
    provider = lane.endpoint.provider.name
    if free(history, lane):
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
