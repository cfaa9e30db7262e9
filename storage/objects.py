"""Objects: bytes under keys, below one root, on any store.

Only what every store does alike is relied on: a put is whole or not there at all, a
create refuses a key that is taken, a list sees what was put.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from obstore.store import LocalStore
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    wait_random_exponential,
)

from storage import files
from storage.errors import (
    ExistsError,
    MissingError,
    StorageError,
    UnavailableError,
    explained,
)
from storage.stores import connect, local_path, signed

if TYPE_CHECKING:
    from obstore import Attributes
    from obstore.store import ObjectStore

__all__ = [
    "ExistsError",
    "MissingError",
    "Objects",
    "StorageError",
    "Stored",
    "UnavailableError",
]

P = ParamSpec("P")
T = TypeVar("T")

_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".mp4": "video/mp4",
}

# Threads of its own: the ledger does not queue behind clips being decoded.
_DISK: Final = ThreadPoolExecutor(4, thread_name_prefix="disk")


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as a list has it."""

    key: str
    size: int
    modified: float
    """Unix seconds, by the store's clock."""


class Objects:
    """The objects below one root URI: file, memory, s3, gs or az, or a local path."""

    def __init__(self, store: "ObjectStore", root: str, *, patience_s: float) -> None:
        self._store = store
        self.root = root
        self._patience_s = patience_s

    @classmethod
    def open(cls, uri: str, *, patience_s: float = 60.0) -> "Objects":
        """The objects below `uri`; what is unavailable is asked for `patience_s` long.

        Raises:
            StorageError: no store has such a URI.
        """
        if "://" not in uri or uri.startswith("file://"):
            folder = local_path(uri)
            with explained(uri):
                return cls(
                    LocalStore(folder, mkdir=True),
                    folder.as_uri(),
                    patience_s=patience_s,
                )
        root = uri.rstrip("/")
        return cls(connect(root), root, patience_s=patience_s)

    def uri(self, key: str) -> str:
        return f"{self.root}/{key}"

    async def create(self, key: str, data: bytes) -> None:
        """Put a new object; its own bytes already there are as good.

        Raises:
            ExistsError: other bytes have the key.
        """
        await self._patiently(self._create, key, data)

    async def put(self, key: str, data: bytes) -> None:
        """Put an object, in the place of whatever has its key."""
        await self._patiently(self._write, key, data, taken_is_fine=True)

    async def get(self, key: str) -> bytes:
        """An object's bytes.

        Raises:
            MissingError: there is no such object.
        """
        return await self._patiently(self._get, key)

    async def list(self, folder: str = "") -> AsyncIterator[Stored]:
        """Every object below a folder, by key."""
        for stored in await self._patiently(self._list, folder):
            yield stored

    async def delete(self, key: str) -> None:
        """Delete an object; one that is not there is as good as deleted."""
        await self._patiently(self._delete, key)

    async def sign(self, key: str, seconds: int) -> str | None:
        """A link that reads the object for so long; None where the store has none."""
        return await asyncio.to_thread(signed, self._store, key, seconds)

    async def _create(self, key: str, data: bytes) -> None:
        try:
            await self._write(key, data, taken_is_fine=False)
        except ExistsError:
            # It may be ours: the answer to an earlier attempt can have been lost.
            if await self._seen(key) != data:
                raise

    async def _seen(self, key: str) -> bytes:
        try:
            return await self._get(key)
        except MissingError:
            raise UnavailableError(f"{self.uri(key)}: there and not there") from None

    async def _write(self, key: str, data: bytes, *, taken_is_fine: bool) -> None:
        name = _checked(key)
        with explained(self.uri(key)):
            if isinstance(self._store, LocalStore):
                write = files.replace if taken_is_fine else files.create
                path = local_path(self.root) / name
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(_DISK, write, path, data)
                return
            await self._store.put_async(
                name,
                data,
                mode="overwrite" if taken_is_fine else "create",
                use_multipart=False,
                attributes=_attributes(key),
            )

    async def _get(self, key: str) -> bytes:
        with explained(self.uri(key)):
            found = await self._store.get_async(key)
            return bytes(await found.bytes_async())

    async def _list(self, folder: str) -> Sequence[Stored]:
        found: list[Stored] = []
        with explained(self.uri(folder)):
            pages = self._store.list(folder or None, chunk_size=1000)  # pyright: ignore[reportUnknownMemberType] - arro3's, not installed
            async for page in pages:
                found += [
                    Stored(x["path"], x["size"], x["last_modified"].timestamp())
                    for x in page
                ]
        return sorted(found, key=lambda stored: stored.key)

    async def _delete(self, key: str) -> None:
        try:
            with explained(self.uri(key)):
                await self._store.delete_async(key)
        except MissingError:
            return

    async def _patiently(
        self,
        ask: Callable[P, Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(UnavailableError),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            # A single answer may take longer than all our patience.
            stop=stop_all(stop_after_attempt(3), stop_after_delay(self._patience_s)),
            reraise=True,
        ):
            with attempt:
                return await ask(*args, **kwargs)
        raise AssertionError("tenacity returns or raises")


def _attributes(key: str) -> "Attributes":
    media_type = _MEDIA_TYPES.get(PurePosixPath(key).suffix)
    return {} if media_type is None else {"Content-Type": media_type}


def _checked(key: str) -> str:
    # Names with # are a local store's drafts, which no list shows.
    if "#" in key or ".." in key.split("/"):
        raise ValueError(f"{key!r} cannot be a key")
    return key
