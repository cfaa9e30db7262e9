"""The spine under load: 500 jobs on 100 slots of 2 s, a clip of half a megabyte.

    .venv/bin/python benchmarks/spine.py [--jobs 500] [--slots 100] [--latency 2]

Prints, over the ideal (jobs x latency / slots), the wall time of the whole batch (its
checks, tables and Prefect's share of it included, Prefect's start-up not) and the span
from the first submit to the last clip kept; CPU per job of our process, requests per job
as the emulator counted them, and peak memory. The emulator runs in a separate process.
Both ways of checking a clip are run: decoding every frame (the default) is CPU that FFmpeg
spends, so it is shown apart.
"""

import argparse
import asyncio
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import httpx
import numpy as np
import polars as pl
from PIL import Image

HERE = Path(__file__).resolve().parent
CONFIG = """
[lanes.bench]
route = "wavespeed/wan-2.2-spicy"
key = "env:BENCH_KEY"
base_url = "{url}/wavespeed"
slots = {slots}
submits_per_minute = 100000

[engine]
decode = {decode}
"""


def main() -> None:
    asked = _asked()
    if asked.child:
        print(json.dumps(_measured(asked)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        clip.write_bytes(_clip())
        manifest = _manifest(folder, asked.jobs)
        print(
            f"clip: {clip.stat().st_size:,} bytes, decoding it: {_decode_ms(clip):.0f} ms CPU"
        )
        ideal = asked.jobs * asked.latency / asked.slots
        print(
            f"{asked.jobs} jobs, {asked.slots} slots, {asked.latency} s: ideal {ideal:.1f} s"
        )
        print(
            "decode  wall/ideal  span/ideal  CPU ms/job  requests/job  peak MB  clips"
        )
        for decode in ("false", "true"):
            row = _run(asked, folder, clip, manifest, decode)
            print(
                f"{decode:6}  {row['wall_s'] / ideal:10.3f}  {row['span_s'] / ideal:10.3f}"
                f"  {1000 * row['cpu_s'] / asked.jobs:10.1f}"
                f"  {row['requests'] / asked.jobs:12.2f}"
                f"  {row['peak_mb']:7.0f}  {row['clips']:5}"
            )


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--slots", type=int, default=100)
    parser.add_argument("--latency", type=float, default=2.0)
    parser.add_argument("--child", nargs=3, metavar=("MANIFEST", "ROOT", "CONFIG"))
    return parser.parse_args()


def _run(asked, folder, clip, manifest, decode):
    command = [
        f"{Path(sys.executable).parent}/nightreel",
        *("emulate", "--port", "0", "--latency", f"{asked.latency}s"),
        *("--slots", str(asked.slots), "--submits-per-minute", "100000"),
        *("--clip", str(clip)),
    ]
    emulator = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        url = emulator.stderr.readline().split("'")[1].rpartition("/")[0]
        config = folder / f"{decode}.toml"
        config.write_text(CONFIG.format(url=url, slots=asked.slots, decode=decode))
        root = folder / f"root-{decode}"
        child = subprocess.run(
            [sys.executable, __file__, "--child", manifest, root, config],
            env={**os.environ, "BENCH_KEY": "k", "PREFECT_HOME": f"{folder}/prefect"},
            stdout=subprocess.PIPE,
            check=True,
        )
        requests = httpx.get(f"{url}/stats").json()["requests"]
        counted = sum(n for kinds in requests.values() for n in kinds.values())
        return {**json.loads(child.stdout), "requests": counted}
    finally:
        emulator.terminate()
        emulator.wait()


def _measured(asked):
    """Run the batch flow in this process; CPU from the batch's own beginning."""
    from flows.config import settings

    settings.calm_prefect()
    from flows.batch import batch
    from tasks.batch.lifespan import WATCHER

    manifest, root, config = asked.child
    began = {}

    def begun(batch_run):
        began.update(batch_run=batch_run, cpu=_cpu_s())

    WATCHER.set(begun)
    asyncio.run(batch(manifest=manifest, root=root, config=config, return_state=True))
    batch_run, cpu_s = began["batch_run"], _cpu_s() - began["cpu"]
    return {
        "wall_s": batch_run.summary().wall_s,
        "span_s": asyncio.run(_span_s(root)),
        "cpu_s": cpu_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "clips": batch_run.summary().published,
    }


async def _span_s(root: str) -> float:
    from manifests.lifecycle import Intended, Published
    from storage.ledger import read
    from storage.objects import Objects

    entries = await read(Objects.open(root))
    first = min(entry.at for entry in entries if isinstance(entry.event, Intended))
    return max(e.at for e in entries if isinstance(e.event, Published)) - first


def _cpu_s() -> float:
    return time.process_time()


def _manifest(folder: Path, jobs: int) -> str:
    (folder / "stills").mkdir()
    chance = np.random.default_rng(0)
    for number in range(jobs):
        small = chance.integers(0, 255, (9, 16, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((832, 480))
        image.save(folder / f"stills/{number}.jpg", quality=80)
    path = folder / "manifest.parquet"
    rows = range(jobs)
    pl.DataFrame(
        {
            "image": [f"stills/{n}.jpg" for n in rows],
            "prompt": [f"pan {n}" for n in rows],
        }
    ).write_parquet(path)
    return path.as_uri()


def _clip(size: int = 690_000) -> bytes:
    """Five seconds at 16 fps, 832x480; the encoder spends some 3/4 of these bytes."""
    out = io.BytesIO()
    chance = np.random.default_rng(0)
    small = chance.integers(0, 255, (60, 104, 3), dtype=np.uint8)
    still = np.asarray(Image.fromarray(small).resize((900, 520)))
    with av.open(out, "w", format="mp4", options={"moov_size": "65536"}) as file:
        stream = file.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 832, 480, "yuv420p"
        stream.bit_rate = size * 8 // 5
        for n in range(80):
            view = np.ascontiguousarray(
                still[n // 3 : n // 3 + 480, n // 2 : n // 2 + 832]
            )
            file.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        file.mux(stream.encode())
    return out.getvalue()


def _decode_ms(clip: Path, times: int = 5) -> float:
    from storage.media import mp4

    data = clip.read_bytes()
    began = _cpu_s()
    for _ in range(times):
        mp4.check(data)
    return 1000 * (_cpu_s() - began) / times


if __name__ == "__main__":
    main()
