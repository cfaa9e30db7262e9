"""The lease: a claim to the root, kept by signs of life.

Nobody's clock is compared with another's. How old a sign is, the store's clock tells; and
before a holder is believed to be dead it is watched, by our own clock, for longer than
it would be silent if it lived. So a clock that is wrong lets nobody in, and keeps nobody
out for good.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from storage import layout
from storage.ledger import conditional_put, fencing, segments
from storage.ledger.codec import LedgerError
from storage.ledger.owner import BEAT_S, SILENT_S, Holder, claimant
from storage.ledger.segments import FencedError
from storage.objects.client import (
    DamagedError,
    ExistsError,
    MissingError,
    Objects,
    StorageError,
)

WATCHED: Final = 1.5
"""Beats for which a silent holder is watched before it is believed to be dead..."""
UNTOLD: Final = SILENT_S / BEAT_S
"""... and for which one is whose silence nobody can tell: its sign is younger than our
knock, because the store's clock was set back, or because it lives and our knock was slow."""

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
    while True:
        newest = await segments.claimed(objects)
        # Only now: on a root that is damaged nothing is written.
        await conditional_put.proved(objects)
        if newest and not take_over:
            await _refuse_if_held(objects, newest, clock, beat_s=beat_s)
        us = claimant(newest + 1, name, clock())
        with suppress(ExistsError):
            await objects.create(layout.claim(us.epoch), us.dump())
            break
    # Whoever claimed an older one will be sealed by us, whoever claimed a newer one seals
    # us: better told now than at the first event.
    if await segments.exists(objects, layout.claim(us.epoch + 1)):
        raise FencedError(f"{objects.root}: a later batch has taken over")
    return us


async def keep(
    objects: Objects, us: Holder, clock: Callable[[], float], *, beat_s: float
) -> None:
    """Give signs of life until a successor has claimed the root: it will seal us."""
    while True:
        try:
            if await segments.exists(objects, layout.claim(us.epoch + 1)):
                return
            us = us.beating(clock())
            await objects.put(layout.HOLDER, us.dump())
        except StorageError as error:
            log.warning(
                "ledger.heartbeat_missed root=%s another run may take over if this lasts: %s",
                objects.root,
                error,
            )
        await asyncio.sleep(beat_s)


async def _refuse_if_held(
    objects: Objects, epoch: int, clock: Callable[[], float], *, beat_s: float
) -> None:
    sign, key = await _sign(objects, epoch)
    if await asyncio.to_thread(sign.is_gone) or await fencing.is_over(
        objects, sign.batch
    ):
        return
    silent_s = await _age(objects, key)
    if not 0 <= silent_s < SILENT_S:
        await asyncio.sleep((UNTOLD if silent_s < 0 else WATCHED) * beat_s)
        if (await _sign(objects, epoch))[0] == sign:
            return
        silent_s = 0.0
    raise HeldError(f"{objects.root}: {sign.said(clock(), silent_s)}")


async def _sign(objects: Objects, epoch: int) -> tuple[Holder, str]:
    """The latest sign of life of an epoch's owner, and where it is."""
    owner = await segments.owner(objects, epoch)
    # A sign of life is written again in ten seconds: a damaged one is as good as none.
    with suppress(MissingError, DamagedError):
        beat = Holder.load(await objects.get(layout.HOLDER), objects.uri(layout.HOLDER))
        if beat.token == owner.token:
            return beat, layout.HOLDER
    return owner, layout.claim(epoch)


async def _age(objects: Objects, key: str) -> float:
    """How long ago an object was put, by the store's own clock."""
    knock = layout.knock(secrets.token_hex(8))
    await objects.create(knock, b"{}\n")
    try:
        return await objects.modified(knock) - await objects.modified(key)
    finally:
        # Who may not delete leaves it there: it says nothing, and nobody minds it.
        with suppress(StorageError):
            await objects.delete(knock)
