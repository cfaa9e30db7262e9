"""Repairs a damaged root: a record of what was lost, then objects in the place of the lost.

Nothing that can be read is changed. A lost segment is replaced by one that begins with
`Repaired` and holds the events that later ones prove. So every reader finds streams without
a gap, and the repair's record names the gap for people, and for runs (`gaps`).

A repair that was killed leaves a root that can be repaired again: the record comes first,
each object is created whole, and the next survey finds what is still missing.
"""

import os
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Final

from manifests.lifecycle import NEW, Entry, History, IllegalTransitionError
from storage import layout
from storage.ledger import (
    checkpoint_files,
    conditional_put,
    gaps,
    lease,
    replay,
    root,
)
from storage.ledger.bridge import Submits, bridge
from storage.ledger.codec import LedgerError, Record, Repaired, Seal, pack, unpack
from storage.ledger.damage import Damage, Survey
from storage.ledger.gaps import Gap, RepairRecord
from storage.ledger.holes import EpochDamage, Hole, read
from storage.ledger.known_roots import KnownRoots
from storage.ledger.lease import HeldError
from storage.ledger.owner import BEAT_S, Holder, claimant
from storage.ledger.segments import MAIN
from storage.ledger.writer import SEGMENT
from storage.objects import DamagedError, MissingError, Objects

_ID: Final = re.compile(rb'"id": ?"([0-9a-f-]{36})"')


def gaps_of(found: Survey, now: float) -> list[Gap]:
    """The gaps that a repair leaves."""
    return [gap for one in found.epochs for gap in _gaps_of(one, now)]


async def repair_root(
    objects: Objects,
    found: Survey,
    clock: Callable[[], float],
    known: KnownRoots | None = None,
) -> RepairRecord:
    """Repair what a survey found.

    Raises:
        LedgerError: the rest of the ledger contradicts itself.
    """
    await conditional_put.proved(objects)
    numbers, _ = await gaps.numbers(objects)
    record = RepairRecord(
        number=max(numbers, default=0) + 1,
        at=clock(),
        by=f"{socket.gethostname()} pid {os.getpid()}",
        found=[asdict(one) for one in found.damages],
        gaps=gaps_of(found, clock()),
    )
    await objects.create(layout.repair(record.number), record.dump())
    await _write_root(objects, found.damages, clock, known)
    for epoch, batch in found.claims.items():
        await _write_claim(objects, epoch, batch)
    for one in found.epochs:
        await _fill(objects, one, record, newest=found.newest)
    return record


async def refuse_if_alive(
    objects: Objects,
    *,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Raise an error if a run may still write to the root; its claim may be missing.

    Raises:
        HeldError: a run holds it.
    """
    sign = await _sign(objects)
    if sign is None or sign[0].is_gone() or await _is_sealed(objects, sign[0].batch):
        return
    holder, key = sign
    silent_s = await lease.age(objects, key)
    if not 0 <= silent_s < lease.SILENT_S:
        await sleep((lease.UNTOLD if silent_s < 0 else lease.WATCHED) * BEAT_S)
        if await _sign(objects) == sign:
            return
        silent_s = 0.0
    raise HeldError(f"{objects.root}: {holder.description(silent_s)}")


async def _sign(objects: Objects) -> tuple[Holder, str] | None:
    """The newest sign of life: the heartbeat or a claim."""
    signs: list[tuple[Holder, str]] = []
    claims = [stored.key async for stored in objects.list(layout.CLAIMS)]
    for key in (*sorted(claims)[-1:], layout.HOLDER):
        try:
            signs.append((Holder.load(await objects.get(key), objects.uri(key)), key))
        except (DamagedError, MissingError):
            continue
    return max(signs, key=lambda sign: sign[0].epoch, default=None)


async def _is_sealed(objects: Objects, batch: str) -> bool:
    """Whether the last segment of a batch's main stream is a seal, whatever is before it."""
    keys = [one.key async for one in objects.list(layout.stream(batch, MAIN))]
    numbered = sorted(key for key in keys if "/parts/" not in key)
    if not numbered:
        return False
    try:
        records = unpack(await objects.get(numbered[-1]), numbered[-1])
    except DamagedError:
        return False
    return isinstance(records[-1], Seal)


async def _write_root(
    objects: Objects,
    damages: Sequence[Damage],
    clock: Callable[[], float],
    known: KnownRoots | None,
) -> None:
    if not any(one.kind == "root" for one in damages):
        return
    told = None if known is None else known.id_of(objects.root)
    try:
        data = await objects.get(layout.ROOT)
    except MissingError:
        pass
    else:
        await _set_aside(objects, layout.ROOT, data)
        left = _ID.search(data)
        told = told or (left[1].decode() if left else None)
    await objects.put(layout.ROOT, root.new(clock(), told).data)


async def _write_claim(objects: Objects, epoch: int, batch: str) -> None:
    """Write a claim of a holder that is certainly gone."""
    key = layout.claim(epoch)
    name = batch.partition("-")[2]
    holder = replace(claimant(epoch, name, 0.0), born="0", host="unknown")
    try:
        await _set_aside(objects, key, await objects.get(key))
    except MissingError:
        await objects.create(key, holder.dump())
    else:
        await objects.put(key, holder.dump())


async def _fill(
    objects: Objects, one: EpochDamage, record: RepairRecord, *, newest: int
) -> None:
    """Put segments in the place of those that an epoch lost."""
    fills = await _bridged(objects, one, record.at)
    if not one.listed:
        # Files without a list were made from segments that are lost now.
        await checkpoint_files.discard(objects, one.epoch)
    seal = Seal(newest + 1, record.at)
    mark = Repaired(layout.repair(record.number), record.at)
    for hole, entries in fills:
        for number in range(hole.first, hole.last + 1):
            records: list[Record] = [mark, *(entries if number == hole.first else ())]
            if hole.at_end and number == hole.last:
                records.append(seal)
            await _put(objects, hole, number, pack(records))


async def _put(objects: Objects, hole: Hole, number: int, data: bytes) -> None:
    key = layout.segment(hole.stream, number)
    if number in hole.damaged:
        await _set_aside(objects, key, await objects.get(key))
        await objects.put(key, data)
    else:
        await objects.create(key, data)


async def _bridged(
    objects: Objects, one: EpochDamage, now: float
) -> list[tuple[Hole, list[Entry]]]:
    """Each hole of an epoch, with the entries that later ones prove it to have held.

    Raises:
        LedgerError: an entry cannot have happened, and no hole explains it.
    """
    before = await replay.recalled(objects, range(1, one.epoch), whole=True)
    fold = _Fold(dict(before.lives), one.submits, now)
    async for piece in read(objects, replace(one, holes=[], submits=Submits())):
        if isinstance(piece, Hole):
            fold.enter(piece)
        else:
            for entry in piece:
                fold.take(entry)
    return fold.filled


class _Fold:
    """The histories of an epoch's jobs, across its holes."""

    def __init__(self, lives: dict[str, History], submits: Submits, now: float) -> None:
        self.filled: list[tuple[Hole, list[Entry]]] = []
        self._lives = lives
        self._submits = submits
        self._now = now
        self._since = set[str]()
        """The jobs that have an entry after the last hole."""

    def enter(self, hole: Hole) -> None:
        self.filled.append((hole, []))
        self._since.clear()

    def take(self, entry: Entry) -> None:
        """Apply an entry, after the lost events that it proves.

        Raises:
            LedgerError: it cannot have happened, and no hole explains it.
        """
        history = self._lives.get(entry.job, NEW)
        try:
            self._lives[entry.job] = history.after(entry)
        except IllegalTransitionError as error:
            if not self.filled or entry.job in self._since:
                raise LedgerError(f"{error}: no gap explains it") from error
            hole, entries = self.filled[-1]
            at = hole.since or hole.until or self._now
            for event in bridge(history, entry, self._submits):
                lost = Entry(entry.job, at, event)
                entries.append(lost)
                history = history.after(lost)
            self._lives[entry.job] = history.after(entry)
        self._since.add(entry.job)


async def _set_aside(objects: Objects, key: str, data: bytes) -> None:
    """Keep a damaged object's bytes before it is replaced."""
    await objects.put(layout.damaged(key, sha256(data).hexdigest()), data)


def _gaps_of(one: EpochDamage, now: float) -> list[Gap]:
    prices = one.submits.prices
    if one.lost:
        place = layout.streams(one.batch)
        return [Gap(place=place, first=0, last=0, since=None, until=now, submits=None)]
    return [
        Gap(
            place=hole.stream,
            first=hole.first,
            last=hole.last,
            since=hole.since,
            until=now if hole.until is None else hole.until,
            # Each submit is one entry at least.
            submits=SEGMENT * (hole.last - hole.first + 1),
            lanes=prices,
            certain=one.certain,
        )
        for hole in one.holes
    ]
