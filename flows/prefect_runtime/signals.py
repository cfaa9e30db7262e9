"""Graceful stop: a signal ends the buying, and requests in flight are put on record.

Prefect gives a cancelled run 30 seconds between SIGTERM and SIGKILL. The optional wait
for clips (`grace_s`) ends well before.
"""

import asyncio
import operator
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import copy_context
from types import FrameType

from tasks.batch.batch import BatchRun

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _nothing() -> None:
    pass


@contextmanager
def gently(
    batch_run: BatchRun, heard: Callable[[], object] = _nothing
) -> Generator[None]:
    """Wind the engine down at the first signal, after calling `heard`; stop it at the
    second. A third signal has its earlier handler.

    Prefect's own handler would abort the event loop, and with it a submit whose answer
    is on its way: that would put the job in doubt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def wind_down(why: str) -> None:
        batch_run.engine.wind_down(why)
        heard()

    # A signal may arrive in any task's context, or in none.
    here = copy_context()
    loop = asyncio.get_running_loop()
    before = {sign: signal.getsignal(sign) for sign in SIGNALS}
    ways = iter((wind_down, batch_run.engine.stop))

    def restore() -> None:
        for sign, handler in before.items():
            signal.signal(sign, handler)

    def stop(number: int, _frame: FrameType | None) -> None:
        why = f"stopped by {signal.Signals(number).name}"
        loop.call_soon_threadsafe(next(ways), why, context=here)
        if operator.length_hint(ways) == 0:
            restore()

    for sign in SIGNALS:
        signal.signal(sign, stop)
    try:
        yield
    finally:
        restore()
