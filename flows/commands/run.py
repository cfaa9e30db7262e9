"""Running a batch in this process, shown at the terminal."""

import asyncio
from typing import Any, cast

from flows.commands.prefect_server import find_server
from flows.commands.terminal import err, tell
from flows.dashboard.summary import late, unusual
from flows.views.progress import show
from storage.objects.errors import StorageError, UnavailableError
from storage.sources import OpeningError
from tasks.batch.batch import Night
from tasks.batch.lifespan import WATCHER


async def run_batch(**parameters: Any) -> Night:
    """Run the batch flow here, shown at the terminal; the night that is over."""
    await asyncio.to_thread(find_server)
    from flows.batch import batch  # noqa: PLC0415 - Prefect takes a second to import

    nights: list[Night] = []
    showing: list[asyncio.Task[None]] = []

    def begun(night: Night) -> None:
        nights.append(night)
        for said in filter(None, (late(night), night.plan.heavy)):
            tell(said, "yellow")
        showing.append(asyncio.create_task(show(night, err)))

    watching = WATCHER.set(begun)
    state: Any = None
    try:
        # Prefect's types know no asynchronous flow that returns its state.
        state = await cast("Any", batch)(**parameters, return_state=True)
    # A server that has died takes nothing from a night whose books are closed.
    except Exception as exc:
        if not any(night.over for night in nights):
            raise
        tell(f"the Prefect server has not seen how it ended: {exc}", "yellow")
    finally:
        WATCHER.reset(watching)
        for task in showing:
            task.cancel()
        await asyncio.gather(*showing, return_exceptions=True)
    for said in (said for night in nights for said in unusual(night)):
        tell(said)
    if nights and nights[0].over:
        return nights[0]
    failure: Any = await state.aresult(raise_on_failure=False)
    if isinstance(failure, StorageError) and not (
        nights or isinstance(failure, UnavailableError)
    ):
        raise OpeningError(str(failure)) from failure
    raise failure if isinstance(failure, BaseException) else RuntimeError(state.message)
