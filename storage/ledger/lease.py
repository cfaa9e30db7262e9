"""The lease: a claim to the root, renewed by heartbeats.

No two clocks are compared. The store's clock gives the age of a heartbeat. Before a
holder counts as dead, a second run watches it by its own clock, for longer than a live
holder would be silent. So a wrong clock lets no run in, and keeps no run out for good.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from storage import layout
from storage.ledger import conditional_put, fencing, root, segments
from storage.ledger.codec import LedgerError
from storage.ledger.owner import BEAT_S, SILENT_S, Holder, claimant
from storage.ledger.segments import FencedError
from storage.objects import (
    DamagedError,
    ExistsError,
    MissingError,
    Objects,
    ReplacedError,
    StorageError,
)

WATCHED: Final = 1.5
"""Heartbeats for which a silent holder is watched before it counts as dead."""
UNTOLD: Final = SILENT_S / BEAT_S
"""The same if the age of its heartbeat is negative: the store's clock was set back, or
the holder lives and our own test object was slow."""

log = logging.getLogger(__name__)


class HeldError(LedgerError):
    """Another process is writing to this root."""


async def claim(
    objects: Objects,
    name: str,
    clock: Callable[[], float],
    *,
    take_over: bool,
    beat_s: float,
) -> Holder:
    """Claim the next epoch.

    Raises:
        HeldError: somebody holds the newest, and `take_over` was not asked for.
        FencedError: somebody claimed a newer one meanwhile.
        LedgerError: claims are missing, or the store overwrites.
    """
    if not objects.is_pinned:
        await root.open_root(objects, clock)
    while True:
        newest = await segments.claimed(objects)
        # Only now: nothing is written to a damaged root.
        await conditional_put.proved(objects)
        if newest and not take_over:
            await _refuse_if_held(objects, newest, beat_s=beat_s)
        us = claimant(newest + 1, name, clock())
        with suppress(ExistsError):
            await objects.create(layout.claim(us.epoch), us.dump())
            break
    # We seal older epochs, and a newer epoch seals ours: raise now rather than at the
    # first event.
    if await segments.exists(objects, layout.claim(us.epoch + 1)):
        raise FencedError(f"{objects.root}: a later batch has taken over")
    return us


async def keep(
    objects: Objects, us: Holder, clock: Callable[[], float], *, beat_s: float
) -> None:
    """Write heartbeats until a successor has claimed the root: it will seal us.

    Raises:
        ReplacedError: the root was emptied or replaced.
    """
    while True:
        try:
            await objects.refuse_if_replaced()
            if await segments.exists(objects, layout.claim(us.epoch + 1)):
                return
            us = us.beating(clock())
            await objects.put(layout.HOLDER, us.dump())
        except ReplacedError:
            raise
        except StorageError as error:
            log.warning(
                "ledger.heartbeat_missed root=%s another run may take over if this lasts: %s",
                objects.root,
                error,
            )
        await asyncio.sleep(beat_s)


async def watch(objects: Objects, *, beat_s: float) -> None:
    """Check at each heartbeat that the root is still the one that was opened.

    Raises:
        ReplacedError: it was emptied or replaced.
    """
    while True:
        await asyncio.sleep(beat_s)
        try:
            await objects.refuse_if_replaced()
        except ReplacedError:
            raise
        except StorageError:
            # The writes of this run meet the same trouble, and report it.
            continue


async def _refuse_if_held(objects: Objects, epoch: int, *, beat_s: float) -> None:
    sign, key = await _sign(objects, epoch)
    if await asyncio.to_thread(sign.is_gone) or await fencing.is_over(
        objects, sign.batch
    ):
        return
    silent_s = await age(objects, key)
    if not 0 <= silent_s < SILENT_S:
        await asyncio.sleep((UNTOLD if silent_s < 0 else WATCHED) * beat_s)
        if (await _sign(objects, epoch))[0] == sign:
            return
        silent_s = 0.0
    raise HeldError(f"{objects.root}: {sign.description(silent_s)}")


async def _sign(objects: Objects, epoch: int) -> tuple[Holder, str]:
    """The latest heartbeat of an epoch's owner, and its key."""
    owner = await segments.owner(objects, epoch)
    # A heartbeat is written again in ten seconds: a damaged one counts as absent.
    with suppress(MissingError, DamagedError):
        beat = Holder.load(await objects.get(layout.HOLDER), objects.uri(layout.HOLDER))
        if beat.token == owner.token:
            return beat, layout.HOLDER
    return owner, layout.claim(epoch)


async def age(objects: Objects, key: str) -> float:
    """How long ago an object was put, by the store's own clock."""
    probe = layout.clock(secrets.token_hex(8))
    await objects.create(probe, b"{}\n")
    try:
        return await objects.modified(probe) - await objects.modified(key)
    finally:
        # Without permission to delete, the object stays; its content is never read.
        with suppress(StorageError):
            await objects.delete(probe)
