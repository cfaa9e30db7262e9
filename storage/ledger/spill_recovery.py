"""Recovers spilled entries: records those that still fit the state of their jobs."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from manifests.lifecycle import Adjusted, Entry, History, IllegalTransitionError
from storage import layout
from storage.ledger import read_all
from storage.ledger.codec import LedgerError, unpack
from storage.ledger.reserved_file import written
from storage.ledger.spill import SpillFolder
from storage.ledger.spilled_entry import SpilledEntry
from storage.ledger.writer import Waiting
from storage.objects import DamagedError, MissingError, Objects

log = logging.getLogger(__name__)


async def upload(objects: Objects, local: SpillFolder) -> None:
    """Upload this machine's spill files to the root, for the next batch to recover."""
    for path in await asyncio.to_thread(local.arrivals):
        # Another process of this machine may upload or recover the same file.
        with suppress(FileNotFoundError):
            lines = await asyncio.to_thread(written, path)
            await objects.put(layout.spill(path.name), lines)
            await asyncio.to_thread(path.unlink)


async def download(objects: Objects, local: SpillFolder) -> None:
    """Download the spill files that other machines uploaded to the root."""
    async for stored in objects.list(layout.SPILL):
        lines = await objects.get(stored.key)
        name = stored.key.rpartition("/")[2]
        await asyncio.to_thread(local.take, name, lines)
        await objects.delete(stored.key)


async def has_uploaded(objects: Objects) -> bool:
    """Whether the root has uploaded spill files that no run has recovered."""
    return bool([stored async for stored in objects.list(layout.SPILL)])


async def spilled(objects: Objects, spill_folder: Path | None = None) -> int:
    """The number of entries in spill files of this machine and of the root: not on record."""
    count = await asyncio.to_thread(SpillFolder(spill_folder, objects.root).count)
    async for stored in objects.list(layout.SPILL):
        with suppress(MissingError):
            count += (await objects.get(stored.key)).count(b"\n")
    return count


async def recover_uploaded(
    objects: Objects,
    lives: Mapping[str, History],
    standing: Callable[[str], History],
    put: Callable[[Entry], Waiting],
) -> set[str]:
    """Recover uploaded entries of these lives that still fit; returns the lives.

    Call it only as the sole writer of these lives. Other entries are left to the next
    batch. If we die before a file is deleted, the next batch finds its entries on record.
    """
    found = set[str]()
    async for stored in objects.list(layout.SPILL):
        try:
            lines = (await objects.get(stored.key)).splitlines(keepends=True)
        except MissingError:  # another shard has just taken the last of it
            continue
        recorded: list[Waiting] = []
        left: list[bytes] = []
        for line in lines:
            try:
                spilled = SpilledEntry.load(line, objects.uri(stored.key))
                ours = spilled.entry.job in lives
                # Only a batch can tell a new `Adjusted` from one that is on record already.
                if not ours or isinstance(spilled.entry.event, Adjusted):
                    left.append(line)
                elif waiting := await _recorded(objects, spilled, standing, put):
                    recorded.append(waiting)
            except (DamagedError, LedgerError, IllegalTransitionError):
                left.append(line)
        if len(left) == len(lines):
            continue
        await asyncio.gather(*(waiting.durable for waiting in recorded))
        if recorded:
            _tell(stored.key, entries=len(recorded), kept=len(left))
        found |= {waiting.entry.job for waiting in recorded}
        if left:
            await objects.put(stored.key, b"".join(left))
        else:
            await objects.delete(stored.key)
    return found


async def recover(
    objects: Objects,
    path: Path,
    standing: Callable[[str], History],
    put: Callable[[Entry], Waiting],
) -> None:
    """Record a spill file's entries; the file is deleted once they are durable.

    If an entry no longer fits the state of its life, the file is kept aside.
    """
    recorded: list[Waiting] = []
    left = 0
    try:
        lines = (await asyncio.to_thread(written, path)).splitlines()
    except FileNotFoundError:  # uploaded to the root meanwhile
        return
    for number, line in enumerate(lines, 1):
        try:
            spilled = SpilledEntry.load(line, f"{path} line {number}")
            if waiting := await _recorded(objects, spilled, standing, put):
                recorded.append(waiting)
        except (DamagedError, LedgerError, IllegalTransitionError) as error:
            left += 1
            log.error(  # noqa: TRY400 - the error is in the message
                "ledger.spill_rejected file=%s line=%d its job has changed since, the entry is kept aside: %s",
                path,
                number,
                error,
            )
    await asyncio.gather(*(waiting.durable for waiting in recorded))
    if recorded or left:
        _tell(path, entries=len(recorded), kept=left)
    # If it was uploaded to the root meanwhile, it is recovered again, which is harmless.
    with suppress(FileNotFoundError):
        if left:
            await asyncio.to_thread(path.rename, path.with_suffix(".kept"))
        else:
            await asyncio.to_thread(path.unlink)


def _tell(file: Path | str, *, entries: int, kept: int) -> None:
    log.warning(
        "ledger.spill_recovered file=%s entries=%d kept=%d entries that an earlier run could not write are on record now",
        file,
        entries,
        kept,
    )


async def _recorded(
    objects: Objects,
    spilled: SpilledEntry,
    standing: Callable[[str], History],
    put: Callable[[Entry], Waiting],
) -> Waiting | None:
    """Put an entry on record; None if it is on record already.

    Raises:
        IllegalTransitionError, LedgerError: it does not fit the state of its life.
    """
    history = standing(spilled.entry.job)
    if spilled.is_known(history) or await _is_on_record(objects, spilled):
        return None
    return put(spilled.fitting(history))


async def _is_on_record(objects: Objects, spilled: SpilledEntry) -> bool:
    """Whether the store has the entry, although its answer was lost."""
    entry = spilled.entry
    if isinstance(entry.event, Adjusted):
        # It leaves no mark in the history, and may have been recovered before a crash.
        async for some in read_all.entries(objects, since=entry.at):
            if entry in some:
                return True
    try:
        segment = await objects.get(spilled.segment)
    except MissingError:
        return False
    return entry in unpack(segment, spilled.segment)
