"""Resuming a crashed batch: a million entries, most of them of jobs that are over.

    .venv/bin/python benchmarks/resume.py [--jobs 250000] [--open 2000] [--known 1e6 1e7]

Builds the root of a crashed batch in a separate process (four events for each published
job, two for each job in progress, in parts of 50,000 entries). Then it measures, each in a
fresh process: opening the ledger (claim to ready), compacting that epoch, and looking up
the states of ten million keys among `--known` ones. CPU is that of the process; peak is
that of the whole process, with its imports (and, for `states`, the keys).
"""

import argparse
import asyncio
import heapq
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

SEGMENT, PART = 2_000, 50_000
KEYS = 10_000_000


def main() -> None:
    asked = _asked()
    if asked.child:
        print(json.dumps(asyncio.run(CHILDREN[asked.child](asked))))
        return
    print(f"{'':28} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}   target")
    with tempfile.TemporaryDirectory() as folder:
        _run(asked, "build", folder)
        _tell("import alone", _run(asked, "start", folder))
        _tell("resume", _run(asked, "resume", folder), "5 s, 500 MB")
        _tell("bind", _run(asked, "bind", folder), "300 MB above import")
        _tell("resume, bound", _run(asked, "resume", folder))
        _tell("told, all of it", _run(asked, "told", folder))
    for known in asked.known:
        row = _run(asked, "states", "", "--known", str(known))
        _tell(f"{KEYS:.0e} states of {known:.0e}", row, "seconds")


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=250_000)
    parser.add_argument("--open", type=int, default=2_000)
    parser.add_argument("--known", type=float, nargs="*", default=[1e6, 1e7])
    parser.add_argument("--child", choices=[*CHILDREN])
    parser.add_argument("--root")
    return parser.parse_args()


def _run(asked, child, root, *more):
    command = [sys.executable, __file__, "--child", child, "--root", root, *more]
    command += ["--jobs", str(asked.jobs), "--open", str(asked.open)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        # A child that ends without a close leaves a spill file.
        "XDG_STATE_HOME": f"{root}/state",
    }
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    return json.loads(done.stdout)


def _tell(what, row, target="") -> None:
    print(
        f"{what:28} {row['wall_s']:8.2f} {row['cpu_s']:8.2f} {row['peak_mb']:8.0f}   {target}"
    )


class _Measured:
    """Wall, CPU and the process's peak by the end of the block."""

    def __enter__(self):
        self._began = time.perf_counter(), time.process_time()
        self.row = {}
        return self.row

    def __exit__(self, *_):
        wall, cpu = self._began
        self.row["wall_s"] = time.perf_counter() - wall
        self.row["cpu_s"] = time.process_time() - cpu
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.row["peak_mb"] = usage.ru_maxrss / 1024


# -- the measurements, each in a separate process


async def _start(_):
    with _Measured() as row:
        import storage.ledger.ledger  # noqa: F401
    return row


async def _build(asked):
    from storage import layout
    from storage.ledger import claimant, open_root, segments
    from storage.ledger.codec import pack
    from storage.objects import Objects

    objects, us = Objects.open(asked.root), claimant(1, "night", 1.8e9)
    await open_root(objects, lambda: 1.8e9)
    await objects.create(layout.claim(1), us.dump())
    stream = layout.stream(us.batch, segments.MAIN)
    entries, number, part = _entries(asked.jobs, asked.open), 0, []
    while some := [*itertools.islice(entries, SEGMENT)]:
        number += 1
        part.append(pack(some))
        if len(part) * SEGMENT == PART:
            key = layout.part(stream, number - len(part) + 1, number)
            await objects.put(key, b"".join(part))
            part = []
        await objects.put(layout.segment(stream, number), pack(some))
    return {}


def _entries(jobs, under_way):
    """Jobs begin a tenth of a second apart and take a minute: a heap keeps the order."""
    chance, waiting = random.Random(0), []
    for number in range(jobs):
        job, at = chance.randbytes(16).hex(), 1.8e9 + number / 10
        events = _life(chance, job)[: 2 if number >= jobs - under_way else 4]
        for after, event in zip((0, 1, 60, 63), events, strict=False):
            order = (at + after + chance.random() / 2, number, after)
            heapq.heappush(waiting, (*order, job, event))
        while waiting and waiting[0][0] < at:
            yield _entry(heapq.heappop(waiting))
    while waiting:
        yield _entry(heapq.heappop(waiting))


def _entry(waiting):
    from manifests.lifecycle import Entry

    at, _, _, job, event = waiting
    return Entry(job, at, event)


def _life(chance, job):
    from manifests.lifecycle import (
        Accepted,
        Facts,
        Generated,
        Intended,
        Published,
        Ticket,
    )

    number = chance.randbytes(16).hex()
    url = f"https://api.wavespeed.ai/api/v3/predictions/{number}/result"
    facts = Facts(
        sha256=chance.randbytes(32).hex(),
        bytes=chance.randrange(600_000, 800_000),
        seconds=5.0625,
        fps=16.0,
        width=832,
        height=480,
        codec="h264",
        frames=81,
    )
    return [
        Intended(
            lane="spicy",
            route="wavespeed/wan-2.2-spicy",
            price_usd=Decimal("0.10"),
            seed=chance.randrange(2**31),
        ),
        Accepted(Ticket("wavespeed", number, {"poll": url})),
        Generated(),
        Published(f"s3://bucket/night/clips/{job[:2]}/{job}.mp4", facts),
    ]


async def _resume(asked):
    from storage.ledger import Ledger
    from storage.objects import Objects

    with _Measured() as row:
        objects = Objects.open(asked.root)
        ledger = await Ledger.open(objects, name="again", take_over=True)
    assert len(ledger.lives) == asked.open
    # A killed process compacts nothing.
    print(json.dumps(row), flush=True)
    os._exit(0)


async def _bind(asked):
    from storage.ledger.compaction import bind
    from storage.ledger.replay import recalled
    from storage.objects import Objects

    objects = Objects.open(asked.root)
    state_index = await recalled(objects, [1])
    with _Measured() as row:
        await bind(objects, state_index)
    return row


async def _told(asked):
    import polars as pl

    from manifests.job_keys import KEY
    from storage.ledger.checkpoint import load, volume
    from storage.ledger.history_lookup import told
    from storage.ledger.replay import recalled
    from storage.objects import Objects

    objects = Objects.open(asked.root)
    state_index = await recalled(objects, [1])
    known = await load(objects, 1)
    index = pl.concat([rows async for rows in volume(objects, known, "index")])
    keys = index.select(*KEY).sample(fraction=1, shuffle=True)
    with _Measured() as row, tempfile.TemporaryDirectory() as folder:
        found = await told(objects, state_index, keys, Path(folder))
        for some in keys.iter_slices(20_000):
            assert len(found.histories(some)) == some.height
    return row


async def _states(asked):
    import numpy as np
    import polars as pl

    from storage.ledger import StateIndex

    chance, state_index, known = (
        np.random.default_rng(0),
        StateIndex(),
        int(asked.known[0]),
    )
    keys = pl.DataFrame(
        {n: chance.integers(0, 2**64, KEYS, dtype=np.uint64) for n in ("key", "also")}
    )
    for some in keys.head(known).iter_slices(1_000_000):
        over = pl.lit("published").alias("state")
        state_index.learn(some.with_columns(over))
    with _Measured() as row:
        states = state_index.states(keys)
    assert (states == "published").sum() == known
    return row


CHILDREN = {
    "start": _start,
    "build": _build,
    "resume": _resume,
    "bind": _bind,
    "told": _told,
    "states": _states,
}

if __name__ == "__main__":
    main()
