"""Runs one worker: its server, its model, and its signals.

SIGTERM drains the worker: clips under way are finished and can still be fetched, and queued
jobs stay in the store for the next start. A second signal ends it at once. A worker whose
supervisor is gone ends at once, too, so that the next one finds its port and store free.
"""

import asyncio
import logging
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.sockets import BoundedServer, bound
from tasks.worker.app import Api
from tasks.worker.job_store import JobStore
from tasks.worker.model_protocol import Load, Plan
from tasks.worker.worker import Worker

log = logging.getLogger(__name__)

LINGER_S: Final = 60.0
"""How long a drained worker waits for its last clips to be fetched."""
SWEEP_S: Final = 60.0
KEEP_ALIVE_S: Final = 75
"""How long an idle connection is kept: the polls of a lane are that far apart."""
STDIN: Final = 0
BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The options of a worker's server."""

    host: str
    port: int
    state: Path
    queue: int
    shapes: Sequence[str]
    keep_s: float
    """How long a clip is kept after it was fetched."""
    hang_after_s: float
    load_within_s: float
    key: str | None = None
    supervised: bool = False
    """Whether the worker ends when its standard input ends."""


def serve(
    plan: Plan, service: Service, load: Load, started: Callable[[str], None]
) -> None:
    """Serve until drained; call `started` with the address, long before the model is warm.

    Raises:
        WorkerError: the model cannot be loaded, or does not fit.
        JobStoreError: another worker uses the state folder.
        OSError: the port cannot be opened.
    """
    # The store first: a worker that is just releasing it may still hold the port.
    store = JobStore(service.state, plan.build, time.time(), boot=_boot())
    try:
        with bound(service.host, service.port) as listener:
            worker = Worker(
                plan,
                store,
                at_most=service.queue,
                hang_after_s=service.hang_after_s,
                load_within_s=service.load_within_s,
            )
            host, port = listener.getsockname()[:2]
            started(f"http://{host}:{port}")
            asyncio.run(_until_drained(worker, service, load, listener))
    finally:
        store.close()


def _boot() -> str:
    """The id of the machine's boot; empty if the system has none."""
    try:
        return BOOT.read_text().strip()
    except OSError:
        return ""


async def _until_drained(
    worker: Worker, service: Service, load: Load, listener: socket.socket
) -> None:
    server = BoundedServer(
        Api(worker).app(service.key), graceful_s=5, keep_alive_s=KEEP_ALIVE_S
    )
    first, second = _signals(supervised=service.supervised)
    serving = asyncio.create_task(server.serve([listener]))
    sweeping = asyncio.create_task(_sweep(worker.store, service.keep_s))
    warming = _in_a_thread(lambda: worker.warm(load, service.shapes))
    try:
        # A worker that is stopped while it loads has nothing to finish.
        await asyncio.wait([warming, first], return_when=asyncio.FIRST_COMPLETED)
        if warming.done():
            warming.result()
            log.info("worker.ready model=%s jobs are taken", worker.name)
            await first
            await _drained(worker, second)
    finally:
        sweeping.cancel()
        server.stop()
        await serving


async def _drained(worker: Worker, hurry: asyncio.Future[None]) -> None:
    log.info("worker.draining what has begun is finished, nothing new is taken")
    # A lane may not have seen a clip that was finished a moment ago.
    since = time.time() - LINGER_S
    worker.drain()
    ended = asyncio.ensure_future(_fetched(worker, since))
    await asyncio.wait([ended, hurry], return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()


async def _fetched(worker: Worker, since: float) -> None:
    """Wait until the running clips are done and downloaded, or the linger time is over."""
    await _in_a_thread(worker.join)
    until = time.monotonic() + LINGER_S
    while worker.store.unfetched(since) and time.monotonic() < until:  # noqa: ASYNC110 - the store is looked at
        await asyncio.sleep(0.2)


async def _sweep(store: JobStore, keep_s: float) -> None:
    while True:
        try:
            await asyncio.to_thread(lambda: store.let_go(time.time() - keep_s))
        except (
            OSError,
            sqlite3.Error,
        ) as exc:  # nothing is lost: the next sweep may succeed
            log.warning("worker.not_cleaned_up old clips stay for now: %s", exc)
        await asyncio.sleep(SWEEP_S)


def _in_a_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Run in a daemon thread, because it may hang in a driver: an exit does not wait for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def tell(exc: BaseException | None) -> None:
        if future.cancelled():
            return
        if exc is None:
            future.set_result(None)
        else:
            future.set_exception(exc)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - the caller gets it
            error = exc
        with suppress(RuntimeError):  # the loop is over: nobody waits
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _signals(*, supervised: bool) -> tuple[asyncio.Future[None], asyncio.Future[None]]:
    loop = asyncio.get_running_loop()
    first: asyncio.Future[None] = loop.create_future()
    second: asyncio.Future[None] = loop.create_future()

    def told() -> None:
        for future in (first, second):
            if not future.done():
                future.set_result(None)
                return

    def orphaned() -> None:
        if not os.read(STDIN, 1):
            loop.remove_reader(STDIN)
            log.warning("worker.orphaned the supervisor is gone, the worker ends")
            told()
            told()

    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, told)
    if supervised:
        loop.add_reader(STDIN, orphaned)
    return first, second
