"""Hands a still to a provider: checks it, then links, signs or uploads it."""

import asyncio
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from manifests.jobs import Order
from storage import sources
from storage.media import Still, stills
from storage.source_policy import TRUSTING, SourcePolicy
from storage.sources import TooLargeError
from tasks.dispatch import HandsOver, Lane
from tasks.providers.http import Clients, OnFailure, upload

SIGNED_FOR_S: Final = 6 * 3600
"""How long the link to a signed still is valid: longer than any queue."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A still that a provider would take when it was checked."""

    order: Order
    still: Still


async def check(
    order: Order, *, min_px: int, convert: bool, policy: SourcePolicy = TRUSTING
) -> Checked:
    """Read and check a still, before any money moves; convert it if that is wished.

    Raises:
        OpeningError: it cannot be read.
        BadStillError: no provider would take it.
    """

    def look() -> Still:
        # Its own copy of an embedded still is not a place that the manifest names.
        embedded = order.job.image.startswith("sha256:")
        allowed = TRUSTING if embedded else policy

        def read(max_bytes: int) -> Still:
            content = sources.read(order.still, max_bytes, allowed)
            name = order.job.image.rpartition("/")[2]
            return stills.look(content, name=name, min_px=min_px, convert=convert)

        try:
            return read(stills.LARGEST)
        except TooLargeError:
            # Wait outside of this block: the error refers to the bytes that were read.
            pass
        with stills.LARGE:
            return read(stills.LARGEST_READ)

    return Checked(order, await asyncio.to_thread(look))


async def hand_over(
    checked: Checked, lane: Lane, clients: Clients, on_failure: OnFailure
) -> str:
    """Return a URL at which the lane's provider can read the still.

    `on_failure` receives the error of each upload that is repeated.

    Raises:
        ProviderError: the upload was refused, or could not be made.
    """
    way = lane.hands_over or _way(checked)
    if way == "link" and not checked.still.changed:
        return checked.order.still
    if way == "presign" and not checked.still.changed:
        signed = await asyncio.to_thread(
            sources.presign, checked.order.still, SIGNED_FOR_S
        )
        if signed is not None:
            return signed
    return await upload(clients, lane.endpoint, checked.still, on_failure=on_failure)


def _way(checked: Checked) -> HandsOver:
    match urlsplit(checked.order.still).scheme:
        case "https":
            return "link"
        case "s3" | "gs" | "az":
            return "presign"
        case _:
            return "upload"
