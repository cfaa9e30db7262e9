"""Boarding: what an earlier run could not put on record is recorded, if it still can be."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from manifests.lifecycle import Entry, History, IllegalTransitionError, Settled
from storage import layout
from storage.ledger import epoch_reader
from storage.ledger.codec import LedgerError, unpack
from storage.ledger.spill import Castaway, Harbour
from storage.ledger.writer import Waiting
from storage.objects.client import DamagedError, MissingError, Objects

log = logging.getLogger(__name__)


async def cast_off(objects: Objects, harbour: Harbour) -> None:
    """Send the lifeboats of this machine to the root, for the next batch to take aboard."""
    for path in await asyncio.to_thread(harbour.arrivals):
        # Another process of this machine may send it too, or be taking it aboard.
        with suppress(FileNotFoundError):
            lines = await asyncio.to_thread(path.read_bytes)
            await objects.put(layout.adrift(path.name), lines)
            await asyncio.to_thread(path.unlink)


async def fetch(objects: Objects, harbour: Harbour) -> None:
    """Bring here what other machines sent to the root."""
    async for stored in objects.list(layout.ADRIFT):
        lines = await objects.get(stored.key)
        name = stored.key.rpartition("/")[2]
        await asyncio.to_thread(harbour.take, name, lines)
        await objects.delete(stored.key)


async def is_any_adrift(objects: Objects) -> bool:
    """Whether machines sent something to the root that nobody has taken aboard."""
    return bool([stored async for stored in objects.list(layout.ADRIFT)])


async def pick_up(
    objects: Objects,
    lives: Mapping[str, History],
    standing: Callable[[str], History],
    put: Callable[[Entry], Waiting],
) -> set[str]:
    """Take aboard what was sent to the root about these lives, and fits; whose it was.

    Only for who alone may put anything on record about them. The rest is left to the
    next batch, as is what it will find on record if we die before it is taken away.
    """
    found = set[str]()
    async for stored in objects.list(layout.ADRIFT):
        try:
            lines = (await objects.get(stored.key)).splitlines(keepends=True)
        except MissingError:  # another shard has just taken the last of it
            continue
        aboard: list[Waiting] = []
        left: list[bytes] = []
        for line in lines:
            try:
                castaway = Castaway.load(line, objects.uri(stored.key))
                mine = castaway.entry.job in lives
                # What is settled, a batch alone can tell from what was settled before.
                if not mine or isinstance(castaway.entry.event, Settled):
                    left.append(line)
                elif waiting := await _aboard(objects, castaway, standing, put):
                    aboard.append(waiting)
            except (DamagedError, LedgerError, IllegalTransitionError):
                left.append(line)
        if len(left) == len(lines):
            continue
        await asyncio.gather(*(waiting.durable for waiting in aboard))
        if aboard:
            log.warning(
                "ledger.spill_recovered file=%s entries=%d kept=%d entries that an earlier run could not write are on record now",
                stored.key,
                len(aboard),
                len(left),
            )
        found |= {waiting.entry.job for waiting in aboard}
        if left:
            await objects.put(stored.key, b"".join(left))
        else:
            await objects.delete(stored.key)
    return found


async def board(
    objects: Objects,
    path: Path,
    standing: Callable[[str], History],
    put: Callable[[Entry], Waiting],
) -> None:
    """Take a lifeboat's entries aboard; the file is gone once they are durable.

    What does not fit where its life stands by now stays in the file, kept aside.
    """
    aboard: list[Waiting] = []
    left = 0
    try:
        lines = (await asyncio.to_thread(path.read_bytes)).splitlines()
    except FileNotFoundError:  # sent to the root just now: the next batch has it
        return
    for number, line in enumerate(lines, 1):
        try:
            castaway = Castaway.load(line, f"{path} line {number}")
            if waiting := await _aboard(objects, castaway, standing, put):
                aboard.append(waiting)
        except (DamagedError, LedgerError, IllegalTransitionError) as error:
            left += 1
            log.error(  # noqa: TRY400 - said in full
                "ledger.spill_rejected file=%s line=%d its job has changed since, the entry is kept aside: %s",
                path,
                number,
                error,
            )
    await asyncio.gather(*(waiting.durable for waiting in aboard))
    if aboard or left:
        log.warning(
            "ledger.spill_recovered file=%s entries=%d kept=%d entries that an earlier run could not write are on record now",
            path,
            len(aboard),
            left,
        )
    # Whoever has sent it to the root meanwhile has it taken aboard again, which is no harm.
    with suppress(FileNotFoundError):
        if left:
            await asyncio.to_thread(path.rename, path.with_suffix(".kept"))
        else:
            await asyncio.to_thread(path.unlink)


async def _aboard(
    objects: Objects,
    castaway: Castaway,
    standing: Callable[[str], History],
    put: Callable[[Entry], Waiting],
) -> Waiting | None:
    """Have it put on record; None if there is no need.

    Raises:
        IllegalTransitionError, LedgerError: it does not fit where its life stands.
    """
    past = standing(castaway.entry.job)
    if castaway.is_known(past) or await _landed(objects, castaway):
        return None
    return put(castaway.fitting(past))


async def _landed(objects: Objects, castaway: Castaway) -> bool:
    """Whether the store had it all the same, and only never said so."""
    entry = castaway.entry
    if isinstance(entry.event, Settled):
        # It moves nothing by which it would be known, and may be aboard since a crash.
        async for some in epoch_reader.entries(objects, since=entry.at):
            if entry in some:
                return True
    try:
        segment = await objects.get(castaway.segment)
    except MissingError:
        return False
    return entry in unpack(segment, castaway.segment)
