"""Reads a whole ledger into memory, without claiming the root."""

from collections.abc import Mapping

from manifests.lifecycle import Entry, History
from storage.ledger import epoch_reader, segments
from storage.objects.client import Objects


async def read(objects: Objects) -> list[Entry]:
    """Every entry on record, in order; a batch may be writing meanwhile."""
    return [entry async for some in epoch_reader.entries(objects) for entry in some]


async def histories(objects: Objects) -> Mapping[str, History]:
    """Every life's history, as far as it is on record."""
    everyone = range(1, await segments.claimed(objects) + 1)
    return (await epoch_reader.recalled(objects, everyone, whole=True)).lives
