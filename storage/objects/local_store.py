"""A local folder as a store: obstore reads it, and what is written survives a power cut.

obstore's own local writes are whole, but are not synced to the disk (0.12.1, by strace).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from obstore.store import LocalStore

from storage.objects import local

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ListResult, ObjectMeta, PutResult

# Threads of its own: the ledger does not queue behind clips being decoded.
_DISK: Final = ThreadPoolExecutor(4, thread_name_prefix="disk")


class Folder:
    """The files below a folder, which is made if it is not there."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            local.make(folder)
        self._folder = folder
        self._store = LocalStore(folder)

    async def put_async(
        self, path: str, file: Any, *, mode: str = "overwrite", **_: Any
    ) -> "PutResult":
        write = local.create if mode == "create" else local.replace
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(_DISK, write, self._folder / path, file)
        return {"e_tag": None, "version": None}

    async def get_async(
        self, path: str, *, options: "GetOptions | None" = None
    ) -> "GetResult":
        return await self._store.get_async(path, options=options)

    async def head_async(self, path: str) -> "ObjectMeta":
        return await self._store.head_async(path)

    def list(
        self, prefix: str | None = None, *, chunk_size: int = 50
    ) -> "AsyncIterator[Sequence[ObjectMeta]]":
        return self._store.list(prefix, chunk_size=chunk_size)  # pyright: ignore[reportUnknownMemberType] - arro3's, not installed

    async def list_with_delimiter_async(
        self, prefix: str | None = None
    ) -> "ListResult[Sequence[ObjectMeta]]":
        return await self._store.list_with_delimiter_async(prefix)  # pyright: ignore[reportUnknownMemberType] - arro3's, not installed

    async def delete_async(self, paths: str) -> None:
        await self._store.delete_async(paths)
