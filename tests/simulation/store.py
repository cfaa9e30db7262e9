"""A store in memory that behaves like a remote one: it is slow, has outages, loses
answers, and completes requests of dead clients."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

from storage import layout
from tests.simulation.loop import EPOCH, Node, VirtualLoop
from tests.storage.simulated import folders

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """The faults of a store on a night: shares of requests, and its outages."""

    lost_asks: float = 0.0
    """The share of requests that never reach it."""
    lost_answers: float = 0.0
    """The share of requests that it carries out, but whose answers are lost."""
    late: float = 0.0
    """The share of requests that it carries out long after the client has given up."""
    away: Sequence[tuple[float, float]] = ()
    """Start and end of each outage, in seconds of the night."""
    away_for: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """Outages for one node only."""

    def is_away(self, node: str, now: float) -> bool:
        spans = (*self.away, *self.away_for.get(node, ()))
        return any(since <= now < until for since, until in spans)


CALM = Weather()

FIRST_CLAIM: Final = layout.claim(1)
SEGMENT: Final = layout.SEGMENT
ROTTEN: Final = (
    lambda key: key == layout.ROOT,
    lambda key: key == FIRST_CLAIM,
    lambda key: key.startswith(layout.CLAIMS),
    lambda key: SEGMENT.match(key) is not None,
    lambda key: key.startswith(layout.CHECKPOINTS),
    lambda key: key.startswith("ledger/") and key.endswith(".parquet"),
)
"""The kinds of objects that rot."""


@dataclass(frozen=True, slots=True)
class Write:
    """A change, with its time."""

    at: float
    node: Node | None
    key: str
    data: bytes


class Store:
    """The content of the store, for all nodes."""

    def __init__(self, loop: VirtualLoop, luck: Random) -> None:
        self.loop = loop
        self.luck = luck
        self.weather = CALM
        self.blobs: dict[str, tuple[bytes, float]] = {}
        self.written: list[Callable[[Write], None]] = []
        """Callbacks for every write as it lands."""

    def put(self, node: Node | None, key: str, data: bytes, *, create: bool) -> None:
        if create and key in self.blobs:
            raise FileExistsError(f"{key}: status code: 412")
        self.blobs[key] = data, self.loop.time()
        write = Write(self.loop.time(), node, key, data)
        for tell in self.written:
            tell(write)

    def get(self, key: str) -> bytes:
        if key not in self.blobs:
            raise FileNotFoundError(f"{key}: status code: 404")
        return self.blobs[key][0]

    def rot(self, choice: float) -> tuple[str, Callable[[], None]] | None:
        """Flip one bit of an object of the ledger, or lose the first claim, if a run has
        written to it.

        Returns the object's key, and a call that puts it back as it was.
        """
        kinds = [[key for key in sorted(self.blobs) if of(key)] for of in ROTTEN]
        kinds = [keys for keys in kinds if keys]
        if not any(SEGMENT.match(key) for key in self.blobs):
            return None
        luck = Random(choice)
        key = luck.choice(luck.choice(kinds))
        whole, lost = self.blobs[key], key == FIRST_CLAIM and luck.random() < 0.5
        if lost:
            damaged = None
            del self.blobs[key]
        else:
            data = bytearray(whole[0])
            data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)
            damaged = self.blobs[key] = bytes(data), whole[1]

        def heal() -> None:
            if self.blobs.get(key) is damaged:
                self.blobs[key] = whole

        return key, heal

    def meta(self, key: str) -> dict[str, Any]:
        data = self.get(key)
        return {
            "path": key,
            "size": len(data),
            "last_modified": datetime.fromtimestamp(EPOCH + self.blobs[key][1], UTC),
            "e_tag": _tag(data),
            "version": None,
        }


def _tag(data: bytes) -> str:
    return f"{zlib.crc32(data):08x}"


class Found:
    """An answer to a get."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def bytes_async(self) -> bytes:
        return self._data


class Door:
    """The store as one node's client sees it, with the methods of obstore's stores."""

    def __init__(self, store: Store, node: Node) -> None:
        self._store = store
        self._node = node

    async def put_async(
        self, path: str, file: Any, *, mode: str = "overwrite", **_: Any
    ) -> dict[str, Any]:
        data = file.read_bytes() if isinstance(file, Path) else bytes(file)

        def put() -> dict[str, Any]:
            self._store.put(self._node, path, data, create=mode == "create")
            return {"e_tag": _tag(data), "version": None}

        return await self._asked(put)

    async def get_async(
        self, path: str, *, options: Mapping[str, Any] | None = None
    ) -> Found:
        wanted = options or {}

        def get() -> Found:
            data = self._store.get(path)
            if wanted.get("if_match", _tag(data)) != _tag(data):
                raise OSError(f"{path}: status code: 412")
            start, end = wanted.get("range", (0, len(data)))
            return Found(data[start:end])

        return await self._asked(get)

    async def head_async(self, path: str) -> dict[str, Any]:
        return await self._asked(lambda: self._store.meta(path))

    async def delete_async(self, paths: str | Sequence[str]) -> None:
        every = [paths] if isinstance(paths, str) else [*paths]

        def delete() -> None:
            for path in every:
                self._store.blobs.pop(path, None)

        await self._asked(delete)

    async def list(
        self, prefix: str | None = None, **_: Any
    ) -> AsyncIterator[list[dict[str, Any]]]:
        start = f"{prefix}/" if prefix else ""

        def found() -> list[dict[str, Any]]:
            return [
                self._store.meta(key)
                for key in sorted(self._store.blobs)
                if key.startswith(start)
            ]

        yield await self._asked(found)

    async def list_with_delimiter_async(self, prefix: str) -> dict[str, Any]:
        def found() -> dict[str, Any]:
            return {
                "common_prefixes": folders(self._store.blobs, prefix),
                "objects": [],
            }

        return await self._asked(found)

    async def _asked(self, do: Callable[[], T]) -> T:
        """Let the store carry out a request, and await its answer, which may be
        lost."""
        store, loop, luck = self._store, self._store.loop, self._store.luck
        weather, told = store.weather, loop.create_future()
        there, back = 0.002 + 0.02 * luck.random(), 0.002 + 0.02 * luck.random()
        chance = luck.random()
        if luck.random() < 0.03:
            there += 2.0 * luck.random()
        if weather.is_away(self._node.name, loop.time()):
            loop.later(luck.random() * 10.0, _refuse, told)
        elif (chance := chance - weather.lost_asks) < 0:
            loop.later(luck.random() * 30.0, _refuse, told)
        elif (chance := chance - weather.late) < 0:
            loop.later(20.0 + 40.0 * luck.random(), _done, do, None)
            loop.later(20.0 * luck.random(), _refuse, told)
        elif (chance := chance - weather.lost_answers) < 0:
            loop.later(there, _done, do, None)
            loop.later(there + 10.0 * luck.random(), _refuse, told)
        else:
            loop.later(there, self._answered, do, back, told)
        return await told

    def _answered(
        self, do: Callable[[], T], back: float, told: asyncio.Future[T]
    ) -> None:
        loop = self._store.loop
        if self._store.weather.is_away(self._node.name, loop.time()):
            _refuse(told)
            return
        loop.later(back, *_done(do, told))


def _done(
    do: Callable[[], T], told: asyncio.Future[T] | None
) -> tuple[Callable[..., None], Any, Any]:
    """Carry out the request; returns the call that delivers its result."""
    try:
        return _say, told, do()
    except OSError as exc:
        return _fail, told, exc


def _say(told: asyncio.Future[Any] | None, found: Any) -> None:
    if told is not None and not told.done():
        told.set_result(found)


def _fail(told: asyncio.Future[Any] | None, exc: Exception) -> None:
    if told is not None and not told.done():
        told.set_exception(exc)


def _refuse(told: asyncio.Future[Any]) -> None:
    _fail(told, OSError("status code: 503 Service Unavailable"))
