"""Polls an accepted job until the provider has finished it. Polling is free."""

import asyncio
import logging
import math
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import orjson

from manifests.lifecycle import Discarded, Generated, Refused, Rejected, Ticket
from storage.backoff import backoff
from tasks.dispatch import ENOUGH_FINISHED, Lane
from tasks.engine.standstill import Standstills
from tasks.engine.trouble import Stage, Troubles
from tasks.providers.errors import (
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    NotSentError,
    ProviderError,
    ThrottledError,
)
from tasks.providers.http import Clients, ask
from tasks.providers.protocol import Finished, Gone, Progress, UnreadableError

log = logging.getLogger(__name__)

Ended = Finished | Gone | Refused | Discarded | Rejected

SCOUTS: Final = 2 * ENOUGH_FINISHED
"""Jobs of a lane that are polled often, so that the others need not be."""

EARLY_OF: Final = 100
"""The first `EARLY_ONES` of every `EARLY_OF` jobs of a lane are polled early, too. Polls
only at the times when others finished would never show that the lane has become faster."""

EARLY_ONES: Final = 2

LONGEST_ASKED_S: Final = 300.0
"""The longest time between two polls, whatever Retry-After says: polls are free, and clips
expire."""

LONGEST_PAUSE_S: Final = 30.0
"""The longest time between two polls that fail."""

SAME: Final = 3
"""Tries with the same result, after which it is no accident."""

MISSED_S: Final = 0.5
"""Before another poll for a job that was not found; the pause grows with each miss."""

EARLY: Final = 1000
"""The most hints kept for jobs that are not being polled yet."""


_ANY_ID: Final = re.compile(r"[0-9A-Fa-f-]{6,}|[0-9.]+")
"""The parts of an answer that differ between jobs although the meaning is the same."""


STUCK: Final = "stuck, given up after "
"""The beginning of the reason of a job that an own GPU did not finish."""

STOPPED: Final = "the run was stopped"

UNPOLLED: Final = "accepted and not polled in this run"

AT_WORK: Final = "still at work at its last poll"


def generated(finished: Finished) -> Generated:
    """The event for a clip that is ready. It does not hold the link, which expires."""
    stages = orjson.dumps(dict(finished.stages)).decode() if finished.stages else None
    return Generated(finished.seed, finished.usd, stages)


class UnfinishedError(Exception):
    """The provider still has the job, as far as we know; another run will ask again."""


class _StoppedError(UnfinishedError):
    """The run was stopped while it waited for the next poll."""


class UnreadError(UnfinishedError):
    """We cannot read the provider's answers about the job; the cause says why."""


def _no_config_error(error: ProviderError | None) -> bool:
    return not isinstance(error, MisconfiguredError)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a provider that is out of reach, in seconds."""

    dead_s: float = math.inf
    """After this time it counts as dead, and its jobs as gone."""
    left_s: float = math.inf
    """After this time its jobs are left to another run: no other lane can replace it."""
    stuck_s: Callable[[], float] = lambda: math.inf
    """The age at which a job that the provider still works on is given up. It is asked at each
    poll, because it follows from the jobs that have finished."""

    heard: Callable[[ProviderError | None], bool] = _no_config_error
    """Gets the error of each poll, or None. Returns whether to poll again after the error."""

    unread_s: float = math.inf
    """After this time with answers that we cannot read, the job is given up."""

    def after(self, silent_s: float, detail: str) -> Gone | None:
        """The outcome of a silence, if it has lasted long enough for one.

        Raises:
            UnfinishedError: the silence has lasted too long for this run.
        """
        detail = f"out of reach for {silent_s:.0f} s: {detail}"
        if silent_s >= self.dead_s:
            return Gone(detail)
        if silent_s >= self.left_s:
            raise UnfinishedError(detail)
        return None

    def given_up(self, elapsed_s: float) -> Refused | None:
        """The outcome of a job that does not move, if it is given up."""
        if elapsed_s < (limit_s := self.stuck_s()):
            return None
        tenth_s = limit_s / 10
        return Refused(f"{STUCK}{limit_s:.0f} s: others took {tenth_s:.0f} s or less")


ENDLESS: Final = Patience()


@dataclass(frozen=True, slots=True)
class _Request:
    """A request that is followed, and the event that ends a pause between two polls."""

    ticket: Ticket
    woken: asyncio.Event


@dataclass(slots=True)
class Follower:
    """Polls accepted jobs, as often as their lane's latencies justify."""

    clients: Clients
    deadline_s: float
    now: Callable[[], float]
    stopping: asyncio.Event
    troubles: Troubles
    standstills: Standstills
    _ends_at: float = math.inf
    """When all waiting ends, by `now`."""
    _unread: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    _unreadable: dict[tuple[str, str], UnreadableError] = field(
        default_factory=dict[tuple[str, str], UnreadableError]
    )
    """The error of the latest answer about each request, where we could not read it."""
    _unread_times: Counter[tuple[str, str]] = field(
        default_factory=Counter[tuple[str, str]]
    )
    """By request: how many answers in a row we could not read."""
    _unread_since: dict[tuple[str, str], float] = field(
        default_factory=dict[tuple[str, str], float]
    )
    """By request: when we could not read its answer for the first time in a row."""
    _latest: dict[tuple[str, str], str] = field(
        default_factory=dict[tuple[str, str], str]
    )
    """The result of the latest poll of each request: an error, or that it is at work."""
    _waiting: dict[tuple[str, str], list[asyncio.Event]] = field(
        default_factory=dict[tuple[str, str], list[asyncio.Event]]
    )

    _early: deque[tuple[str, str]] = field(
        default_factory=lambda: deque[tuple[str, str]](maxlen=EARLY)
    )

    def hint(self, provider: str, remote_id: str) -> None:
        """Poll this request now: a webhook says that it has ended."""
        if waiting := self._waiting.get((provider, remote_id)):
            _wake(waiting)
        else:
            # A hint may come before the answer to the submit is on record.
            self._early.append((provider, remote_id))

    @property
    def left_s(self) -> float:
        """For how many seconds clips are still waited for; inf before `stop`."""
        return max(0.0, self._ends_at - self.now())

    def stop(self, *, within_s: float = 0.0) -> None:
        """Stop waiting, except for jobs that should be done within `within_s` seconds."""
        ends_at = self.now() + within_s if within_s > 0 else -math.inf
        self._ends_at = min(self._ends_at, ends_at)
        self.stopping.set()
        for waiting in self._waiting.values():
            _wake(waiting)

    async def until_ended(
        self,
        lane: Lane,
        ticket: Ticket,
        *,
        age_s: float,
        over: bool,
        patience: Patience = ENDLESS,
    ) -> Ended:
        """Wait for the end of a job accepted `age_s` seconds ago; `over` as in `look`.

        Raises:
            UnfinishedError: it has not ended by the deadline, or the run must stop.
            MisconfiguredError: the provider refuses to tell us.
        """
        known, woken = (ticket.provider, ticket.id), asyncio.Event()
        # Jobs of an earlier version may share an id: each is followed all the same.
        self._waiting.setdefault(known, []).append(woken)
        self.standstills.began(woken, lane)
        if known in self._early:
            woken.set()
        try:
            ended = await self._followed(
                lane, _Request(ticket, woken), age_s, over=over, patience=patience
            )
            self.standstills.ended(lane)
        except _StoppedError:
            latest = self._latest.get(known, UNPOLLED)
            raise UnfinishedError(f"{latest}; {STOPPED}") from None
        else:
            return ended
        finally:
            self.standstills.left(woken)
            self._waiting[known].remove(woken)
            if not self._waiting[known]:
                del self._waiting[known]
                self._unreadable.pop(known, None)
                del self._unread_times[known]
                self._unread_since.pop(known, None)
                self._latest.pop(known, None)
                self.troubles.left(ticket.id)

    async def look(self, lane: Lane, ticket: Ticket, *, over: bool) -> Progress:
        """Poll a job once, and return its progress.

        `over`: the provider need not keep the clip any more, so a job that is repeatedly not
        found is gone. Before that, it may not be listed yet.

        Raises:
            ProviderError: no answer, or an error; the class says which.
        """
        for missed in range(1, SAME + 1):
            try:
                return await self._look(lane, ticket)
            except NotFoundError as exc:
                if not over:
                    raise
                if missed == SAME:
                    return Gone(f"{exc}, {SAME} times")
                await asyncio.sleep(MISSED_S * missed)
        raise AssertionError("the last look returns or raises")

    async def _followed(
        self,
        lane: Lane,
        request: _Request,
        age_s: float,
        *,
        over: bool,
        patience: Patience,
    ) -> Ended:
        ticket, woken = request.ticket, request.woken
        # An acceptance in the future was recorded by a wrong clock, some time ago.
        began, fresh = self.now() - max(0.0, age_s), 0.0 <= age_s < 1.0
        unfinished_s, failures, heard_at = 0.0, 0, self.now()
        scout = lane.followed < SCOUTS
        early = fresh and lane.fresh % EARLY_OF < EARLY_ONES
        lane.followed += 1
        lane.fresh += fresh
        next_s = lane.polls.next_early_s if early else lane.polls.next_s
        pause = next_s(0.0) if fresh else 0.0
        while True:
            if pause and not (scout or lane.polls.is_learned):
                await self._until_learned(lane, woken, began, max(1.0, unfinished_s))
            else:
                await self._pause(lane, woken, began, pause)
            elapsed = self.now() - began
            try:
                progress = await self.look(lane, ticket, over=over)
                progress = progress or self._given_up(ticket, elapsed, patience)
                failures, heard_at = 0, self.now()
                patience.heard(None)
            except ProviderError as exc:
                if not patience.heard(exc):
                    raise
                failures += 1
                detail, pause = str(exc), min(_after(exc, failures), patience.dead_s)
                # An answer from a proxy in front of it is not an answer from it.
                lost = isinstance(exc, NotSentError | InDoubtError)
                heard_at = heard_at if lost else self.now()
                progress = patience.after(self.now() - heard_at, detail)
            else:
                pause, detail = next_s(elapsed), "still at work"
            if progress is not None:
                # Nobody knows when an earlier run's job ended, if it ended between the runs.
                if (unfinished_s or fresh) and not _says_no_time(progress):
                    self._learn(lane, unfinished_s, elapsed)
                return progress
            if elapsed > self.deadline_s:
                raise self._too_long(ticket, f"not done after {elapsed:.0f} s", detail)
            if not failures:
                unfinished_s = elapsed

    def _given_up(
        self, ticket: Ticket, elapsed_s: float, patience: Patience
    ) -> Refused | None:
        """The outcome of a job without an end, if it is given up."""
        request = ticket.provider, ticket.id
        if request not in self._unreadable:
            self._unread_since.pop(request, None)
            return patience.given_up(elapsed_s)
        unread_s = self.now() - self._unread_since.setdefault(request, self.now())
        if unread_s < patience.unread_s:
            return None
        return Refused(f"its answers cannot be read: {self._unreadable[request]}")

    def _too_long(self, ticket: Ticket, late: str, why: str) -> UnfinishedError:
        """The error for a request that missed its deadline."""
        request = ticket.provider, ticket.id
        unreadable = self._unreadable.get(request)
        # One odd answer, such as the first poll after the deadline gets, is no fault of ours.
        if unreadable is None or self._unread_times[request] < SAME:
            return UnfinishedError(f"{late}: {unreadable or why}")
        error = UnreadError(f"{late}: {unreadable}")
        error.__cause__ = unreadable
        return error

    def _learn(self, lane: Lane, unfinished_s: float, finished_s: float) -> None:
        """Learn how long a job took; if it was unusually fast, poll the others at once."""
        if lane.polls.is_news(finished_s):
            for (provider, _), waiting in self._waiting.items():
                if provider == lane.endpoint.provider.name:
                    _wake(waiting)
        lane.polls.finished(unfinished_s, finished_s)
        if (typical_s := lane.polls.expected_s()) is not None:
            lane.limiter.set_typical_s(typical_s)
            lane.learned.set()

    async def _look(self, lane: Lane, ticket: Ticket) -> Progress:
        provider, request = lane.endpoint.provider, (ticket.provider, ticket.id)
        self._unreadable.pop(request, None)
        try:
            progress = await ask(self.clients, lane.endpoint, provider.poll(ticket))
        except ProviderError as exc:
            self._failed(lane, ticket, exc)
            raise
        except UnreadableError as exc:
            self._failed(lane, ticket, exc)
            if request in self._waiting:
                self._unreadable[request] = exc
                self._unread_times[request] += 1
            # A new status word is not an end: say so once, and keep asking.
            known = lane.name, _ANY_ID.sub("", str(exc))
            if known not in self._unread:
                self._unread.add(known)
                log.warning(
                    "poll.unreadable lane=%s the job is asked about again: %s",
                    lane.name,
                    exc,
                )
            return None
        del self._unread_times[request]
        self.troubles.succeeded(lane.name, Stage.POLL, ticket.id)
        if request in self._waiting:
            self._latest[request] = AT_WORK
        return progress

    def _failed(self, lane: Lane, ticket: Ticket, error: Exception) -> None:
        """Keep the error of a poll, for the row and for its lane."""
        self.troubles.failed(lane.name, Stage.POLL, str(error), ticket.id)
        if (request := (ticket.provider, ticket.id)) in self._waiting:
            self._latest[request] = str(error)

    async def _pause(
        self, lane: Lane, woken: asyncio.Event, began: float, seconds: float
    ) -> None:
        """Wait `seconds`, or until a hint or a stop."""
        left_s = self._ends_at - self.now()
        if left_s <= 0 or self._too_late(lane, began):
            raise _StoppedError
        # A job that is waited for when the time ends is polled a last time.
        if seconds > 0:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(min(seconds, left_s), woken.set)
            try:
                await woken.wait()
            finally:
                timer.cancel()
        woken.clear()
        if self._too_late(lane, began):
            raise _StoppedError

    def _too_late(self, lane: Lane, began: float) -> bool:
        """Whether a job should finish only after the waiting has ended."""
        return began + lane.typical_s() > self._ends_at

    async def _until_learned(
        self, lane: Lane, woken: asyncio.Event, began: float, longest_s: float
    ) -> None:
        """Leave the polling to the scouts until they know how long a job takes."""
        learned = asyncio.ensure_future(lane.learned.wait())
        pause = asyncio.ensure_future(self._pause(lane, woken, began, longest_s))
        try:
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait({learned, pause}, return_when=first)
            if pause.done():
                pause.result()
        finally:
            learned.cancel()
            pause.cancel()


def _wake(waiting: Iterable[asyncio.Event]) -> None:
    for woken in waiting:
        woken.set()


def _says_no_time(progress: Ended) -> bool:
    """Whether the end does not tell how long the provider takes for a job."""
    match progress:
        case Gone():
            return True
        case Refused(reason):
            return reason.startswith(STUCK)
        case _:
            return False


def _after(exc: ProviderError, failures: int) -> float:
    if isinstance(exc, ThrottledError) and exc.retry_after is not None:
        return min(LONGEST_ASKED_S, exc.retry_after)
    return backoff(failures, 0.5, LONGEST_PAUSE_S)
