"""A local folder as a store: obstore reads it, and our own writes survive a power cut.

obstore's local writes are complete, but not synced to the disk (0.12.1, by strace).
"""

import asyncio
import errno
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from obstore.store import LocalStore

from storage.objects import local

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ListResult, ObjectMeta, PutResult

T = TypeVar("T")

# A separate pool, so that the ledger does not queue behind clips being decoded.
_DISK: Final = ThreadPoolExecutor(4, thread_name_prefix="disk")


class Folder:
    """The files below a folder, which is never made here.

    Each request makes sure that the folder is still the one that was opened. If it was
    moved away, unmounted or replaced, the store is unavailable until it is back.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = LocalStore(folder)
        self._same = _Same(folder)

    async def put_async(
        self, path: str, file: Any, *, mode: str = "overwrite", **_: Any
    ) -> "PutResult":
        await self._on_disk(self._put, path, file, mode)
        return {"e_tag": None, "version": None}

    def _put(self, path: str, file: Any, mode: str) -> None:
        write = local.create if mode == "create" else local.replace
        write(self._folder / path, file, root=self._folder)
        if mode == "create" and not isinstance(file, Path):
            self._same.created(path, bytes(file))

    async def get_async(
        self, path: str, *, options: "GetOptions | None" = None
    ) -> "GetResult":
        return await self._asked(self._store.get_async(path, options=options))

    async def head_async(self, path: str) -> "ObjectMeta":
        return await self._asked(self._store.head_async(path))

    async def list(
        self, prefix: str | None = None, *, chunk_size: int = 50
    ) -> "AsyncIterator[Sequence[ObjectMeta]]":
        await self._on_disk()
        async for page in self._store.list(prefix, chunk_size=chunk_size):  # pyright: ignore[reportUnknownMemberType] - arro3's, not installed
            yield page
        await self._on_disk()

    async def list_with_delimiter_async(
        self, prefix: str | None = None
    ) -> "ListResult[Sequence[ObjectMeta]]":
        return await self._asked(self._store.list_with_delimiter_async(prefix))  # pyright: ignore[reportUnknownMemberType] - arro3's, not installed

    async def delete_async(self, paths: str) -> None:
        await self._on_disk(self._delete, paths)

    def _delete(self, path: str) -> None:
        self._same.deleted(path)
        (self._folder / path).unlink()

    async def _asked(self, answer: Awaitable[T]) -> T:
        """An answer, if it is of the folder that was opened."""
        try:
            return await answer
        finally:
            # A missing file may mean that the folder itself is gone.
            await self._on_disk()

    async def _on_disk(self, do: Callable[..., None] | None = None, *args: Any) -> None:
        def work() -> None:
            self._same.refuse_if_gone()
            if do is not None:
                try:
                    do(*args)
                finally:
                    # A write that went to a replaced folder does not count.
                    self._same.refuse_if_gone()

        await asyncio.get_running_loop().run_in_executor(_DISK, work)


class _Same:
    """Tells whether the folder at a path is the one that was opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open()
        self._created: list[tuple[str, bytes]] = []
        """The last two files of ours, and the SHA-256 of each."""

    def created(self, path: str, data: bytes) -> None:
        self._created = [*self._created[-1:], (path, sha256(data).digest())]

    def deleted(self, path: str) -> None:
        self._created = [one for one in self._created if one[0] != path]

    def refuse_if_gone(self) -> None:
        """Raise an error unless it is there.

        Raises:
            OSError: ESTALE, which passes when it is back.
        """
        if self._is_there() or self._is_back():
            return
        why = os.strerror(errno.ESTALE)
        raise OSError(errno.ESTALE, why, str(self._folder))

    def _is_there(self) -> bool:
        try:
            found = self._folder.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._known

    def _is_back(self) -> bool:
        """Whether it was mounted again: under other numbers, with our last file in it."""
        if not self._created:
            return False
        path, digest = self._created[-1]
        try:
            if sha256((self._folder / path).read_bytes()).digest() != digest:
                return False
            self._open()
        except OSError:
            return False
        return True

    def _open(self) -> None:
        # While it is open, no other folder gets its inode number.
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        found = os.fstat(handle)
        self._known = found.st_dev, found.st_ino
        weakref.finalize(self, os.close, handle)
