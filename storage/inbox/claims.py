"""The register of an inbox: which versions of manifests are taken, and which are over.

It lies below the root whose clips they are, not in the inbox: we may always write there,
and two roots may have the same inbox. Every entry is created once or not at all, so of
any number of runs one takes a version.

    inbox/claimed/<digest>.json   the run that claimed it: no other run begins
    inbox/done/<digest>.json      `nightreel watch` has seen it to its end
"""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from manifests.input import ManifestError
from storage import layout
from storage.inbox.listing import Drop, digest
from storage.objects import ExistsError, MissingError, Objects, UnavailableError


@dataclass(frozen=True, slots=True)
class Standing:
    """The versions on record, by their digests."""

    taken: Collection[str]
    over: Collection[str]

    def is_free(self, drop: Drop) -> bool:
        """Whether a version may be taken."""
        return drop.digest not in self.taken and drop.digest not in self.over


class Register:
    """The register below one root."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def standing(self) -> Standing:
        taken: set[str] = set()
        over: set[str] = set()
        async for stored in self._objects.list(layout.INBOX):
            if found := layout.INBOX_ENTRY.fullmatch(stored.key):
                names = taken if found["state"] == "claimed" else over
                names.add(found["digest"])
        return Standing(taken, over)

    async def take(self, uri: str, version: str, by: str) -> str | None:
        """Take a version; None if it is ours now or was before, else the name of its taker."""
        key = _taken(uri, version)
        try:
            await self._objects.create(key, _said(uri, version, by))
        except ExistsError:
            return await self._taker(key)
        return None

    async def give_back(self, uri: str, version: str) -> None:
        """Give back a version that this run has taken."""
        await self._objects.delete(_taken(uri, version))

    async def close(self, drop: Drop) -> None:
        """Put on record that a version was seen to its end."""
        key = layout.inbox_done(drop.digest)
        await self._objects.create(key, _said(drop.uri, drop.version, ""))

    async def _taker(self, key: str) -> str:
        try:
            return str(json.loads(await self._objects.get(key))["by"])
        except MissingError:
            raise UnavailableError(
                f"{self._objects.uri(key)}: just given back"
            ) from None


class Claim:
    """A run's claim to a version of a manifest."""

    def __init__(self, taken_by: str | None = None) -> None:
        self.taken_by = taken_by
        """The other run that has it; None if this one may begin."""
        self.begun = False
        """Whether the run has begun; then a failure does not give the version back."""
        self.left = False
        """Whether the run stopped early, so that another run may continue."""


@asynccontextmanager
async def claimed(
    open_root: Callable[[], Awaitable[Objects]], uri: str, version: str | None, by: str
) -> AsyncGenerator[Claim]:
    """Take a version for a run. The run gives it back if it fails before it has begun, or
    if it leaves it to another run.

    Then another run is started for it. A bad manifest is not given back: it stays bad
    until it changes. Without a version there is nothing to claim.
    """
    if version is None:
        yield Claim()
        return
    register = Register(await open_root())
    claim = Claim(await register.take(uri, version, by))
    try:
        yield claim
    except ManifestError:
        raise
    except Exception:
        claim.left = claim.left or not claim.begun
        raise
    finally:
        if claim.left and claim.taken_by is None:
            await register.give_back(uri, version)


def _taken(uri: str, version: str) -> str:
    return layout.inbox_claimed(digest(uri, version))


def _said(uri: str, version: str, by: str) -> bytes:
    return json.dumps({"by": by, "uri": uri, "version": version}).encode()
