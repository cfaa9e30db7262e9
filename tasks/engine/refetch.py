"""Asks again for clips that are ready and whose downloads fail, as long as the run lasts.

A download is free, and a provider deletes its clips some day. So a clip that could not be
fetched is asked for again after growing waits, the one that expires first before the others.
When the run ends, each is asked for once more.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import inf
from typing import Any, Final

from manifests.expiry import expires_at
from manifests.lifecycle import Event, State
from storage.backoff import backoff
from storage.ledger import FencedError
from storage.objects import StorageError
from tasks.alongside import alongside
from tasks.engine.download import UnfetchedError
from tasks.engine.environment import Deps
from tasks.engine.poll import SAME
from tasks.engine.steps import AtProvider, Steps

FIRST_WAIT_S: Final = 10.0
"""The wait before a clip is asked for again; it doubles after each failure."""

LONGEST_WAIT_S: Final = 300.0
"""The longest wait between two times that a clip is asked for."""

LOOKS_EVERY_S: Final = 0.5
"""How often the end of a run looks whether the clips have come."""

AT_ONCE: Final = 8
"""Clips that are asked for again at the same time."""

TOLD: Final = 50
"""The most clips that are logged one by one."""

log = logging.getLogger(__name__)

Record = Callable[[str, Event], Awaitable[object]]


@dataclass(slots=True)
class _Refused:
    """A clip whose download fails, with the part of its sidecar that repeats the request."""

    job: AtProvider
    request: Mapping[str, Any]
    expires_at: float
    """The earliest time at which the provider may delete it, in Unix seconds."""
    since: float
    """The time of its first refusal, by the run's own clock."""
    due_at: float = 0.0
    """The next time that it is asked for, by the same clock."""
    failures: int = 0


class Refetcher:
    """Keeps the clips that could not be fetched, and asks for them again."""

    def __init__(
        self,
        deps: Deps,
        record: Record,
        park: Callable[[str, Exception], Awaitable[None]],
        ended: Callable[[AtProvider, Event], None] = lambda _job, _event: None,
    ) -> None:
        """`ended` receives each job that is no longer asked for, with its last event."""
        self._deps = deps
        self._record = record
        self._park = park
        self._ended = ended
        self._now = deps.world.now
        self._steps = Steps(deps)
        self._refused = dict[str, _Refused]()
        self._added = asyncio.Event()
        self._round_under_way = asyncio.Lock()
        self._told = 0

    def add(self, job: AtProvider, request: Mapping[str, Any], why: str) -> str:
        """Ask for the clip again from now on; return the reason with the time it is kept."""
        history = self._deps.ledger.history(job.job_id)
        at = expires_at(history, self._steps.routes.get(history.route or ""))
        poll = partial(self._steps.look, job.job_id, job.lane, job.ticket)
        job = AtProvider(job.job_id, job.lane, job.ticket, poll)
        refused = _Refused(job, request, inf if at is None else at, self._now())
        self._wait(refused)
        self._refused[job.job_id] = refused
        self._added.set()
        reason = f"{why}; its provider keeps it until {_date(refused.expires_at)}"
        self._tell(job, reason)
        return reason

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Ask for the clips while the block lasts, or until the run must stop.

        Raises:
            FencedError, StorageError: nothing can be put on record any more.
        """
        async with alongside(self._until):
            yield

    async def ask_last(self) -> None:
        """Ask for each clip once more, whenever it is due; unless the run must stop.

        A clip that was refused a moment ago is first given `refused_s` seconds.
        """
        while self._any_young() and not self._deps.stopping.is_set():
            await _first_set([self._deps.stopping], LOOKS_EVERY_S)
        await self._round([*self._refused.values()])

    def _any_young(self) -> bool:
        oldest = self._now() - self._deps.rules.refused_s
        return any(refused.since > oldest for refused in self._refused.values())

    async def _until(self, over: asyncio.Event) -> None:
        stops = [over, self._deps.stopping]
        while not any(stop.is_set() for stop in stops):
            due = [x for x in self._refused.values() if x.due_at <= self._now()]
            await self._round(due)
            soonest = min((x.due_at for x in self._refused.values()), default=inf)
            self._added.clear()
            await _first_set([*stops, self._added], soonest - self._now())

    async def _round(self, some: list[_Refused]) -> None:
        free = asyncio.Semaphore(AT_ONCE)
        async with self._round_under_way:
            first = sorted(some, key=lambda refused: refused.expires_at)
            asked = [asyncio.create_task(self._ask(each, free)) for each in first]
            results = await asyncio.gather(*asked, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _ask(self, refused: _Refused, free: asyncio.Semaphore) -> None:
        job = refused.job
        async with free:
            history = self._deps.ledger.history(job.job_id)
            known = self._refused.get(job.job_id) is refused
            if self._deps.stopping.is_set() or not known:
                return
            if history.state is not State.GENERATED or history.ticket != job.ticket:
                del self._refused[job.job_id]
                return
            try:
                event = await self._steps.publish(
                    job, request=refused.request, url=None, tries=SAME
                )
            except UnfetchedError:
                self._wait(refused)
                return
            except (FencedError, StorageError):
                raise
            except Exception as exc:
                del self._refused[job.job_id]
                log.exception(
                    "job.broken job=%s the next run tries it again", job.job_id
                )
                await self._park(job.job_id, exc)
                return
            await self._record(job.job_id, event)
            del self._refused[job.job_id]
            self._ended(job, event)

    def _wait(self, refused: _Refused) -> None:
        refused.failures += 1
        wait_s = backoff(refused.failures, FIRST_WAIT_S, LONGEST_WAIT_S)
        refused.due_at = self._now() + wait_s

    def _tell(self, job: AtProvider, reason: str) -> None:
        self._told += 1
        level = logging.WARNING if self._told <= TOLD else logging.DEBUG
        log.log(
            level,
            "clip.refused job=%s lane=%s it is asked for again until the run ends: %s",
            job.job_id,
            job.lane.name,
            reason,
        )


def _date(at: float) -> str:
    if at == inf:
        return "an unknown time"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


async def _first_set(events: list[asyncio.Event], within_s: float) -> None:
    """Wait for the first of these events, for `within_s` seconds at most."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        timeout = None if within_s == inf else max(0.0, within_s)
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
            with suppress(asyncio.CancelledError):
                await wait
