"""An event loop that never waits: time is a number, and jumps to the next timer.

Every handle carries its context, and in it the node that it belongs to: a simulated
process. A node that is killed is never run again, not even to clean up; one that is
paused runs on later as if nothing had happened.
"""

# ruff: noqa: SLF001 - an event loop is made of asyncio's own parts
import asyncio
import gc
import heapq
import os
import random
import sys
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any, Final, TypeVar

T = TypeVar("T")

EPOCH: Final = 1_790_000_000.0
"""Unix seconds when a night's own clock stands at 0."""

NEVER: Final = 90 * 24 * 3600.0
"""No night takes so long."""

SPINS: Final = 200_000
"""Steps in a row at one moment after which nobody is getting anywhere."""


class StuckError(RuntimeError):
    """Nobody can ever go on, or everybody goes on for ever."""


class Node:
    """A simulated process: what it runs can be stopped from outside, at any moment."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.ahead_s = 0.0
        """How far its wall clock is ahead of the true time."""
        self.held = deque[asyncio.Handle]()
        """What would have run while it was paused, or ever since it was killed."""
        self.tasks = weakref.WeakSet[asyncio.Task[Any]]()
        self.kept: list[object] = []
        """What must not be collected while the night lasts: that would clean up."""

    def __repr__(self) -> str:
        return self.name


NODE: ContextVar[Node | None] = ContextVar("NODE", default=None)
"""Whose process this is; None is the world itself."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs everything in one thread, in an order that the seed alone decides."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.broken: list[str] = []
        """What nobody caught."""
        self.steps = 0
        self._now = 0.0
        self._since = 0
        self._over = False
        self.outside = Context()
        """The world's own context: no node, so it goes on whoever dies."""
        self.set_exception_handler(self._unhandled)

    def time(self) -> float:
        return self._now

    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, context=context)
        node = NODE.get() if context is None else context.get(NODE)
        if node is not None:
            node.tasks.add(task)
        return task

    def run_in_executor(
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Done here and now, and told a moment later."""
        told = self.create_future()
        try:
            found = func(*args)
        except Exception as exc:  # noqa: BLE001 - whoever waits is told
            self.call_later(self._moment(), fail, told, exc)
        else:
            self.call_later(self._moment(), tell, told, found)
        return told

    def _moment(self) -> float:
        return self.random.random() * 0.004

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None):
        return self.call_soon(callback, *args, context=context)

    def spawn(self, node: Node, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run this in the node's own context."""
        context = self.outside.copy()
        context.run(NODE.set, node)
        return self.create_task(coro, context=context)

    def later(
        self, seconds: float, callback: Callable[..., object], *args: Any
    ) -> None:
        """Something that the world does, whoever is dead by then."""
        # As `call_later` does it, but for what it looks up and checks each time.
        when = self._now + seconds
        timer = asyncio.TimerHandle(when, callback, args, self, self.outside)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True

    def kill(self, node: Node) -> None:
        """Its power is cut."""
        node.alive = False
        # What is pending is kept: to be collected is to be cleaned up.
        node.kept += [*node.tasks]

    def pause(self, node: Node) -> None:
        node.paused = True

    def resume(self, node: Node) -> None:
        node.paused = False
        if node.alive:
            self._ready.extend(node.held)
            node.held.clear()

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run to the end of `main`."""
        with _clocks(self):
            task = self.create_task(main, context=self.outside.copy())
            task.add_done_callback(lambda _: self.stop())
            try:
                self.run_forever()
            finally:
                self._over = True
        return task.result()

    def bury(self) -> None:
        """Forget everybody, the dead among them."""
        self._over = True
        self.close()

    def _run_once(self) -> None:
        if not self._ready:
            self._advance()
        scheduled, ready = self._scheduled, self._ready
        while scheduled and (
            scheduled[0]._cancelled or scheduled[0]._when <= self._now
        ):
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                ready.append(handle)
        count = len(ready)
        self.steps += count
        self._since += count
        if self._since > SPINS:
            raise StuckError(f"nobody gets anywhere at {self._now:.3f} s")
        for _ in range(count):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            node = handle._context.get(NODE)
            if node is not None and (node.paused or not node.alive):
                node.held.append(handle)
                continue
            handle._run()

    def _advance(self) -> None:
        while self._scheduled and self._scheduled[0]._cancelled:
            heapq.heappop(self._scheduled)._scheduled = False
        if self._stopping:
            return
        if not self._scheduled:
            raise StuckError(f"everybody waits for ever at {self._now:.3f} s")
        when = self._scheduled[0]._when
        if when > NEVER:
            raise StuckError(f"somebody waits until {when:.0f} s")
        if when > self._now:
            self._now, self._since = when, 0

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """They are dropped when their time comes."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector."""

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _unhandled(self, loop: object, context: dict[str, Any]) -> None:
        if not self._over:
            error = context.get("exception") or context["message"]
            self.broken.append(f"{type(error).__name__}: {error}")

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        if not self._over:
            super()._asyncgen_finalizer_hook(agen)


def tell(told: asyncio.Future[T], found: T) -> None:
    """Whoever waits hears it, if anybody still does."""
    if not told.done():
        told.set_result(found)


def fail(told: asyncio.Future[Any], exc: Exception) -> None:
    if not told.done():
        told.set_exception(exc)


@contextmanager
def _clocks(loop: VirtualLoop) -> Generator[None]:
    """All clocks are the loop's, and all luck its seed's, for as long as it runs."""
    real = time.time, time.monotonic, os.urandom, random._urandom
    luck, before = random.Random(loop.random.random()), random.getstate()

    def wall() -> float:
        node = NODE.get()
        return EPOCH + loop.time() + (0.0 if node is None else node.ahead_s)

    time.time, time.monotonic = wall, loop.time
    os.urandom = random._urandom = luck.randbytes
    random.seed(loop.random.random())
    try:
        yield
    finally:
        time.time, time.monotonic, os.urandom, random._urandom = real
        random.setstate(before)


@contextmanager
def uncollected() -> Generator[None]:
    """Nothing is collected while a night lasts: in `buried`, all of it is at once."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def buried() -> Generator[None]:
    """What a night leaves behind is dropped within the block, and nobody hears of it."""
    hook, tries = sys.unraisablehook, 10
    sys.unraisablehook = lambda _: None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
            # The dead cling to each other: to end one may bring forth another.
            while gc.collect() and (tries := tries - 1):
                pass
            # What outlives a night is not looked through after each that follows.
            gc.freeze()
        finally:
            sys.unraisablehook = hook
