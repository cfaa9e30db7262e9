"""Relays the engine's warnings to the run's log in the Prefect UI.

The process's own log has every line. The server gets the first few of each kind and then,
at growing intervals, their number. So a batch of any size sends few lines.
"""

import logging
import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from flows.logs.masking import masked
from tasks.shard import NUMBER

SAID: Final = 5
"""Lines of one kind that are sent before further ones are only counted."""

WINDOW_S: Final = 60.0
"""The first counting interval; each later one is twice as long, up to an hour."""

LONGEST_S: Final = 3600.0


@dataclass(slots=True)
class _Window:
    until: float
    lasts_s: float = WINDOW_S
    sent: int = 0
    more: int = 0


class Relay(logging.Handler):
    """Passes warnings on to the loggers of a run, few of each kind."""

    def __init__(
        self, log: logging.LoggerAdapter[Any], now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._now = now
        self._windows: dict[str, _Window] = {}

    def emit(self, record: logging.LogRecord) -> None:
        kind = str(record.msg).partition(" ")[0]
        window = self._windows.setdefault(kind, _Window(self._now() + WINDOW_S))
        if self._now() >= window.until:
            self._turn(kind, window)
        if window.sent < SAID:
            window.sent += 1
            self._pass(record.levelno, _told(record))
        else:
            window.more += 1

    def close(self) -> None:
        """Send the numbers of lines that were only counted."""
        for kind, window in self._windows.items():
            self._count(kind, window)
        super().close()

    def _turn(self, kind: str, window: _Window) -> None:
        self._count(kind, window)
        window.lasts_s = min(LONGEST_S, 2 * window.lasts_s)
        window.until, window.sent = self._now() + window.lasts_s, 0

    def _count(self, kind: str, window: _Window) -> None:
        if window.more:
            minutes = math.ceil(window.lasts_s / 60)
            line = f"{kind}: {window.more:,} more within {minutes} min"
            self._pass(logging.WARNING, f"{line}; the process's log has them")
        window.more = 0

    def _pass(self, level: int, text: str) -> None:
        # To the server only: the console has the engine's own line already.
        made = self._log.logger.makeRecord(
            self._log.logger.name, level, "", 0, text, (), None, extra=self._log.extra
        )
        for handler in self._log.logger.handlers:
            handler.handle(made)


def _told(record: logging.LogRecord) -> str:
    line = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        line = f"{line}: {record.exc_info[1]!r}"
    line = masked(line)
    number = NUMBER.get()
    return line if number is None else f"shard {number:04d}: {line}"


@contextmanager
def relayed(log: logging.LoggerAdapter[Any]) -> Generator[None]:
    """Relay warnings to the run's log meanwhile."""
    relay = Relay(log)
    sources = [logging.getLogger(name) for name in ("flows", "storage", "tasks")]
    for source in sources:
        source.addHandler(relay)
    try:
        yield
    finally:
        for source in sources:
            source.removeHandler(relay)
        relay.close()
