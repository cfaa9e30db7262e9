"""A store and a clock that a test can manipulate."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from storage.objects import Objects, RetryPolicy

T = TypeVar("T")


class Hurried(asyncio.SelectorEventLoop):
    """A loop that skips waiting time when it has nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead_s = 0.0
        self._look, self._selector.select = self._selector.select, self._select

    def time(self) -> float:
        return super().time() + self._ahead_s

    def _select(self, timeout: float | None = None) -> list[Any]:
        # Threads get a real moment.
        ready = self._look(timeout if timeout is None else min(timeout, 0.001))
        if not ready and timeout:
            self._ahead_s += timeout
        return ready


def folders(keys: Iterable[str], prefix: str) -> list[str]:
    """The folders directly below a prefix."""
    below = (
        key.removeprefix(f"{prefix}/") for key in keys if key.startswith(f"{prefix}/")
    )
    return sorted({f"{prefix}/{key.partition('/')[0]}" for key in below if "/" in key})


@dataclass
class Simulated:
    """A store in memory with obstore's interface, which a test can manipulate."""

    clock: Callable[[], float] = time.time
    kept: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    asked: list[tuple[str, str, float]] = field(default_factory=list)
    delay_s: float = 0.0
    before: Callable[[str, str], Awaitable[None]] | None = None
    after: Callable[[str, str], Awaitable[None]] | None = None

    def objects(self) -> Objects:
        """Open a root in it, which counts as a remote one."""
        return Objects(self, "s3://simulated/reel", retry=RetryPolicy(unavailable_s=0))

    async def put_async(self, path: str, file: Any, *, mode: str, **_: Any) -> Any:
        async with self._asked("put", path):
            if mode == "create" and path in self.kept:
                raise FileExistsError(path)
            self.kept[path] = (bytes(file), self.clock())
        return {"e_tag": None, "version": None}

    async def get_async(self, path: str, *, options: Any = None) -> "Simulated.Found":
        async with self._asked("get", path):
            return self.Found(self._kept(path)[0])

    async def head_async(self, path: str) -> Any:
        async with self._asked("head", path):
            return self._meta(path)

    def _meta(self, path: str) -> dict[str, Any]:
        data, put = self._kept(path)
        return {
            "path": path,
            "size": len(data),
            "last_modified": datetime.fromtimestamp(put, UTC),
            "e_tag": None,
            "version": None,
        }

    async def list(
        self, prefix: str | None = None, *, chunk_size: int = 50
    ) -> AsyncIterator[Any]:
        async with self._asked("list", prefix or ""):
            names = [name for name in self.kept if name.startswith(f"{prefix}/")]
            found = [self._meta(name) for name in names]
        yield found

    async def list_with_delimiter_async(self, prefix: str) -> Any:
        async with self._asked("list", prefix):
            found = folders(self.kept, prefix)
        return {"common_prefixes": found, "objects": []}

    async def delete_async(self, paths: str) -> None:
        async with self._asked("delete", paths):
            self._kept(paths)
            del self.kept[paths]

    def _kept(self, path: str) -> tuple[bytes, float]:
        if path not in self.kept:
            raise FileNotFoundError(path)
        return self.kept[path]

    @asynccontextmanager
    async def _asked(self, what: str, path: str) -> AsyncIterator[None]:
        self.asked.append((what, path, asyncio.get_running_loop().time()))
        await asyncio.sleep(self.delay_s)
        if self.before is not None:
            await self.before(what, path)
        yield
        if self.after is not None:
            await self.after(what, path)

    @dataclass
    class Found:
        data: bytes

        async def bytes_async(self) -> bytes:
            return self.data


def run(night: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a night in which hours take no time."""
    with asyncio.Runner(loop_factory=Hurried) as runner:
        return runner.run(night())
