"""The messages between a batch and the runs of its shards, as objects below the root.

    shards/<batch>/0007.parquet             its rows of the manifest
    shards/<batch>/0007.json                the order: all else that a run needs
    shards/<batch>/0007.02.usage.json       the report of its second run
    shards/<batch>/0007.02.last.usage.json  the last report, which no late put replaces
    shards/<batch>/grant.json               the amounts that each run may use

The order is put after the rows, and deleted before them. `messages` has the fields.

They are deleted when the shard, or the batch, is over. A run that claims its shard and then
finds no order has come too late.
"""

from pathlib import Path
from typing import Final

from storage import layout
from storage.ledger import LedgerError
from storage.objects import DamagedError, MissingError, Objects
from tasks.distributed.messages import ShardOrder

LOCAL_S: Final = 0.5
"""Seconds between two reports, if requests to the store are free..."""
REMOTE_S: Final = 3.0
"""... and if they cost money."""


def beat_s(objects: Objects) -> float:
    """Seconds between two messages."""
    return REMOTE_S if objects.remote else LOCAL_S


async def send_order(
    objects: Objects, batch: str, shard: int, order: ShardOrder, rows_file: Path
) -> None:
    """Write an order, for the run of the shard."""
    await objects.put_file(layout.shard_rows(batch, shard), rows_file)
    await objects.put(layout.shard_order(batch, shard), order.dump())


async def receive_order(
    objects: Objects, batch: str, shard: int, rows_file: Path
) -> ShardOrder:
    """Read the order of a shard, and download its rows to the file `rows_file`.

    Raises:
        LedgerError: there is no such order, or it was withdrawn.
        DamagedError: the order, or the file with its rows, is damaged.
    """
    key, rows = layout.shard_order(batch, shard), layout.shard_rows(batch, shard)
    try:
        order = ShardOrder.load(await objects.get(key), objects.uri(key))
        digest = await objects.get_file(rows, rows_file)
    except MissingError as error:
        message = f"{objects.root}: shard {shard} of batch {batch!r} is not to be run"
        raise LedgerError(message) from error
    if digest != order.rows:
        uri = objects.uri(rows)
        raise DamagedError(f"{uri}: damaged: it does not have the rows of this shard")
    return order


async def has_order(objects: Objects, batch: str, shard: int) -> bool:
    """Whether a shard is still to be run."""
    try:
        await objects.get(layout.shard_order(batch, shard))
    except MissingError:
        return False
    return True


async def withdraw_order(objects: Objects, batch: str, shard: int) -> None:
    """Withdraw the order: no run starts the shard any more."""
    await objects.delete(layout.shard_order(batch, shard))
    await objects.delete(layout.shard_rows(batch, shard))


async def clear(objects: Objects, batch: str) -> None:
    """Delete all messages of this batch. A batch that took over has a separate folder."""
    async for stored in objects.list(layout.messages(batch)):
        await objects.delete(stored.key)


async def usage_keys(objects: Objects, batch: str) -> dict[int, list[str]]:
    """By shard: the keys of its runs' reports, the oldest first."""
    found: dict[int, list[str]] = {}
    async for stored in objects.list(layout.messages(batch)):
        if match := layout.USAGE.fullmatch(stored.key):
            found.setdefault(int(match["shard"]), []).append(stored.key)
    return {shard: sorted(keys, key=_age) for shard, keys in found.items()}


def _age(key: str) -> tuple[int, bool]:
    match = layout.USAGE.fullmatch(key)
    if match is None:
        return 0, False
    return int(match["generation"]), match["last"] is not None
