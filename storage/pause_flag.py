"""The pause flag of a root: while the object exists, nothing is bought.

It belongs to no run: the current run and later runs obey it. Only its existence counts;
its content is for people.
"""

import json

from storage import layout
from storage.objects import ExistsError, MissingError, Objects


async def paused(objects: Objects) -> float | None:
    """The time when the root was paused, or None: Unix seconds, by the store's clock."""
    try:
        return await objects.modified(layout.PAUSED)
    except MissingError:
        return None


async def pause(objects: Objects, by: str) -> bool:
    """Stop buying below this root; False if it was paused already."""
    try:
        await objects.create(layout.PAUSED, json.dumps({"by": by}).encode())
    except ExistsError:
        return False
    return True


async def resume(objects: Objects) -> bool:
    """Allow buying again; False if the root was not paused."""
    was = await paused(objects)
    await objects.delete(layout.PAUSED)
    return was is not None
