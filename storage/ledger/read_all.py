"""Reads a whole ledger without claiming the root; a batch may be writing meanwhile."""

from collections.abc import Mapping

from manifests.lifecycle import Entry, History
from storage.ledger import epoch_reader, segments
from storage.ledger.state_index import Book
from storage.objects import Objects


async def read(objects: Objects) -> list[Entry]:
    """Every entry on record, in order."""
    return [entry async for some in epoch_reader.entries(objects) for entry in some]


async def histories(objects: Objects) -> Mapping[str, History]:
    """Every life's history, as far as it is on record."""
    return (await recall(objects, whole=True)).lives


async def recall(objects: Objects, *, whole: bool = False) -> Book:
    """The state index of the root; `whole`: with the full histories of ended jobs too.

    Raises:
        LedgerError, DamagedError: the ledger cannot be read.
    """
    everyone = range(1, await segments.claimed(objects) + 1)
    return await epoch_reader.recalled(objects, everyone, whole=whole)
