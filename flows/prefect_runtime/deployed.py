"""Tells whether a flow run is a deployment's, which nobody watches as it starts."""

from prefect.context import FlowRunContext


def is_deployed() -> bool:
    """Whether the flow run of this context is a deployment's."""
    # Not `runtime.deployment`: it asks the server, which may be away.
    context = FlowRunContext.get()
    run = None if context is None else context.flow_run
    return run is not None and run.deployment_id is not None


def may_begin_root(*, new_root: bool) -> bool | None:
    """Whether this run may begin a root, as `storage.ledger.open_root` takes it.

    `new_root` is the parameter of the flow. Without it a deployment's run begins none.
    """
    if new_root:
        return True
    return False if is_deployed() else None
