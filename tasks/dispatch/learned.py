"""Loads what earlier runs learned about each lane: latencies, limits, and daily use."""

import logging
from collections import defaultdict
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from decimal import Decimal

from manifests.accounting import Attempt, Attempts
from manifests.lifecycle import Entry
from storage import checksum, layout
from storage.ledger import RecordedSubmit
from storage.objects import DamagedError, MissingError, Objects, StorageError
from tasks.dispatch.budget import DAY_S
from tasks.dispatch.lane import Lane
from tasks.dispatch.rate_limit import LearnedLimits, RateLimiter

log = logging.getLogger(__name__)


def recall_latencies(
    lanes: Iterable[Lane], known: Mapping[str, Iterable[float]], *, within_s: float
) -> None:
    """Load how long each lane's jobs took, in seconds, by lane.

    Times over `within_s` are ignored: another run fetched those clips late.
    """
    for lane in lanes:
        took = known.get(lane.name, ())
        lane.polls.learn([seconds for seconds in took if seconds <= within_s])


async def recall_day(
    lanes: Sequence[Lane], entries: AsyncIterable[Sequence[Entry]], now: float
) -> None:
    """Load the submits of each lane in the last 24 hours, from all runs on this root."""
    folding, taken = Attempts(), dict[tuple[str, int], Attempt]()
    async for entry in (each async for some in entries for each in some):
        if entry.at > now - DAY_S and (attempt := folding.add(entry)):
            taken[attempt.job, attempt.number] = attempt
    by_lane = defaultdict[str, list[tuple[float, Decimal]]](list)
    for attempt in taken.values():
        if attempt.charged is not False:
            by_lane[attempt.lane].append((attempt.submitted_at, attempt.cost_usd))
    for lane in lanes:
        lane.day.recall(by_lane[lane.name])


def recall_minute(
    lanes: Sequence[Lane],
    submits: Iterable[RecordedSubmit],
    *,
    now: float,
    today: float,
) -> None:
    """Count the submits of earlier runs in the last minute; `now` is by the lanes' clock.

    The submits of a lane that is not in use any more count for the lanes of its route.
    """
    sent = defaultdict[RateLimiter, list[float]](list)
    for at, name, route in submits:
        named = [lane for lane in lanes if lane.name == name]
        same = named or [lane for lane in lanes if lane.route.name == route]
        # A clock that was ahead makes no submit of the future.
        age_s = max(0.0, today - at)
        for limiter in {lane.limiter for lane in same}:
            sent[limiter].append(now - age_s)
    for limiter, times in sent.items():
        limiter.others_sent(times)


async def recall_limits(lanes: Iterable[Lane], objects: Objects, now: float) -> None:
    """Load the learned limits of each lane's account; `now` is by the lanes' clock."""
    known = await _learned(objects)
    for account, limiter in {lane.account: lane.limiter for lane in lanes}.items():
        if learned := known.get(account):
            limiter.restore(learned, now)


async def keep_limits(lanes: Iterable[Lane], objects: Objects) -> None:
    """Save the learned limits for the next run; a failure does not fail the batch."""
    try:
        known = await _learned(objects)
        for lane in lanes:
            known.pop(lane.account, None)
            if learned := lane.limiter.learned():
                known[lane.account] = learned
        payload = {
            name: [each.slots, each.submits_per_minute] for name, each in known.items()
        }
        await objects.put(layout.LEARNED, checksum.dump(payload))
    except StorageError as exc:
        log.warning("limits.not_kept the next batch learns them again: %s", exc)


async def _learned(objects: Objects) -> dict[str, LearnedLimits]:
    try:
        data = await objects.get(layout.LEARNED)
        payload = checksum.load(data, objects.uri(layout.LEARNED))
        return {
            name: LearnedLimits(*map(float, limits)) for name, limits in payload.items()
        }
    except MissingError:
        return {}
    except (DamagedError, ValueError, TypeError) as exc:
        log.warning(
            "limits.unreadable file=%s limits are learned again: %s",
            objects.uri(layout.LEARNED),
            exc,
        )
        return {}
