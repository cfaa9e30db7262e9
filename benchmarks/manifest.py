"""Ten million rows: a manifest of them planned, cut into shards and resumed, and its memory.

    .venv/bin/python benchmarks/manifest.py [--rows 10000000] [--folder FOLDER] [only these …]

Builds a manifest of references (400 MB, a minute; kept in the folder for the next time) and
one of embedded stills, as pyarrow writes it if nobody says otherwise: a single row group of
1.2 GB. Then each measurement runs in a separate process that has imported `flows.batch`
first, as the real one has. Prints wall, CPU and peak memory. The bare readers were measured
on such a file of 10 million rows: slices of it, every column, 2.9 s of CPU and 177 MB; all
rows less 1 million ids, 1.3 s and 295 MB.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 10_000_000
GROUP = 50_000
JOBS = 500
"""Jobs in a shard."""
STILLS = 4_000
STILL_BYTES = 300_000


def main() -> None:
    asked = _asked()
    if asked.child:
        print(json.dumps(_measured(asked)))
        return
    folder = Path(asked.folder or tempfile.gettempdir())
    manifest = folder / f"manifest-{asked.rows}.parquet"
    stills = folder / f"stills-{STILLS}.parquet"
    for path, build in ((manifest, "build"), (stills, "build_stills")):
        if not path.exists():
            _told(build, _child(build, path, asked.rows))
    for name in asked.only or MEASURES:
        path = stills if name.startswith("stills") else manifest
        _told(name, _child(name, path, asked.rows))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", choices=[[], *MEASURES])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--folder")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "PATH"))
    return parser.parse_args()


def _child(name: str, path: Path, rows: int) -> dict:
    command = [sys.executable, __file__, "--rows", str(rows), "--child", name, path]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def _told(name: str, got: dict) -> None:
    print(
        f"{name:16} {got['wall_s']:7.1f} s wall {got['cpu_s']:7.1f} s CPU"
        f" {got['peak_mb']:6.0f} MB peak ({got['before_mb']:.0f} before)  {got['result']}",
        flush=True,
    )


def _measured(asked) -> dict:
    name, path = asked.child
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    if not name.startswith("build"):
        import flows.batch  # noqa: F401 - it is in the memory of the real process
    before, wall, cpu = _peak_mb(), time.perf_counter(), time.process_time()
    result = {**MEASURES, "build": _build, "build_stills": _build_stills}[name](
        Path(path), asked.rows
    )
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "before_mb": before,
        "peak_mb": _peak_mb(),
        "result": result,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Building the files


def _build(path: Path, rows: int) -> str:
    import polars as pl

    from manifests.parquet import written

    part = path.with_suffix(".part")
    with written(part) as write:
        for first in range(0, rows, GROUP):
            write(_some(pl, first, min(GROUP, rows - first)))
    part.rename(path)
    return f"{path}: {path.stat().st_size / 1e6:.0f} MB"


def _some(pl, first: int, rows: int):
    chance = random.Random(first)
    words = (
        "slow dolly pan tilt orbit over the harbour at dusk with gentle wind".split()
    )
    hexes = [chance.randbytes(16).hex() for _ in range(rows)]
    return pl.DataFrame(
        {
            "id": [f"item-{one[16:]}" for one in hexes],
            "image": [f"s3://stills/2026/11/{one[:2]}/{one[:16]}.jpg" for one in hexes],
            "prompt": [
                f"{' '.join(chance.choices(words, k=9))}, take {n}" for n in range(rows)
            ],
            "negative_prompt": pl.Series([None] * rows, dtype=pl.String),
            "seed": [
                chance.randrange(2**31) if chance.random() < 0.5 else None
                for _ in range(rows)
            ],
            "duration_s": [5] * rows,
            "resolution": chance.choices(["480p", "720p"], k=rows),
            "aspect_ratio": ["auto"] * rows,
            "priority": chance.choices([0, 1], [99, 1], k=rows),
        }
    )


def _build_stills(path: Path, _rows: int) -> str:
    """As pyarrow writes it: pages of 1024 rows, which is 300 MB here."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    chance = random.Random(0)
    stills = pa.array([chance.randbytes(STILL_BYTES) for _ in range(STILLS)])
    prompts = pa.array([f"pan {n}" for n in range(STILLS)])
    pq.write_table(pa.table({"image_bytes": stills, "prompt": prompts}), path)
    return f"{path}: {path.stat().st_size / 1e6:.0f} MB"


# The measurements


def _routes() -> list:
    from manifests.catalogue import load

    return [route for route in load().routes.values() if not route.retired]


def _planned(path: Path):
    from manifests.input import check

    return check(path, URI, _routes())


def _plan(path: Path, _rows: int) -> str:
    plan = _planned(path)
    size = plan.wanted.estimated_size("mb")
    return f"{plan.jobs:,} jobs, {plan.bad_rows:,} bad rows, {size:.0f} MB kept"


def _shards(path: Path, _rows: int) -> str:
    """Orders of the first, the middle and the last hundred shards."""
    from manifests.input import orders

    plan, cpu, jobs = _planned(path), time.process_time(), 0
    count = -(-plan.jobs // JOBS)
    some = {
        *range(100),
        *range(count // 2, count // 2 + 100),
        *range(count - 100, count),
    }
    for number, shard in enumerate(plan.shards(JOBS)):
        if number in some:
            jobs += sum(1 for _ in orders(path, URI, shard, lambda sha256, _: sha256))
    each = 1000 * (time.process_time() - cpu) / len(some)
    return f"{len(some)} shards, {jobs:,} orders, {each:.0f} ms CPU a shard"


def _demand(path: Path, _rows: int) -> str:
    from manifests.input import demand

    plan, cpu = _planned(path), time.process_time()
    kinds = demand(path, URI, plan.wanted)
    spent = time.process_time() - cpu
    return f"{kinds.height} kinds of {kinds['count'].sum():,} jobs, {spent:.1f} s CPU of it"


def _resumed(share: float):
    def resume(path: Path, _rows: int) -> str:
        from manifests.input import orders, todo

        plan, cpu = _planned(path), time.process_time()
        left = todo(plan, _done(plan, share))
        spent = time.process_time() - cpu
        jobs = len([*orders(path, URI, left[:JOBS], lambda sha256, _: sha256)])
        return f"{left.height:,} left, {spent:.1f} s CPU of it; {jobs} orders"

    return resume


def _done(plan, share: float):
    """The answer of a ledger that keeps the keys of published jobs, sorted."""
    import polars as pl

    from manifests.lifecycle import State

    done = plan.wanted["key"].sample(fraction=share, seed=0).sort()
    state_type = pl.Enum([state.value for state in State])

    def states(keys):
        at = done.search_sorted(keys["key"]).clip(0, done.len() - 1)
        made = done.gather(at) == keys["key"]
        both = pl.Series(["pending", "published"], dtype=state_type)
        return both.gather(made.cast(pl.UInt32))

    return states


def _stills(path: Path, _rows: int) -> str:
    plan = _planned(path)
    return f"{plan.jobs:,} stills of {STILL_BYTES:,} bytes in one row group"


def _stills_left(path: Path, _rows: int) -> str:
    from manifests.output import Outcomes, write_left

    plan, out = _planned(path), path.with_suffix(".left")
    nothing = Outcomes(histories={}, reasons={})
    try:
        return f"{write_left(out, path, plan, lambda _: nothing):,} rows left"
    finally:
        out.unlink(missing_ok=True)


URI = "s3://bucket/in/manifest.parquet"
MEASURES = {
    "plan": _plan,
    "shards": _shards,
    "demand": _demand,
    "resume 1 of 10": _resumed(0.1),
    "resume 9 of 10": _resumed(0.9),
    "stills": _stills,
    "stills left": _stills_left,
}

if __name__ == "__main__":
    main()
