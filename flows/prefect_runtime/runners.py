"""Runners: run a batch's shards where `[engine] runner` says.

The process that runs a shard gets names only, and builds lanes and clients itself. It may
be killed, or run a shard twice: the ledger ensures that this costs nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from importlib import import_module
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment, flow_run
from prefect.task_runners import TaskRunner

from flows.config import EngineSettings, Settings, SettingsError
from flows.config import lanes as lanes_of
from flows.config import settings as settings_of
from flows.logs.streams import outlive_readers
from flows.prefect_runtime.shard import run_configured_shard
from flows.prefect_runtime.work_pool import ShardError, in_pool, refuse_undeployed
from storage.ledger import FencedError
from tasks.batch.batch import BatchRun
from tasks.distributed import TRIES, Start, elsewhere

WINDOW = 2
"""Shards open at once in one process: the next one's jobs take the slots that this one's
tail leaves."""


@asynccontextmanager
async def shared(batch_run: BatchRun, settings: Settings) -> AsyncGenerator[int]:
    """Have the batch's shards run where the settings say; yields the number at once.

    Raises:
        SettingsError: what the runner takes is not installed, or not deployed.
    """
    engine = settings.engine
    if engine.runner == "here":
        yield WINDOW
        return
    asked: dict[str, Any] = flow_run.get_parameters()
    parameters = {
        "root": batch_run.wanted.root,
        "root_id": batch_run.root_id,
        "batch": batch_run.batch,
        "config": _config(asked["config"]),
        "lanes": asked["lanes"],
        "trust_manifest": asked["trust_manifest"],
        "stills_folder": asked["stills_folder"],
    }
    rules, at_once = lanes_of.rules(settings), engine.workers
    if engine.runner == "pool":
        await refuse_undeployed()
        start = in_pool(parameters)
        async with elsewhere(batch_run, start, rules=rules, at_once=at_once):
            yield at_once
        return
    with _task_runner(engine) as runner, _threads(at_once * TRIES) as threads:
        start = _on_cluster(runner, threads, parameters)
        async with elsewhere(batch_run, start, rules=rules, at_once=at_once):
            yield at_once


def _config(named: str | None) -> str:
    """The config path for shards: as named if this run is a deployment's, where each worker
    has the file, else absolute."""
    path, _ = settings_of.found(Path(named) if named else None)
    return str(path if deployment.get_id() else path.absolute())


def _task_runner(engine: EngineSettings) -> TaskRunner[Any]:
    try:
        if engine.runner == "ray":
            ray: Any = import_module("prefect_ray")
            here = {"num_cpus": engine.workers, "include_dashboard": False}
            return ray.RayTaskRunner(
                address=engine.address, init_kwargs={} if engine.address else here
            )
        dask: Any = import_module("prefect_dask")
        here = {"n_workers": engine.workers, "threads_per_worker": 1}
        return dask.DaskTaskRunner(
            address=engine.address, cluster_kwargs=None if engine.address else here
        )
    except ImportError as exc:
        problem = (
            f"[engine] runner = {engine.runner!r}: {exc}: install nightreel with it"
        )
        raise SettingsError(f"{problem}: pip install -e '.[{engine.runner}]'") from exc


# A cluster may silently repeat a task that was killed; the ledger makes that safe.
@task(
    task_run_name="shard {shard:04d}",
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def away(  # noqa: PLR0913 - the parameters of the shard flow
    *,
    root: str,
    root_id: str | None,
    batch: str,
    shard: int,
    config: str | None,
    lanes: list[str] | None,
    trust_manifest: bool,
    stills_folder: str | None,
) -> str:
    """A shard as a task, wherever the cluster runs it."""
    outlive_readers()
    try:
        report = await run_configured_shard(
            root=root,
            root_id=root_id,
            batch=batch,
            shard=shard,
            config=config,
            lanes=lanes,
            trust_manifest=trust_manifest,
            stills_folder=stills_folder,
        )
    except FencedError as exc:
        return str(exc)
    return f"{report.published} clips"


@contextmanager
def _threads(most: int) -> Generator[ThreadPoolExecutor]:
    """A separate thread pool: the batch itself needs the event loop's few threads."""
    threads = ThreadPoolExecutor(most, thread_name_prefix="shard")
    try:
        yield threads
    finally:
        # A thread that still waits there waits for a run whose result is not needed.
        threads.shutdown(wait=False, cancel_futures=True)


def _on_cluster(
    runner: TaskRunner[Any], threads: ThreadPoolExecutor, parameters: dict[str, Any]
) -> Start:
    """Shards as tasks on the runner's cluster."""
    # The context of the flow run, not of one of its tasks: a runner sends the whole
    # context along, and a task of ours holds the batch.
    flow_context = copy_context()

    async def start(shard: int, attempt: int, begun: Callable[[], None]) -> None:
        # A cluster reports tasks whose process is gone, or runs them again.
        del attempt, begun
        asked = {**parameters, "shard": shard}
        future: Any = flow_context.run(runner.submit, away, asked)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(threads, copy_context().run, future.wait)
        if not future.state.is_completed():
            raise ShardError(f"shard {shard}: {future.state.message}")

    return start
