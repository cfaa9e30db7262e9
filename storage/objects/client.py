"""Objects: bytes under keys, below one root, on any store.

It relies only on guarantees of every store: a put is complete or absent, a create
refuses a key that exists, a list shows everything that was put.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Sequence,
)
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar
from urllib.parse import urlsplit

from storage.objects.connect import REMOTE, Store, connect, local_path
from storage.objects.errors import (
    ExistsError,
    MissingError,
    ReplacedError,
    UnavailableError,
)
from storage.objects.payloads import Body, at_once, in_parts, is_another, mapped
from storage.objects.requests import PIECE, Mode, Requests, Stored
from storage.objects.retry import Outage, Retry, RetryPolicy

_POLICY: Final = RetryPolicy()

_TAGGED: Final = {"s3", "gs"}
"""The schemes of stores whose ETag is the MD5 of the content, unless a key of the customer
encrypts it. Azure's is not: there only TLS protects a put (obstore 0.12.1)."""

P = ParamSpec("P")
T = TypeVar("T")


class Objects:
    """The objects below one root URI: file, memory, s3, gs or az, or a local path."""

    def __init__(
        self,
        store: Store,
        root: str,
        *,
        retry: RetryPolicy = _POLICY,
        roomy: Callable[[], Store] | None = None,
    ) -> None:
        self.root = root
        self._scheme = urlsplit(root).scheme
        self._requests = Requests(store, root, roomy or (lambda: store))
        self._policy = retry
        self._retry = Retry(root)
        self._pinned: tuple[str, bytes] | None = None
        self._tagged = self._scheme in _TAGGED

    @property
    def outage(self) -> Outage | None:
        """The store's outage, if it is unavailable now."""
        return self._retry.outage

    @classmethod
    def open(cls, uri: str, *, retry: RetryPolicy = _POLICY) -> "Objects":
        """The objects below `uri`; failed requests are repeated by the policy `retry`.

        Raises:
            StorageError: no store has such a URI.
        """
        local = "://" not in uri or uri.startswith("file://")
        root = local_path(uri).as_uri() if local else uri.rstrip("/")
        roomy = partial(connect, root, roomy=True)
        return cls(connect(root), root, retry=retry, roomy=roomy)

    @property
    def remote(self) -> bool:
        """Whether a request costs money, and a round trip."""
        return self._scheme in REMOTE

    def uri(self, key: str) -> str:
        return self._requests.uri(key)

    @property
    def is_pinned(self) -> bool:
        return self._pinned is not None

    def pin(self, key: str, data: bytes) -> None:
        """Hold the root to an object of it: after an outage, no request is repeated unless
        the object still has these bytes."""
        self._pinned = key, data
        self._retry.before_repeat = self.refuse_if_replaced

    async def refuse_if_replaced(self) -> None:
        """Check, with one request that is not repeated, that the pinned object is the same.

        Raises:
            ReplacedError: it is not, at two looks: the root was emptied or replaced.
            UnavailableError: the store is out of reach.
        """
        if self._pinned is None:
            return
        key, data = self._pinned
        for _ in range(2):
            try:
                if await self._requests.get(key) == data:
                    return
            except MissingError:
                continue
        raise ReplacedError(
            f"{self.uri(key)}: not the one that this run opened: the root was emptied or "
            "replaced meanwhile; restore it before the next run, or clips are bought again"
        )

    async def create(
        self, key: str, data: bytes, *, retry: RetryPolicy | None = None
    ) -> None:
        """Put a new object; succeeds if the key has the same bytes already.

        `retry` is the policy of this request, if not that of the others.

        Raises:
            ExistsError: other bytes have the key.
        """
        await self._retry.ask(retry or self._policy, self._create, key, data)

    async def create_file(self, key: str, path: Path) -> None:
        """Put a file as a new object: one request, however large, and little memory.

        Raises:
            ExistsError: other bytes have the key.
        """
        data = await asyncio.to_thread(at_once, path, self._scheme)
        await self._ask(self._create, key, data)

    async def put(self, key: str, data: bytes) -> None:
        """Put an object; replaces an existing one."""
        await self._ask(self._write, key, data, "overwrite")

    async def put_file(self, key: str, path: Path) -> None:
        """Put a file, in little memory; replaces an existing object."""
        data = await asyncio.to_thread(in_parts, path, self._scheme)
        await self._ask(self._write, key, data, "overwrite")

    async def get(self, key: str) -> bytes:
        """An object's bytes.

        Raises:
            MissingError: there is no such object.
        """
        return await self._ask(self._requests.get, key)

    async def get_file(self, key: str, path: Path) -> str:
        """Download an object of any size into a local file, in little memory.

        Returns its SHA-256.

        Raises:
            MissingError: there is no such object.
            StorageError: it was replaced meanwhile.
        """
        file, digest = await asyncio.to_thread(path.open, "wb"), sha256()
        try:
            async for piece in self._pieces(key):
                await asyncio.to_thread(file.write, piece)
                await asyncio.to_thread(digest.update, piece)
        finally:
            await asyncio.to_thread(file.close)
        return digest.hexdigest()

    async def modified(self, key: str) -> float:
        """When an object was put: Unix seconds, by the store's clock.

        Raises:
            MissingError: there is no such object.
        """
        found = await self._ask(self._requests.head, key)
        return found["last_modified"].timestamp()

    async def size(self, key: str) -> int | None:
        """The bytes of an object, by one HEAD; None if there is no such object."""
        try:
            return (await self._ask(self._requests.head, key))["size"]
        except MissingError:
            return None

    async def list(self, folder: str = "") -> AsyncIterator[Stored]:
        """Every object below a folder, by key."""
        for stored in await self._ask(self._requests.list, folder):
            yield stored

    async def first(self, folder: str) -> Sequence[Stored]:
        """Some of the objects below a folder: one request, however many there are."""
        return await self._ask(self._requests.first, folder)

    async def folders(self, folder: str) -> Sequence[str]:
        """The names of the folders right below a folder: one request a thousand."""
        return await self._ask(self._requests.folders, folder)

    async def delete(self, key: str) -> None:
        """Delete an object; one that is not there is as good as deleted."""
        await self._ask(self._requests.delete, key)

    async def outlast_refusals(
        self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Repeat a call of several requests while the store refuses it, for a minute.

        Raises:
            StorageError: the store still refuses, or failed otherwise.
        """
        return await self._retry.outlast_refusals(call, *args, **kwargs)

    async def _ask(
        self,
        question: Callable[P, Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._retry.ask(self._policy, question, *args, **kwargs)

    async def _create(self, key: str, data: Body) -> None:
        try:
            await self._write(key, data, "create")
        except ExistsError:
            # The object may be ours: the answer to an earlier attempt may have been lost.
            if not await self._holds(key, data):
                raise

    async def _write(self, key: str, data: Body, mode: Mode) -> None:
        e_tag = await self._requests.write(key, data, mode)
        # S3 also checks the checksum that obstore sends, of the bytes that arrive there.
        if self._tagged and not isinstance(data, Path):
            await self._look_at(e_tag, key, data, mode)

    async def _look_at(
        self, e_tag: str | None, key: str, sent: bytes | memoryview, mode: Mode
    ) -> None:
        """Raise an error unless the stored bytes are those that were sent.

        It takes a request only if the answer's ETag is not that of these bytes.
        """
        if not await asyncio.to_thread(is_another, e_tag, sent):
            return
        if await self._holds(key, sent):
            # The ETags of this store are not MD5s, so no later one is looked at.
            self._tagged = False
            return
        if mode == "create":
            stored = await self._requests.head(key)
            if stored["e_tag"] != e_tag:
                # Another run's object: the store has lost ours.
                raise ExistsError(f"{self.uri(key)}: exists")
            await self._requests.delete(key)
        raise UnavailableError(f"{self.uri(key)}: damaged on its way")

    async def _holds(self, key: str, data: Body) -> bool:
        """Whether an existing object has these bytes."""
        try:
            if isinstance(data, bytes):
                return await self._requests.get(key) == data
            sent, seen = mapped(data) if isinstance(data, Path) else data, 0
            async for piece in self._pieces(key):
                if sent[seen : seen + len(piece)] != piece:
                    return False
                seen += len(piece)
        except MissingError:
            raise UnavailableError(
                f"{self.uri(key)}: answered as there, and not there"
            ) from None
        return seen == len(sent)

    async def _pieces(self, key: str) -> AsyncGenerator[bytes]:
        """An object's bytes in pieces; each request is retried separately."""
        meta = await self._ask(self._requests.head, key)
        for start in range(0, meta["size"], PIECE):
            yield await self._ask(self._requests.piece, key, start, meta)
