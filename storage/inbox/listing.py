"""An inbox: the manifests that people drop below a URI, and their versions.

A manifest counts once it is whole: when it has not changed between two looks, or, if its
writer marks what is done, when `_SUCCESS` stands in its folder or `NAME.ready` beside it.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote

from storage import layout
from storage.objects import Objects, StorageError, Stored

PARQUET: Final = "*.parquet"
SETTLE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Drop:
    """One version of a manifest."""

    uri: str
    version: str
    size: int

    @property
    def digest(self) -> str:
        return digest(self.uri, self.version)


def digest(uri: str, version: str) -> str:
    """The name of a manifest's version in object keys: a digest of its URI and version."""
    return hashlib.sha256(f"{uri}\n{version}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """The manifests below a URI."""

    objects: Objects
    pattern: str = PARQUET
    marked: bool = False
    """Whether a manifest counts as whole only if it has its marker."""

    @classmethod
    def open(
        cls, uri: str, root: str, *, pattern: str = PARQUET, marked: bool = False
    ) -> "Inbox":
        """The manifests below a URI, whose clips are to go under a root.

        Raises:
            StorageError: there is no such folder, or the root lies in it.
        """
        objects = Objects.open(uri)
        if f"{root.rstrip('/')}/{layout.INBOX}/".startswith(f"{objects.root}/"):
            why = "the root lies in it, whose tables would be taken for manifests"
            raise StorageError(f"{uri}: {why}: {root}")
        return cls(objects=objects, pattern=pattern, marked=marked)

    async def drops(self) -> list[Drop]:
        """The manifests found, the oldest first; with `marked`, only whole ones."""
        stored = [one async for one in self.objects.list()]
        found = sorted(manifests(stored, self.pattern), key=lambda one: one.modified)
        if self.marked:
            found = done(found, {one.key: one for one in stored})
        return [self._drop(one) for one in found]

    async def whole(
        self,
        drops: Sequence[Drop],
        settle_s: float,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> list[Drop]:
        """Those that are whole: marked, or unchanged at a second look, `settle_s` later."""
        if self.marked or not drops:
            return [*drops]
        await sleep(settle_s)
        still = {*await self.drops()}
        return [drop for drop in drops if drop in still]

    def _drop(self, stored: Stored) -> Drop:
        local = self.objects.root.startswith("file:")
        return Drop(
            uri=self.objects.uri(quote(stored.key) if local else stored.key),
            version=_stamp(stored) if local else _named(stored),
            size=stored.size,
        )


def manifests(stored: Iterable[Stored], pattern: str) -> list[Stored]:
    """Those whose name matches the pattern, without hidden and temporary files."""
    return [one for one in stored if _is_one(PurePosixPath(one.key), pattern)]


def done(found: Iterable[Stored], there: Mapping[str, Stored]) -> list[Stored]:
    """Those with a marker that is no older than they are."""
    return [one for one in found if any(_marks(one, there.get(m)) for m in _by(one))]


def _is_one(path: PurePosixPath, pattern: str) -> bool:
    # Spark, Hadoop and Arrow write to _temporary, and mark other non-data files this way.
    hidden = any(part.startswith(("_", ".")) for part in path.parts)
    return not hidden and fnmatchcase(path.name, pattern)


def _by(one: Stored) -> tuple[str, str]:
    return f"{one.key}.ready", str(PurePosixPath(one.key).with_name("_SUCCESS"))


def _marks(one: Stored, marker: Stored | None) -> bool:
    return marker is not None and marker.modified >= one.modified


def _named(stored: Stored) -> str:
    return stored.e_tag.strip('"') if stored.e_tag else _stamp(stored)


def _stamp(stored: Stored) -> str:
    # obstore's tag of a local file includes the inode (0.12.1), which changes when
    # rsync or mv writes the same file again.
    return f"{stored.size}-{round(stored.modified * 1e6)}"
