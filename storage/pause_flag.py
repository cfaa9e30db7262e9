"""The pause of a root: an object that is there for as long as nothing is to be bought.

It belongs to no run: whoever is at work on the root heeds it, and so does whoever comes
next. That it is there is what counts; what it says is for people.
"""

import json
from typing import Final

from storage.objects.client import ExistsError, MissingError, Objects

KEY: Final = "paused.json"


async def paused(objects: Objects) -> float | None:
    """Since when it is so, if it is: Unix seconds, by the store's clock."""
    try:
        return await objects.modified(KEY)
    except MissingError:
        return None


async def pause(objects: Objects, by: str) -> bool:
    """Have nothing bought below this root from now on; False if it was so already."""
    try:
        await objects.create(KEY, json.dumps({"by": by}).encode())
    except ExistsError:
        return False
    return True


async def resume(objects: Objects) -> bool:
    """Have it bought again; False if it was so already."""
    was = await paused(objects)
    await objects.delete(KEY)
    return was is not None
