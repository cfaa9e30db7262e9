"""The ledger under load: a thousand durable events a second, and what a kill leaves.

    .venv/bin/python benchmarks/ledger.py [--rate 1000] [--seconds 10] [--put-ms 30]

The store answers each put after 30 ms, as one in the same region does, and counts as a
remote one. CPU is that of the process less that of the same driver without a ledger, run
just before in it. Each measurement is a separate process; the last ones are killed while
they submit, and what they leave in doubt is read back by a successor. The first second,
in which the lives are all young, is not counted.

The median event should wait no longer than two puts. With one or two shards this target and
five puts a second for each exclude each other: the gaps between puts are 200 or 100 ms, so
an event waits for half a gap and a put of 30 ms, which is more than two puts. The median is
then printed without a target.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

ROUND_TRIP_S = 0.1
SHARDS = (1, 2, 4, 8)
KILLS = 3


def main() -> None:
    asked = _asked()
    if asked.child:
        asyncio.run(CHILDREN[asked.child](asked))
        return
    rows = [("what", "target", "measured", "")]
    for shards in SHARDS:
        told = _child(asked, "paced", "--shards", str(shards))
        puts = min(20, 5 * shards)
        where = f"{shards} shard{'s' * (shards > 1)}: "
        wait = 2 * asked.put_ms if shards >= 4 else None
        rows += [
            _row(f"{where}median wait, ms", wait, told["median_ms"]),
            _row(f"{where}99 % wait at most, ms", None, told["p99_ms"]),
            _row(f"{where}segments a second", puts, told["puts"]),
            _row(f"{where}durable events a second", None, told["events"]),
            _row(f"{where}CPU, % of a core", 3, 100 * told["cpu"]),
        ]
    commit_s = told["p99_ms"] / 1000
    submits = asked.rate / 4
    under_way = submits * (commit_s + ROUND_TRIP_S)
    for n in range(KILLS):
        left = _killed(asked, after_s=1.5 + n)
        rows.append(_row(f"kill {n + 1}: submits left in doubt", under_way, left))
    for what, target, measured, holds in rows:
        print(f"{what:36} {target:>10} {measured:>10} {holds}")


def _row(what: str, target: float | None, measured: float) -> tuple[str, ...]:
    if target is None:
        return what, "", f"{measured:.1f}", ""
    # A segment more or less, where a second begins or ends.
    holds = "" if measured <= 1.02 * target else "MISSED"
    return what, f"<= {target:.0f}", f"{measured:.1f}", holds


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--put-ms", type=float, default=30.0)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--child", choices=[*CHILDREN])
    return parser.parse_args()


def _command(asked: argparse.Namespace, child: str, *more: str) -> list[str]:
    options = [f"--{name}={getattr(asked, name.replace('-', '_'))}" for name in PASSED]
    return [sys.executable, __file__, "--child", child, *options, *more]


def _child(asked: argparse.Namespace, child: str, *more: str) -> dict[str, Any]:
    done = subprocess.run(
        _command(asked, child, *more), stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def _killed(asked: argparse.Namespace, *, after_s: float) -> int:
    with tempfile.TemporaryDirectory() as root:
        command = _command(asked, "endless", "--root", root)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            child.stdout.readline()
            time.sleep(after_s + random.random() / 10)
            child.send_signal(signal.SIGKILL)
        return _child(asked, "successor", "--root", root)["in_doubt"]


# -- in the child


class Away:
    """A store that is some milliseconds away: in memory, or on a disk underneath."""

    def __init__(self, put_s: float, below: Any = None) -> None:
        self.puts: list[float] = []
        self._put_s = put_s
        self._below = below
        self._kept: dict[str, tuple[bytes, datetime]] = {}

    async def put_async(self, path: str, file: bytes, *, mode: str, **more: Any) -> Any:
        if "/main/0" in path:
            self.puts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._put_s)
        if self._below is not None:
            return await self._below.put_async(path, file, mode=mode, **more)
        if mode == "create" and path in self._kept:
            raise FileExistsError(path)
        self._kept[path] = file, datetime.now(UTC)
        return {"e_tag": None, "version": None}

    async def get_async(self, path: str, *, options: Any = None) -> Any:
        if self._below is not None:
            return await self._below.get_async(path, options=options)
        if path not in self._kept:
            raise FileNotFoundError(path)
        return Bytes(self._kept[path][0])

    async def list(self, prefix: str | None = None, *, chunk_size: int = 50):
        if self._below is not None:
            async for page in self._below.list(prefix, chunk_size=chunk_size):
                yield page
            return
        yield [
            {"path": path, "size": len(data), "last_modified": put, "e_tag": None}
            for path, (data, put) in self._kept.items()
            if path.startswith(f"{prefix}/")
        ]

    async def list_with_delimiter_async(self, prefix: str) -> Any:
        if self._below is not None:
            return await self._below.list_with_delimiter_async(prefix)
        start = f"{prefix}/"
        below = (path[len(start) :] for path in self._kept if path.startswith(start))
        names = {rest.partition("/")[0] for rest in below if "/" in rest}
        return {"common_prefixes": [f"{prefix}/{name}" for name in names]}


class Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def bytes_async(self) -> bytes:
        return self._data


Record = Callable[[str, Any], Awaitable[Any]]


async def _drive(
    record: Record, rate: float, seconds: float
) -> list[tuple[float, float]]:
    """Record lives of four events each, at `rate` events a second; returns when each wait
    ended, and its length."""
    from manifests.lifecycle import (
        Accepted,
        Facts,
        Generated,
        Intended,
        Published,
        Ticket,
    )

    facts = Facts(
        sha256="ab" * 32,
        bytes=1234567,
        seconds=5.0625,
        fps=16.0,
        width=832,
        height=480,
        codec="h264",
        frames=81,
    )
    loop = asyncio.get_running_loop()
    waits: list[tuple[float, float]] = []

    async def live(n: int) -> None:
        life = f"{n:032x}"
        ticket = Ticket("wavespeed", life, {"poll": f"https://api.example/{life}"})
        for event in (
            Intended(
                lane="spicy",
                route="wavespeed/wan-2.2-spicy",
                price_usd=Decimal("0.10"),
                seed=n,
                mark=life,
            ),
            Accepted(ticket),
            Generated(seed=n),
            Published(f"s3://bucket/clips/{life}.mp4", facts),
        ):
            began = loop.time()
            await record(life, event)
            waits.append((loop.time(), loop.time() - began))
            await asyncio.sleep(ROUND_TRIP_S)

    lives = int(rate * seconds / 4)
    async with asyncio.TaskGroup() as tasks:
        began = loop.time()
        for n in range(lives):
            # Submits arrive one by one, at random times.
            due = began + 4 * (n + random.random()) / rate
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            tasks.create_task(live(n))
    return waits


async def _paced(asked: argparse.Namespace) -> None:
    from contextlib import ExitStack

    from storage.ledger import Ledger
    from storage.objects import Objects

    store = Away(asked.put_ms / 1000)
    ledger = await Ledger.open(Objects(store, "s3://away/reel"), name="bench")
    now = asyncio.get_running_loop().time
    bare = await _cpu(_nothing, asked)
    with ExitStack() as shards:
        for _ in range(asked.shards):
            shards.enter_context(ledger.shard())
        began = now()
        cpu, waits = await _cpu(ledger.record, asked)
    first, last = began + 1, began + asked.seconds
    counted = [wait for at, wait in waits if first <= at < last]
    told = {
        "cpu": (cpu - bare[0]) / asked.seconds,
        "puts": sum(first <= at < last for at in store.puts) / (last - first),
        "events": len(counted) / (last - first),
        "median_ms": 1000 * statistics.median(counted),
        "p99_ms": 1000 * statistics.quantiles(counted, n=100)[98],
    }
    print(json.dumps(told))


async def _nothing(life: str, event: Any) -> None:
    """A record that does nothing: it measures the driver alone."""


async def _cpu(
    record: Record, asked: argparse.Namespace
) -> tuple[float, list[tuple[float, float]]]:
    cpu = time.process_time()
    waits = await _drive(record, asked.rate, asked.seconds)
    return time.process_time() - cpu, waits


async def _endless(asked: argparse.Namespace) -> None:
    """Submit until killed: each intent is sent to a provider once it is on record."""
    from contextlib import ExitStack

    from storage.ledger import Ledger
    from storage.objects import Objects
    from storage.objects.connect import connect

    class Remote(Objects):
        """Paced as a remote store, on a disk that outlives us."""

        remote = True

    uri = asked.root.as_uri()
    store = Away(asked.put_ms / 1000, connect(uri))
    ledger = await Ledger.open(Remote(store, uri), name="killed")
    with ExitStack() as shards:
        for _ in range(asked.shards):
            shards.enter_context(ledger.shard())
        print("begun", flush=True)
        await _drive(ledger.record, asked.rate, 60.0)


async def _successor(asked: argparse.Namespace) -> None:
    from manifests.lifecycle import State
    from storage.ledger import Ledger
    from storage.objects import Objects

    ledger = await Ledger.open(Objects.open(str(asked.root)), name="successor")
    states = [history.state for history in ledger.lives.values()]
    print(json.dumps({"in_doubt": states.count(State.IN_DOUBT)}))
    await ledger.close()


PASSED = ("rate", "seconds", "put-ms", "shards")
CHILDREN = {
    "paced": _paced,
    "endless": _endless,
    "successor": _successor,
}

if __name__ == "__main__":
    main()
