"""Reading: all that is on record, at once, for whoever only looks and has the memory."""

from collections.abc import Mapping

from manifests.lifecycle import Entry, History
from storage import epochs, volumes
from storage.objects import Objects


async def read(objects: Objects) -> list[Entry]:
    """All that is on record, in order; a batch may be adding to it meanwhile."""
    return [entry async for some in volumes.entries(objects) for entry in some]


async def histories(objects: Objects) -> Mapping[str, History]:
    """Every life's history, as far as it is on record."""
    everyone = range(1, await epochs.claimed(objects) + 1)
    return (await volumes.recalled(objects, everyone, whole=True)).lives
