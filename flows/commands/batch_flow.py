"""Runs the batch flow in this process; `run_batch` also shows it at the terminal."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from flows.commands.prefect_server import find_server
from flows.commands.terminal import err, output, tell
from flows.views import log_progress, show_progress, unmade
from storage.objects import StorageError, UnavailableError
from storage.sources import OpeningError
from tasks.batch.batch import BatchRun
from tasks.batch.lifespan import WATCHER


async def run_batch(**parameters: Any) -> BatchRun:
    """Run the batch flow with progress and remarks at the terminal; the finished batch."""
    # Prefect reads the environment when it is imported: not before `calm_prefect`.
    from flows.dashboard import late_warning, unusual  # noqa: PLC0415

    showing: list[asyncio.Task[None]] = []

    def begun(batch_run: BatchRun) -> None:
        for remark in filter(None, (late_warning(batch_run), batch_run.plan.heavy)):
            tell(remark, "yellow")
        if output.shows_progress:
            showing.append(asyncio.create_task(show_progress(batch_run, err)))
        showing.append(asyncio.create_task(log_progress(batch_run)))

    def warn(message: str) -> None:
        tell(message, "yellow")

    try:
        batch_run = await run_flow(begun, warn, **parameters)
    finally:
        for task in showing:
            task.cancel()
        await asyncio.gather(*showing, return_exceptions=True)
    for remark in unusual(batch_run):
        tell(remark)
    for line in await asyncio.to_thread(lambda: [*unmade(batch_run)]):
        tell(line)
    return batch_run


async def run_flow(
    begun: Callable[[BatchRun], None], warn: Callable[[str], None], **parameters: Any
) -> BatchRun:
    """Run the batch flow; `begun` is called once its batch is under way.

    Raises:
        Exception: what the flow raised, if no batch came to its end.
    """
    await asyncio.to_thread(find_server, warn)
    from prefect import tags  # noqa: PLC0415

    from flows.batch import batch  # noqa: PLC0415 - Prefect takes a second to import

    batch_runs: list[BatchRun] = []

    def watch(batch_run: BatchRun) -> None:
        batch_runs.append(batch_run)
        begun(batch_run)

    watching = WATCHER.set(watch)
    state: Any = None
    try:
        # The heartbeat has the tags that a run is created with: automations match them.
        with tags("nightreel"):
            # Prefect's types know no asynchronous flow that returns its state.
            state = await cast("Any", batch)(**parameters, return_state=True)
    # If the ledger is closed, a dead server does not invalidate the batch.
    except Exception as exc:
        if not any(batch_run.over for batch_run in batch_runs):
            raise
        warn(f"the Prefect server has not seen how it ended: {exc}")
    finally:
        WATCHER.reset(watching)
    if batch_runs and batch_runs[0].over:
        return batch_runs[0]
    failure: Any = await state.aresult(raise_on_failure=False)
    if isinstance(failure, StorageError) and not (
        batch_runs or isinstance(failure, UnavailableError)
    ):
        raise OpeningError(str(failure)) from failure
    raise failure if isinstance(failure, BaseException) else RuntimeError(state.message)
