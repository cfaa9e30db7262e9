"""A child process: runs a night or two over a manifest, until it ends or is killed."""

import asyncio
import gc
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import httpx

from manifests.catalogue import loader as catalogue
from storage.objects import local_path
from tasks.batch.lifespan import begun
from tasks.batch.request import Wanted
from tasks.dispatch import Lane, Limits
from tasks.dispatch.poll_schedule import PollSchedule
from tasks.distributed import elsewhere, run_shard
from tasks.engine.engine import Rules
from tasks.engine.environment import World
from tasks.providers import OWN_GPUS, PROVIDERS
from tasks.providers.http import Endpoint
from tests.crashes import bugs
from tests.crashes.points import Watch

LONGEST_S = 200
"""A wait of a minute, such as for a dead process's lease, does not end in time."""


@dataclass(frozen=True, kw_only=True)
class Errand:
    """The task of a child."""

    folder: str
    """Holds its report, its output and its other files."""
    manifest: str
    root: str
    route: str
    key: str
    url: str
    nights: int = 1
    point: str | None = None
    """The point before which it dies."""
    stopped: bool = False
    """Whether it is only stopped at the point, and may continue later."""
    stall_s: float
    take_over: bool = False
    elsewhere: bool = False
    """Whether each row is a shard that is joined, as from a separate process."""
    settle_s: float = 0.0
    ahead: str | None = None
    """A file with the number of seconds by which all clocks are set forward."""
    bug: str | None = None
    env: dict[str, str] = field(default_factory=dict)


def do(errand: Errand) -> None:
    """Run the errand, and write a report unless the process is killed."""
    signal.alarm(LONGEST_S)
    # It would write to the memory that all children share.
    gc.disable()
    known = {*sys.modules}
    folder = Path(errand.folder)
    out = os.open(folder / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ |= errand.env
    tempfile.tempdir = errand.folder
    bugs.plant(errand.bug)
    blow = signal.SIGSTOP if errand.stopped else signal.SIGKILL
    local = errand.root.startswith("file:")
    root = local_path(errand.root) if local else folder
    watch = Watch(root, errand.point, blow, stall_s=errand.stall_s)
    if local:
        sys.addaudithook(watch)
    nights = asyncio.run(lived(errand))
    imported = sorted({*sys.modules} - known)
    report = {"trace": watch.trace, "nights": nights, "imported": imported}
    (folder / "report.json").write_text(json.dumps(report))


async def lived(errand: Errand) -> list[dict[str, Any]]:
    return [await night(errand) for _ in range(errand.nights)]


async def night(errand: Errand) -> dict[str, Any]:
    """Run one night; returns its summary, or the error that ended it."""
    began = time.monotonic()
    asked = Wanted(
        manifest=errand.manifest,
        root=errand.root,
        take_over=errand.take_over,
        shard_rows=1 if errand.elsewhere else 500,
    )
    rules = Rules(settle_s=errand.settle_s)
    world = World(today=clock(errand.ahead))
    report: dict[str, Any] = {}
    try:
        async with begun(asked, lanes=[lane(errand)], rules=rules, world=world) as one:
            if errand.elsewhere:
                start = partial(joined, errand, one.batch, rules, world)
                async with elsewhere(one, start, rules=rules, at_once=2):
                    await asyncio.gather(*map(one.run_shard, one.shards))
                    await one.settle_doubts()
            else:
                for number in one.shards:
                    await one.run_shard(number)
                await one.settle_doubts()
        report = one.summary().plain()
    # Every error goes into the report for the parent.
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        report["error"] = type(error).__name__
    return report | {"took_s": time.monotonic() - began}


async def joined(
    errand: Errand, batch: str, rules: Rules, world: World, shard: int, *_: object
) -> None:
    """Run a shard with separate lanes."""
    await run_shard(
        errand.root,
        batch=batch,
        shard=shard,
        lanes=[lane(errand)],
        rules=rules,
        world=world,
    )


def clock(ahead: str | None) -> Callable[[], float]:
    """The time of day, on a machine that may sleep while the process is stopped."""

    def today() -> float:
        path = Path(ahead or os.devnull)
        return time.time() + float(path.read_text() or 0)

    return today


@cache
def routes() -> catalogue.Catalogue:
    return catalogue.load()


def lane(errand: Errand) -> Lane:
    route = routes().route(errand.route)
    provider = PROVIDERS[route.provider](route, errand.key)
    endpoint = Endpoint(provider, httpx.URL(f"{errand.url}/{route.provider}"))
    limits = Limits(slots=2, submits_per_minute=6000, queues=route.queues)
    # vLLM-Omni cannot list what it accepted: a job that is freed would be made twice.
    free = route.provider in OWN_GPUS - {"vllm-omni"}
    one = Lane(
        name=route.provider,
        route=route,
        endpoint=endpoint,
        limits=limits,
        paid=not free,
    )
    one.polls = PollSchedule(shortest_s=0.02)
    return one
