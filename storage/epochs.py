"""Epochs: the ledger as objects, each created once and never changed.

    ledger/epochs/000003.json                          who claimed epoch 3
    ledger/000003-<batch>/0000000001.jsonl.zst …       what it wrote, in segments
    ledger/volumes/000003.jsonl.zst                    the same, bound once it was sealed
    ledger/holder.json                                 the newest holder's last beat

A seal is a segment at its owner's next number: the owner's own next segment then finds
its key taken, so it cannot write unseen. An epoch with a volume is sealed.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from manifests.lifecycle import Entry
from storage.holder import Holder, claimant
from storage.objects import ExistsError, MissingError, Objects
from storage.records import LedgerError, Seal, pack, unpack

K = TypeVar("K")
T = TypeVar("T")

HOLDER: Final = "ledger/holder.json"
_AT_ONCE: Final = 64


class HeldError(LedgerError):
    """Another process is writing to this root."""


class FencedError(LedgerError):
    """A successor has taken this root over; nothing more can be recorded here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What an epoch's owner has written, as far as it was read."""

    entries: Sequence[Entry] = field(default_factory=list[Entry])
    segments: int = 0
    sealed: bool = False
    bound: bool = False


def claim_key(epoch: int) -> str:
    return f"ledger/epochs/{epoch:06d}.json"


def segment_key(batch: str, number: int) -> str:
    return f"ledger/{batch}/{number:010d}.jsonl.zst"


def volume_key(epoch: int) -> str:
    return f"ledger/volumes/{epoch:06d}.jsonl.zst"


async def claimed(objects: Objects) -> int:
    """How many epochs were claimed; the newest one's number."""
    return await _count(objects, "ledger/epochs")


async def claim(objects: Objects, name: str, now: float, *, take_over: bool) -> Holder:
    """Claim the next epoch.

    Raises:
        HeldError: somebody holds the newest, and `take_over` was not asked for.
        FencedError: somebody claimed a newer one meanwhile.
    """
    while True:
        newest = await claimed(objects)
        if newest and not take_over:
            await _refuse_if_held(objects, newest, now)
        us = claimant(newest + 1, name, now)
        with suppress(ExistsError):
            await objects.create(claim_key(us.epoch), us.dump())
            break
    # Whoever claimed an older one will be sealed by us, whoever claimed a newer one seals
    # us: better told now than at the first event.
    if await claimed(objects) > us.epoch:
        raise FencedError(f"{objects.root}: a later batch has taken over")
    return us


async def _refuse_if_held(objects: Objects, epoch: int, now: float) -> None:
    holder = await _last_sign(objects, epoch)
    alive = await asyncio.to_thread(holder.lives, now)
    if alive and not await _is_sealed(objects, holder.batch):
        raise HeldError(f"{objects.root}: {holder.said(now)}")


async def _is_sealed(objects: Objects, batch: str) -> bool:
    count = await _count(objects, f"ledger/{batch}")
    if not count:
        return False
    key = segment_key(batch, count)
    return _read({key: await objects.get(key)})[1]


async def _last_sign(objects: Objects, epoch: int) -> Holder:
    owner = await _owner(objects, epoch)
    try:
        beat = Holder.load(await objects.get(HOLDER), objects.uri(HOLDER))
    except MissingError:
        return owner
    return beat if beat.token == owner.token else owner


async def _owner(objects: Objects, epoch: int) -> Holder:
    key = claim_key(epoch)
    return Holder.load(await objects.get(key), objects.uri(key))


async def written(
    objects: Objects, epoch: int, *, after: Written | None = None
) -> Written:
    """What an epoch holds; `after` is what was read of it before."""
    so_far = after or Written()
    with suppress(MissingError):
        key = volume_key(epoch)
        entries, _ = await asyncio.to_thread(_read, {key: await objects.get(key)})
        return Written(entries=entries, sealed=True, bound=True)
    batch = (await _owner(objects, epoch)).batch
    count = await _count(objects, f"ledger/{batch}")
    keys = [segment_key(batch, n) for n in range(so_far.segments + 1, count + 1)]
    blobs = dict(zip(keys, await each(objects.get, keys), strict=True))
    entries, sealed = await asyncio.to_thread(_read, blobs)
    return Written(entries=[*so_far.entries, *entries], segments=count, sealed=sealed)


async def settled(objects: Objects, epoch: int, seal: Seal) -> Sequence[Entry]:
    """What an older epoch holds, once its owner can write no more."""
    found = await written(objects, epoch)
    batch = "" if found.sealed else (await _owner(objects, epoch)).batch
    while not found.sealed:
        # If the owner was quicker, its segment is there to be read; then once more.
        with suppress(ExistsError):
            await objects.create(segment_key(batch, found.segments + 1), pack([seal]))
        found = await written(objects, epoch, after=found)
    if not found.bound:
        await _bind(objects, epoch, found.entries)
    return found.entries


async def _bind(objects: Objects, epoch: int, entries: Sequence[Entry]) -> None:
    """Keep a sealed epoch as one object, so that reading it takes one request."""
    volume = await asyncio.to_thread(pack, entries)
    # Two who bind at once bind the same entries.
    with suppress(ExistsError):
        await objects.create(volume_key(epoch), volume)


async def _count(objects: Objects, folder: str) -> int:
    """How many objects a folder has, numbered from 1 without a gap."""
    numbers = [_number(stored.key) async for stored in objects.list(folder)]
    if numbers != list(range(1, len(numbers) + 1)):
        # A local folder that is written to while it is read may skip a name: look again.
        numbers = [_number(stored.key) async for stored in objects.list(folder)]
    for expected, number in enumerate(numbers, 1):
        if number != expected:
            raise LedgerError(f"{objects.uri(folder)}: number {expected} is missing")
    return len(numbers)


def _number(key: str) -> int:
    found = re.search(r"/(\d+)\.[a-z.]+$", key)
    if found is None:
        raise LedgerError(f"{key}: not of the ledger")
    return int(found[1])


async def each(ask: Callable[[K], Awaitable[T]], of: Sequence[K]) -> list[T]:
    """Ask the store many things, some at once."""
    found: list[T] = []
    for start in range(0, len(of), _AT_ONCE):
        found += await asyncio.gather(*map(ask, of[start : start + _AT_ONCE]))
    return found


def _read(segments: dict[str, bytes]) -> tuple[list[Entry], bool]:
    records = [one for key, data in segments.items() for one in unpack(data, key)]
    entries = [one for one in records if isinstance(one, Entry)]
    return entries, len(entries) < len(records)
