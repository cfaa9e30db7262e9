"""Stopping gently: a signal ends the buying, and what is under way is put on record."""

import asyncio
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from tasks.night import Night

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def gently(night: Night) -> Generator[None]:
    """Stop the night's engine at the first signal; a second one does as it did before.

    Prefect's own handler would break off the event loop, and with it a submit whose
    answer is on its way: a doubt that we made ourselves.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {sign: signal.getsignal(sign) for sign in SIGNALS}

    def restore() -> None:
        for sign, handler in before.items():
            signal.signal(sign, handler)

    def stop(number: int, _frame: FrameType | None) -> None:
        restore()
        why = f"stopped by {signal.Signals(number).name}"
        loop.call_soon_threadsafe(night.engine.stop, why)

    for sign in SIGNALS:
        signal.signal(sign, stop)
    try:
        yield
    finally:
        restore()
