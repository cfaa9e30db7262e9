"""Verifies published clips: whether each clip and sidecar is still there, and whole.

It reads the ledger and lists the clips. Only `deep` downloads them, to compare digests.
"""

import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from manifests.lifecycle import Facts, History, State
from storage import layout
from storage.ledger import histories
from storage.objects import MissingError, Objects
from tasks.restore import tells


@dataclass(frozen=True, slots=True, kw_only=True)
class BadClip:
    """A published clip, or its sidecar, that is not what the ledger says."""

    job: str
    key: str
    problem: str
    provider: str | None
    remote_id: str | None
    """The provider's id of the clip, which it may still have."""


@dataclass(slots=True, kw_only=True)
class Verified:
    """The result of a verification."""

    clips: int = 0
    """Published clips on record."""
    bad: list[BadClip] = field(default_factory=list[BadClip])
    lives: dict[str, History] = field(default_factory=dict[str, History])
    """The jobs of `bad`, with their histories."""


async def verified(objects: Objects, *, deep: bool) -> Verified:
    """Compare every published clip with the ledger.

    Raises:
        LedgerError, StorageError: the ledger or the store cannot be read.
    """
    told = Verified()
    # The ledger first: a clip that is published meanwhile is not looked for.
    lives = await histories(objects)
    sizes = {stored.key: stored.size async for stored in objects.list(layout.CLIPS)}
    for job, history in lives.items():
        if history.state is not State.PUBLISHED or history.facts is None:
            continue
        told.clips += 1
        async for key, problem in _problems(objects, job, history.facts, sizes, deep):
            told.bad.append(_bad(job, history, key, problem))
            told.lives[job] = history
    return told


async def _problems(
    objects: Objects,
    job: str,
    facts: Facts,
    sizes: Mapping[str, int],
    deep: bool,  # noqa: FBT001 - private
) -> AsyncIterator[tuple[str, str]]:
    clip, sidecar = layout.clip(job, "mp4"), layout.clip(job, "json")
    if problem := problem_of(clip, sizes, facts.bytes):
        yield clip, problem
    elif deep and await _digest(objects, clip) != facts.sha256:
        yield clip, "its SHA-256 is not the one on record"
    if problem := problem_of(sidecar, sizes):
        yield sidecar, problem
    elif deep and not await _tells(objects, sidecar, facts):
        yield sidecar, "it does not tell of this clip"


def problem_of(
    key: str, sizes: Mapping[str, int], size: int | None = None
) -> str | None:
    """The visible fault of an object, by the sizes in a list; `size` is the one on record."""
    if key not in sizes:
        return "missing"
    if not sizes[key]:
        return "empty"
    if size is not None and sizes[key] != size:
        return f"{sizes[key]:,} of {size:,} bytes"
    return None


async def _digest(objects: Objects, key: str) -> str | None:
    with tempfile.TemporaryDirectory(prefix="nightreel-") as folder:
        try:
            return await objects.get_file(key, Path(folder) / "clip")
        except MissingError:
            return None


async def _tells(objects: Objects, key: str, facts: Facts) -> bool:
    try:
        return tells(await objects.get(key), facts)
    except MissingError:
        return False


def _bad(job: str, history: History, key: str, problem: str) -> BadClip:
    ticket = history.ticket
    return BadClip(
        job=job,
        key=key,
        problem=problem,
        provider=None if ticket is None else ticket.provider,
        remote_id=None if ticket is None else ticket.id,
    )
