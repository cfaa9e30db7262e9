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
"""Unix seconds when a night's clock is at 0."""

NEVER: Final = 90 * 24 * 3600.0
"""No night takes longer."""

SPINS: Final = 200_000
"""After this number of steps at one moment, the night makes no progress."""


class StuckError(RuntimeError):
    """No task can ever continue, or tasks continue for ever."""


class Node:
    """A simulated process: it can be stopped from outside, at any moment."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.ahead_s = 0.0
        """How far its wall clock is ahead of the true time."""
        self.held = deque[asyncio.Handle]()
        """Handles that were due while it was paused, or after it was killed."""
        self.tasks = weakref.WeakSet[asyncio.Task[Any]]()
        self.kept: list[object] = []
        """Objects that must not be collected during the night: that would run clean-up
        code."""

    def __repr__(self) -> str:
        return self.name


NODE: ContextVar[Node | None] = ContextVar("NODE", default=None)
"""The node that the current code belongs to; None is the world itself."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs everything in one thread, in an order that only the seed decides."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.broken: list[str] = []
        """Errors that no code caught."""
        self.steps = 0
        self._now = 0.0
        self._since = 0
        self._over = False
        self.outside = Context()
        """The world's own context: it has no node, so no death of a node stops it."""
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
        """Run the call at once, and deliver its result a moment later."""
        told = self.create_future()
        try:
            found = func(*args)
        except Exception as exc:  # noqa: BLE001 - the future carries it
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
        """Schedule an event of the world, which happens even if every node is dead."""
        # Like `call_later`, but without its look-ups and checks on each call.
        when = self._now + seconds
        timer = asyncio.TimerHandle(when, callback, args, self, self.outside)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True

    def kill(self, node: Node) -> None:
        """Kill the node, as if its power were cut."""
        node.alive = False
        # Pending handles are kept: collecting them would run clean-up code.
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
        """Drop all nodes, including dead ones."""
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
        """Timers are dropped when their time comes."""

    def _write_to_self(self) -> None:
        """A selector never waits."""

    def _process_events(self, event_list: object) -> None:
        """There are no file descriptors."""

    def _unhandled(self, loop: object, context: dict[str, Any]) -> None:
        if not self._over:
            error = context.get("exception") or context["message"]
            self.broken.append(f"{type(error).__name__}: {error}")

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        if not self._over:
            super()._asyncgen_finalizer_hook(agen)


def tell(told: asyncio.Future[T], found: T) -> None:
    """Deliver a result, if its future is still open."""
    if not told.done():
        told.set_result(found)


def fail(told: asyncio.Future[Any], exc: Exception) -> None:
    if not told.done():
        told.set_exception(exc)


@contextmanager
def _clocks(loop: VirtualLoop) -> Generator[None]:
    """Replace all clocks by the loop's, and all randomness by its seed's, while it
    runs."""
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
    """Turn off garbage collection during a night; `buried` collects everything at
    once."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def buried() -> Generator[None]:
    """Collect a night's leftovers within the block, without a report of their
    errors."""
    hook, tries = sys.unraisablehook, 10
    sys.unraisablehook = lambda _: None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
            # Dead objects refer to each other: collecting one may create another.
            while gc.collect() and (tries := tries - 1):
                pass
            # Objects that outlive a night are not scanned again after later nights.
            gc.freeze()
        finally:
            sys.unraisablehook = hook
