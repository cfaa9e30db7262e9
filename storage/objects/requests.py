"""Sends single requests to a store, and translates its answers and errors."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from storage.objects.connect import Store, refuse_forks
from storage.objects.errors import MissingError, StorageError, explained
from storage.objects.payloads import LARGE, Body, attributes

if TYPE_CHECKING:
    from obstore import ObjectMeta

PIECE: Final = 8 << 20
"""Bytes of a large object in one request."""

Mode = Literal["create", "overwrite"]


@dataclass(frozen=True, slots=True)
class Stored:
    """An object in a list."""

    key: str
    size: int
    modified: float
    """Unix seconds, by the store's clock."""
    e_tag: str | None
    """The store's tag of these bytes; other bytes have another tag."""


@dataclass(frozen=True, slots=True)
class Requests:
    """A store below a root; `roomy` is the same one, with time for large requests."""

    store: Store
    root: str
    roomy: Callable[[], Store]

    def uri(self, key: str) -> str:
        return f"{self.root}/{key}"

    async def write(self, key: str, data: Body, mode: Mode) -> str | None:
        """Put an object; its ETag.

        Raises:
            StorageError: the store refuses, or has no such bucket or folder.
        """
        large = isinstance(data, memoryview) and len(data) > LARGE
        name, store = _checked(key), self.roomy() if large else self.store
        try:
            with self._asking(key):
                put = await store.put_async(
                    name,
                    data,
                    mode=mode,
                    # Large files only: they are sent in parts, and read as they are sent.
                    use_multipart=isinstance(data, Path),
                    attributes=attributes(key),
                    chunk_size=PIECE,
                    max_concurrency=4,
                )
        except MissingError:
            # Not an answer about an object: `MissingError` is one that is read.
            where = self.uri(key)
            raise StorageError(f"{where}: no such bucket, folder or source") from None
        return put["e_tag"]

    async def get(self, key: str) -> bytes:
        with self._asking(key):
            found = await self.store.get_async(key)
            return bytes(await found.bytes_async())

    async def head(self, key: str) -> "ObjectMeta":
        with self._asking(key):
            return await self.store.head_async(key)

    async def piece(self, key: str, start: int, of: "ObjectMeta") -> bytes:
        """Some of an object's bytes, if it is still the one that `of` is about."""
        end = min(start + PIECE, of["size"])
        with self._asking(key):
            found = await self.store.get_async(
                key, options={"range": (start, end), "if_match": of["e_tag"]}
            )
            return bytes(await found.bytes_async())

    async def list(self, folder: str) -> Sequence[Stored]:
        found: list[Stored] = []
        with self._asking(folder):
            async for page in self._pages(folder):
                found += map(_stored, page)
        return sorted(found, key=lambda stored: stored.key)

    async def first(self, folder: str) -> Sequence[Stored]:
        """The first page of a list."""
        with self._asking(folder):
            async for page in self._pages(folder):
                return [*map(_stored, page)]
        return []

    async def folders(self, folder: str) -> Sequence[str]:
        with self._asking(folder):
            found = await self.store.list_with_delimiter_async(folder)
        names = (path.rpartition("/")[2] for path in found["common_prefixes"])
        return sorted(names)

    def _pages(self, folder: str) -> "AsyncIterator[Sequence[ObjectMeta]]":
        # No `offset`: Azure's emulator ignores it.
        return self.store.list(folder or None, chunk_size=1000)

    async def delete(self, key: str) -> None:
        try:
            with self._asking(key):
                await self.store.delete_async(key)
        except MissingError:
            return

    def _asking(self, key: str) -> AbstractContextManager[None]:
        refuse_forks()
        return explained(self.uri(key))


def _stored(found: "ObjectMeta") -> Stored:
    at = found["last_modified"].timestamp()
    return Stored(found["path"], found["size"], at, found["e_tag"])


def _checked(key: str) -> str:
    # Names with # are a local store's drafts, which no list shows.
    if "#" in key or ".." in key.split("/"):
        raise ValueError(f"{key!r} cannot be a key")
    return key
