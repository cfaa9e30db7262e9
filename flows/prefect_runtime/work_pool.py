"""Runs a batch's shards as flow runs of a work pool, and tells when one will never end.

A worker that dies after it took a flow run and before the run began leaves it pending, and
the server never ends it. Such a run is ended here, so that another worker gets the shard.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus
from prefect.client.schemas.objects import FlowRun, WorkerStatus
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed

from flows.config import SettingsError
from tasks.distributed import Start

DEPLOYMENT = "nightreel-shard/shard"

EVERY_S = 2.0
"""Seconds between two looks at the state of a flow run."""

GIVE_UP_S = 30.0
"""How long to wait for the server to name a run that is no longer wanted."""


LOOK_AT_WORKER_S: Final = 10.0
"""Seconds between two looks at the worker of a run that has not begun."""

LOST_S: Final = 900.0
"""The longest time from when a worker takes a run to its start: a cloud may first have to
start a machine and load an image."""

log = logging.getLogger(__name__)


class ShardError(Exception):
    """A run of a shard that failed."""


async def refuse_undeployed() -> None:
    """Raise an error now, rather than after each shard's last failed try."""
    try:
        async with get_client() as client:
            await client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound as exc:
        problem = (
            f"[engine] runner = 'pool': no deployment {DEPLOYMENT!r} on the server"
        )
        raise SettingsError(f"{problem}: prefect deploy --all") from exc
    except (httpx.TransportError, PrefectHTTPStatusError) as exc:
        log.warning(
            "prefect.unavailable error=%s the deployment of the shards was not checked",
            type(exc).__name__,
        )


def in_pool(parameters: dict[str, Any]) -> Start:
    """Shards as flow runs of a separate work pool."""
    parent = flow_run.get_id()

    async def start(shard: int, attempt: int, begun: Callable[[], None]) -> None:
        # A parent that is retried has another batch: its shards are other shards.
        key = f"{parent}:{parameters['batch']}:{shard}:{attempt}"
        beginning = asyncio.ensure_future(_begun({**parameters, "shard": shard}, key))
        try:
            await _ended(await asyncio.shield(beginning), begun)
        except asyncio.CancelledError:
            await asyncio.shield(_give_up(beginning))
            raise

    return start


async def _begun(parameters: dict[str, Any], key: str) -> FlowRun:
    """A flow run of the deployment, the same one for the same key."""
    while True:
        try:
            return await arun_deployment(
                DEPLOYMENT,
                parameters=parameters,
                timeout=0,
                idempotency_key=key,
                # The same tags as the batch's own run.
                tags=["nightreel", parameters["batch"]],
            )
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            await _away_for_now(error)


async def _ended(run: FlowRun, begun: Callable[[], None]) -> None:
    start = PendingStart()
    async with get_client() as client:
        while run.state is None or not run.state.is_final():
            if run.state is not None and run.state.is_running():
                begun()
            await asyncio.sleep(EVERY_S)
            try:
                run = await client.read_flow_run(run.id)
                if reason := await start.lost(client, run):
                    crashed = Crashed(message=reason)
                    await client.set_flow_run_state(run.id, crashed)
            # The run's state is unknown; the shard's messages show whether it lives.
            except (httpx.TransportError, PrefectHTTPStatusError) as error:
                await _away_for_now(error)
    if not run.state.is_completed():
        raise ShardError(f"{run.name}: {run.state.name}: {run.state.message}")


class PendingStart:
    """Tells whether a run that a worker took, and that has not begun, will ever begin."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken_at: float | None = None
        self._look_at = 0.0

    async def lost(self, client: PrefectClient, run: FlowRun) -> str | None:
        """Why the run will not begin, if that is so."""
        if run.state is None or not run.state.is_pending():
            self._taken_at = None
            return None
        now = self._clock()
        if self._taken_at is None:
            self._taken_at = now
        if now - self._taken_at >= LOST_S:
            return f"a worker took it, and after {LOST_S:.0f} s it has not begun"
        if now < self._look_at:
            return None
        self._look_at = now + LOOK_AT_WORKER_S
        worker = run.labels.get("prefect.worker.name")
        pool = run.labels.get("prefect.work-pool.name")
        if worker is None or worker not in await _offline(client, str(pool)):
            return None
        return f"worker {worker} took it and went away before it began"


async def _offline(client: PrefectClient, pool: str) -> set[str]:
    """The workers of a pool whose heartbeats the server misses, by their names."""
    status = WorkerFilterStatus(any_=[WorkerStatus.OFFLINE.value])
    workers = await client.read_workers_for_work_pool(pool, WorkerFilter(status=status))
    return {worker.name for worker in workers}


async def _away_for_now(error: httpx.TransportError | PrefectHTTPStatusError) -> None:
    """Wait a little for a server that is away; raise the error if it refuses."""
    if isinstance(error, PrefectHTTPStatusError) and not error.response.is_server_error:
        raise error
    log.warning(
        "prefect.unavailable error=%s the server is asked again", type(error).__name__
    )
    await asyncio.sleep(EVERY_S)


async def _give_up(beginning: asyncio.Future[FlowRun]) -> None:
    """Cancel the flow run: another run owns this shard now, or its worker died unnoticed."""
    try:
        # A slow server may have created the run although it has not answered yet.
        run = await asyncio.wait_for(beginning, GIVE_UP_S)
    except (TimeoutError, httpx.TransportError, PrefectHTTPStatusError) as error:
        log.warning(
            "prefect.unavailable error=%s the run of a lost shard was not cancelled",
            type(error).__name__,
        )
        return
    async with get_client() as client:
        state = Cancelled(message="another run has this shard now, or nobody has")
        await client.set_flow_run_state(run.id, state, force=True)
