"""Fencing: a seal ends a stream, and nothing is ever added after it.

A seal is a segment at the stream's next number. A writer that still lives finds that
number taken and stops; nothing that it does afterwards is on record. So a reader that
has sealed every stream reads a ledger that no longer changes.
"""

from storage import layout
from storage.ledger import checkpoint, replay, segments
from storage.ledger.codec import Seal, pack
from storage.ledger.owner import Holder
from storage.ledger.segment_reader import seal_at
from storage.ledger.segments import MAIN
from storage.ledger.state_index import StateIndex
from storage.objects import ExistsError, Objects, StorageError


async def settled(objects: Objects, us: Holder, *, whole: bool) -> StateIndex:
    """Seal every older epoch, then read them: the state index of the root."""
    seal = Seal(us.epoch, us.since)

    async def seal_one(epoch: int) -> None:
        await seal_all(objects, (await segments.owner(objects, epoch)).batch, seal)

    older = range(1, us.epoch)
    try:
        ended = {*await checkpoint.compacted(objects)}
        await segments.each(seal_one, [epoch for epoch in older if epoch not in ended])
        state_index = await replay.recalled(objects, older, whole=whole)
    except StorageError:
        # Seal our own epoch, so that the root is free.
        await end(objects, layout.stream(us.batch, MAIN), 0, seal=seal)
        raise
    state_index.begin(us.epoch)
    return state_index


async def is_over(objects: Objects, batch: str) -> bool:
    """Whether a batch's main stream is sealed."""
    main = layout.stream(batch, MAIN)
    return await is_sealed(objects, main, await _last(objects, main))


async def seal_all(objects: Objects, batch: str, seal: Seal) -> None:
    """Seal every stream of a batch.

    A shard may open another stream after this has listed them. Once open, it sees that
    the batch is over: by a newer epoch, or by the seal on the main stream.
    """
    found = {MAIN: segments.Extent()} | await segments.streams(objects, batch)

    async def seal_one(name: str) -> None:
        last = found[name].segments
        await end(objects, layout.stream(batch, name), last, seal=seal)

    await segments.each(seal_one, [*found])


async def end(objects: Objects, stream: str, last: int, *, seal: Seal) -> Seal:
    """Put a seal at a stream's next number, unless it has one; returns the stream's seal."""
    while (found := await seal_at(objects, stream, last)) is None:
        try:
            await objects.create(layout.segment(stream, last + 1), pack([seal]))
        except ExistsError:
            # An owner that still writes may have moved on by more than one segment.
            last = max(last + 1, await _last(objects, stream))
        else:
            return seal
    return found


async def is_sealed(objects: Objects, stream: str, last: int) -> bool:
    """Whether this segment of a stream is its seal."""
    return await seal_at(objects, stream, last) is not None


async def _last(objects: Objects, stream: str) -> int:
    """The number of a stream's last segment, as far as it can be seen now."""
    _, batch, name = stream.split("/")
    found = await segments.streams(objects, batch, name)
    return found[name].segments if name in found else 0
