"""Lanes: routes in use, each with its pacing, shared by all the jobs of a process."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from manifests.catalogue import Route
from tasks.exchange import Line
from tasks.pacing import Limits, Looks, Pace

log = logging.getLogger(__name__)

Clock = Callable[[], float]
HandsOver = Literal["link", "presign", "upload"]


@dataclass(slots=True, eq=False)
class Lane:
    """A route in use, with its pacing."""

    name: str
    route: Route
    line: Line
    limits: Limits
    hands_over: HandsOver | None = None
    """How stills reach the provider; None decides for each still."""
    pace: Pace = field(init=False)
    looks: Looks = field(init=False, default_factory=Looks)
    closed: str | None = None
    """Why nothing more is submitted on it, if so."""
    scouts: int = 0
    """Jobs that were looked at often while nobody knew how long they take."""
    learned: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """Set once that is known: whoever waited to be told looks again."""

    def __post_init__(self) -> None:
        self.pace = Pace(self.limits)


class NoLaneLeftError(Exception):
    """Every lane that could make the job is closed."""


class StoppedError(Exception):
    """The engine was told to buy nothing more."""


class Lanes:
    """Deals out turns to submit: first come, first served, to the first lane that is free
    in the order each job prefers."""

    def __init__(self, lanes: Iterable[Lane], clock: Clock) -> None:
        self.all = tuple(lanes)
        self._clock = clock
        self._waiting = deque[tuple[Sequence[Lane], asyncio.Future[Lane]]]()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def __getitem__(self, name: str) -> Lane:
        for lane in self.all:
            if lane.name == name:
                return lane
        raise KeyError(name)

    @property
    def open(self) -> list[Lane]:
        """The lanes that still take jobs."""
        return [lane for lane in self.all if lane.closed is None]

    async def turn(self, preferred: Sequence[Lane]) -> Lane:
        """A lane on which a submit may be sent at once; its `pace.begin` has been called.

        Raises:
            NoLaneLeftError: none of them is open.
            StoppedError: `stop` was called.
        """
        if self._stopped:
            raise StoppedError
        turn: asyncio.Future[Lane] = asyncio.get_running_loop().create_future()
        self._waiting.append((preferred, turn))
        self._deal()
        try:
            return await turn
        except asyncio.CancelledError:
            # Dealt and cancelled at once: nobody will use that slot.
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.withdraw(turn.result())
            raise

    def withdraw(self, lane: Lane) -> None:
        """A turn that was dealt will not be used."""
        lane.pace.withdrawn()
        self.give_back(lane)

    def give_back(self, lane: Lane) -> None:
        """The lane's job has ended, or is waited for no longer."""
        lane.pace.done()
        self._deal()

    def close(self, lane: Lane, why: str) -> None:
        """Submit nothing more on this lane."""
        if lane.closed is None:
            log.warning("lane.closed lane=%s %s", lane.name, why)
            lane.closed = why
        self._deal()

    def stop(self) -> None:
        """Deal no more turns; whoever waits for one is told."""
        self._stopped = True
        for _, turn in self._waiting:
            if not turn.done():
                turn.set_exception(StoppedError())
        self._waiting.clear()
        self._again_in(math.inf)

    def _deal(self) -> None:
        now = self._clock()
        still_waiting = deque[tuple[Sequence[Lane], asyncio.Future[Lane]]]()
        soonest = math.inf
        waits = {id(lane): lane.pace.wait(now) for lane in self.open}
        while self._waiting:
            preferred, turn = self._waiting.popleft()
            if turn.done():
                continue
            able = [lane for lane in preferred if id(lane) in waits]
            free = next((lane for lane in able if not waits[id(lane)]), None)
            if free is not None:
                free.pace.begin(now)
                waits[id(free)] = free.pace.wait(now)
                turn.set_result(free)
            elif not able:
                turn.set_exception(NoLaneLeftError(closing(preferred)))
            else:
                still_waiting.append((preferred, turn))
                soonest = min(soonest, *(waits[id(lane)] for lane in able))
                if all(waits.values()) and len(waits) == len(self.all):
                    # No lane is free and none is closed: nobody behind fares better.
                    soonest = min(waits.values())
                    still_waiting.extend(self._waiting)
                    break
        self._waiting = still_waiting
        self._again_in(soonest)

    def _again_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if math.isfinite(seconds):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(seconds, 0.001), self._deal)


def closing(lanes: Iterable[Lane]) -> str:
    """Why these lanes are closed, in words."""
    return "; ".join(f"{lane.name}: {lane.closed}" for lane in lanes if lane.closed)
