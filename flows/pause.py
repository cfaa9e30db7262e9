"""The pause and resume flows: the same as the commands, from the Prefect UI."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from storage import pause_flag
from storage.ledger import existing_root
from storage.objects import Objects
from tasks.batch.request import public


@flow(name="nightreel-pause", retries=0, persist_result=False)
async def pause(*, root: str) -> State[None]:
    """Stop buying below a root. Clips already bought are still fetched.

    Args:
        root: URI that everything is kept under.
    """
    objects = await _opened(root)
    changed = await pause_flag.pause(objects, f"flow run {flow_run.get_id()}")
    return Completed(message="paused" if changed else "paused already")


@flow(name="nightreel-resume", retries=0, persist_result=False)
async def resume(*, root: str) -> State[None]:
    """Continue buying below a paused root.

    Args:
        root: URI that everything is kept under.
    """
    changed = await pause_flag.resume(await _opened(root))
    return Completed(message="resumed" if changed else "was not paused")


async def _opened(uri: str) -> Objects:
    objects = Objects.open(public(uri, "root"))
    await existing_root(objects)
    return objects
