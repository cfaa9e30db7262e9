"""Runs a worker for each device: restarts those that die, and drains all on a signal.

Each worker reads from a pipe of this process, so it notices however this process ends.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Sequence
from typing import Final

from storage.backoff import backoff

log = logging.getLogger(__name__)

QUICK_S: Final = 60.0
"""A worker that ends sooner than this after its start is not started again at once."""
LONGEST_WAIT_S: Final = 60.0
DRAINED: Final = 0
BADLY_TOLD: Final = 2
"""The exit code for bad options. It is final only at the first start. The options of later
starts are the same, so there it means that the GPU is not back yet."""


class Supervisor:
    """Keeps some commands running until it gets a signal."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._commands = commands
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Run all commands; return the worst exit code."""
        loop = asyncio.get_running_loop()
        # A terminal that closes sends SIGHUP, and only to this process.
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(sign, self._stop)
        each = range(len(self._commands))
        return max(await asyncio.gather(*(self._keep(place) for place in each)))

    def _stop(self) -> None:
        """Terminate the workers. A second call makes them end at once."""
        self._stopping.set()
        for child in self._children.values():
            if child.returncode is None:
                child.terminate()

    async def _keep(self, place: int) -> int:
        quick_deaths, final = 0, {DRAINED, BADLY_TOLD}
        while True:
            began = time.monotonic()
            code = await self._once(place)
            if code in final or self._stopping.is_set():
                return code
            final = {DRAINED}
            quick = time.monotonic() - began < QUICK_S
            quick_deaths = quick_deaths + 1 if quick else 0
            wait_s = backoff(quick_deaths + 1, 1.0, LONGEST_WAIT_S)
            log.warning(
                "worker.died place=%d code=%d again_s=%.0f it is started again",
                place,
                code,
                wait_s,
            )
            if await self._stopped_within(wait_s):
                return code

    async def _once(self, place: int) -> int:
        # A separate group: ^C in a terminal reaches this process only, which signals it once.
        child = await asyncio.create_subprocess_exec(
            *self._commands[place],
            start_new_session=True,
            # Nothing is ever written: the pipe closes with this process, even if it is killed.
            stdin=asyncio.subprocess.PIPE,
        )
        self._children[place] = child
        if self._stopping.is_set():
            child.terminate()
        try:
            return await child.wait()
        finally:
            if child.returncode is None:
                child.kill()

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True


def supervise(commands: Sequence[Sequence[str]]) -> int:
    """Run commands until a signal, and restart those that die; return the worst exit code."""

    async def run() -> int:
        return await Supervisor(commands).run()

    return asyncio.run(run())
