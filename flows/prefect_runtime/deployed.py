"""Tells whether a flow run is a deployment's, which nobody watches as it starts."""

import os

from prefect.context import FlowRunContext

from manifests.uris import scheme
from storage.sources import refuse_blank
from tasks.batch.request import public


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


def located(uri: str, name: str) -> str:
    """The URI of a flow parameter; a relative path is one of the folder we run in.

    A deployment's run refuses it: a worker runs in a folder that its owner did not choose.

    Raises:
        OpeningError: it is blank, or relative in a deployment's run.
        ManifestError: it carries a secret.
    """
    refuse_blank(uri, name)
    if not scheme(uri) and not is_deployed():
        uri = os.path.abspath(uri)  # noqa: PTH100 - `resolve` follows links
    return public(uri, name)
