"""Repairs a root, and brings its jobs to what is certain.

A job whose ticket was lost goes back in doubt. A job whose clip and sidecar are below the
root was bought: the sidecar says how. Nothing is bought here.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Final

import orjson

from manifests.lifecycle import (
    Accepted,
    Event,
    Facts,
    Generated,
    History,
    Intended,
    Published,
    State,
    Ticket,
)
from storage import layout
from storage.ledger import (
    LOST_TICKET,
    Gap,
    KnownRoots,
    Ledger,
    Survey,
    doubted_again,
    gaps_of,
    refuse_if_alive,
    release_gaps,
    repair_root,
    survey_root,
    withholding,
)
from storage.media import Clips
from storage.objects import MissingError, Objects

log = logging.getLogger(__name__)

_FACTS: Final = tuple(one.name for one in fields(Facts))


@dataclass(slots=True, kw_only=True)
class Report:
    """The damage below a root, and the result of a repair."""

    found: Survey
    gaps: list[Gap]
    """The gaps that the damage leaves, or that earlier repairs have left."""
    repaired: bool = False
    released: int = 0
    """Records of repairs whose gaps withhold nothing any more."""
    doubted: int = 0
    """Jobs whose tickets were lost: they are in doubt."""
    regained: int = 0
    """Jobs whose sidecars tell that they were published."""
    batch: str | None = None


async def looked(objects: Objects) -> Report:
    """Survey a root; write nothing."""
    found = await survey_root(objects)
    return Report(
        found=found, gaps=[*gaps_of(found, time.time()), *await withholding(objects)]
    )


async def mended(
    objects: Objects,
    *,
    clock: Callable[[], float] = time.time,
    known: KnownRoots | None = None,
) -> Report:
    """Repair a root, then record what is certain about its jobs.

    It may be killed at any point, and called again: each step looks for what is left to do.

    Raises:
        HeldError: a run holds the root.
        LedgerError: the rest of the ledger contradicts itself.
    """
    await refuse_if_alive(objects, sleep=asyncio.sleep)
    report = await looked(objects)
    if report.found.bad:
        await repair_root(objects, report.found, clock, known)
        report.repaired = True
    report.gaps = await withholding(objects)
    if report.repaired or report.gaps:
        await _restored(objects, report, clock)
    return report


async def let_go(objects: Objects) -> Report:
    """Release every gap: rows that may have been bought in it are bought from now on."""
    report = await looked(objects)
    report.released = len(await release_gaps(objects, time.time()))
    report.gaps = await withholding(objects)
    return report


class _Clock:
    """The time, or for one entry the time of what was lost."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.at: float | None = None
        self._clock = clock

    def __call__(self) -> float:
        return self._clock() if self.at is None else self.at


async def _restored(
    objects: Objects, report: Report, clock: Callable[[], float]
) -> None:
    times = _Clock(clock)
    ledger = await Ledger.open(objects, name="repair", clock=times, whole=True)
    try:
        report.batch = ledger.batch
        for job, history in dict(ledger.lives).items():
            if _is_lost(history):
                await _doubt_again(ledger, report, times, job, history)
        async for stored in objects.list(layout.CLIPS):
            clip = layout.CLIP.fullmatch(stored.key)
            if clip is not None and clip[1] == "json":
                await _regain(ledger, objects, report, times, stored.key)
    finally:
        await ledger.close()


def _is_lost(history: History) -> bool:
    """Whether its provider has the job, under an id that is lost."""
    at_provider = history.state in {State.ACCEPTED, State.GENERATED}
    ticket = history.ticket
    return at_provider and ticket is not None and ticket.id == LOST_TICKET


async def _doubt_again(
    ledger: Ledger, report: Report, times: _Clock, job: str, history: History
) -> None:
    for event in doubted_again(history):
        await _record(ledger, times, job, event, at=history.submitted_at)
    report.doubted += 1


async def _regain(
    ledger: Ledger, objects: Objects, report: Report, times: _Clock, key: str
) -> None:
    """Record the purchase of a clip that is below the root and not on record."""
    job = key.rpartition("/")[2].removesuffix(".json")
    if ledger.withheld(job) is None:
        return
    try:
        sidecar = orjson.loads(await objects.get(key))
        events = _told(sidecar, Clips(objects).uri(job))
    except (MissingError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        log.warning(
            "repair.sidecar_unread key=%s its job stays withheld: %r", key, error
        )
        return
    for at, event in events:
        await _record(ledger, times, job, event, at=at)
    report.regained += 1


def _told(sidecar: dict[str, Any], uri: str) -> list[tuple[float | None, Event]]:
    """The events of the attempt that a sidecar tells of, with their times."""
    ticket = Ticket(sidecar["provider"], sidecar["remote_id"])
    seed = sidecar["seed"]
    bought = Intended(
        lane=sidecar["lane"],
        route=sidecar["route"],
        price_usd=Decimal(sidecar["price_usd"]),
        seed=seed,
    )
    facts = Facts(**{name: sidecar[name] for name in _FACTS})
    made_at = sidecar["generated_at"]
    return [
        (sidecar["submitted_at"], bought),
        (sidecar["accepted_at"], Accepted(ticket)),
        (made_at, Generated(seed=seed)),
        (made_at, Published(uri, facts)),
    ]


async def _record(
    ledger: Ledger, times: _Clock, job: str, event: Event, *, at: float | None
) -> None:
    times.at = at
    try:
        # It takes the time before it waits for anything.
        await ledger.record(job, event)
    finally:
        times.at = None
