"""Finds clips of earlier runs that are gone from the store or cut, and brings them back.

A run looks at the rows of its manifest that were published before it began. It lists each
of the 256 folders of clips that holds some of them, or sends a HEAD where these are few.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from manifests.job_keys import KEY
from manifests.lifecycle import History, State
from storage import layout
from storage.ledger import Told
from storage.objects import Objects
from tasks.dispatch import Lane
from tasks.engine.environment import World
from tasks.restore import restored
from tasks.verify import problem_of

FEW: Final = 4
"""The most clips in a folder that are looked at one by one: the folder may hold far more."""

AT_ONCE: Final = 16
"""Folders that are looked at, at the same time."""

_SLICE: Final = 50_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gone:
    """Clips of earlier runs that were gone or cut when the run ended."""

    restored: int = 0
    """Those that were brought back."""
    left: int = 0
    """Those that could not be brought back."""


async def brought_back(  # noqa: PLR0913 - the last ones are by name
    objects: Objects,
    wanted: pl.DataFrame,
    told: Told,
    *,
    before: float,
    lanes: Iterable[Lane],
    world: World,
) -> Gone:
    """Bring back the clips among the wanted rows that were published before a time.

    Raises:
        StorageError: the store is out of reach.
    """
    gone: dict[str, History] = {}
    for some in wanted.select(*KEY).iter_slices(_SLICE):
        histories = await asyncio.to_thread(told.histories, some)
        gone |= await _gone(objects, _published(histories, before))
    if not gone:
        return Gone()
    log.warning("clips.gone clips=%d they are fetched again if possible", len(gone))
    again = await restored(objects, gone, lanes, world)
    return Gone(restored=len(again.restored), left=len(again.lost))


def _published(histories: Mapping[str, History], before: float) -> dict[str, History]:
    return {
        job: history
        for job, history in histories.items()
        if history.state is State.PUBLISHED and (history.published_at or 0.0) < before
    }


async def _gone(
    objects: Objects, published: Mapping[str, History]
) -> dict[str, History]:
    """Those of these jobs whose clip or sidecar is gone, empty or shorter than on record."""
    folders = defaultdict[str, list[str]](list)
    for job in published:
        folders[layout.clip(job, "mp4").rpartition("/")[0]].append(job)
    free = asyncio.Semaphore(AT_ONCE)

    async def look(folder: str, jobs: list[str]) -> list[str]:
        async with free:
            sizes = await _sizes(objects, folder, jobs)
        return [job for job in jobs if _is_gone(job, published[job], sizes)]

    looks = [look(folder, jobs) for folder, jobs in folders.items()]
    found = await asyncio.gather(*looks)
    return {job: published[job] for jobs in found for job in jobs}


async def _sizes(objects: Objects, folder: str, jobs: list[str]) -> dict[str, int]:
    if len(jobs) > FEW:
        return {stored.key: stored.size async for stored in objects.list(folder)}
    names = [layout.clip(job, suffix) for job in jobs for suffix in ("mp4", "json")]
    sizes = {name: await objects.size(name) for name in names}
    return {name: size for name, size in sizes.items() if size is not None}


def _is_gone(job: str, history: History, sizes: Mapping[str, int]) -> bool:
    clip, sidecar = layout.clip(job, "mp4"), layout.clip(job, "json")
    size = None if history.facts is None else history.facts.bytes
    # A longer one is no cut clip: its owner has put it there.
    longer = size is not None and sizes.get(clip, 0) > size
    if problem_of(sidecar, sizes):
        return True
    return not longer and problem_of(clip, sizes, size) is not None
