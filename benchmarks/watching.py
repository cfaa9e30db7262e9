"""The cost of the Prefect UI: requests and log lines that a server gets from a batch.

    .venv/bin/python benchmarks/watching.py [--jobs 20000] [--seconds 100]

The server is real, and its own log is counted. The batch's jobs take no time: everything that
it reports is real (its shards, its tally, its bill, its clips offered to the contact
sheet), but its jobs are neither recorded nor bought. One job in fifty logs a warning, as in a
very bad run. Prints what the server got over what is allowed (500 requests a minute, 2,000
log lines), and Prefect's share of 1,000 jobs: requests, and CPU seconds of the server
(Linux) and of our process.
"""

import argparse
import asyncio
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import polars as pl
from PIL import Image

REQUESTS_A_MINUTE = 500
LINES = 2_000
"""The most log lines of a batch of any size."""

CONFIG = """
[lanes.bench]
route = "wavespeed/wan-2.2-spicy"
key = "env:BENCH_KEY"
base_url = "http://127.0.0.1:1/wavespeed"
slots = 1000
submits_per_minute = 1000000
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def child(folder: Path, seconds: float) -> None:
    """The batch: it ends its jobs by itself, spread over `seconds`."""
    import logging
    from decimal import Decimal

    from flows.batch import batch
    from tasks.engine.engine import Engine
    from tasks.engine.lane_costs import LaneBill

    log = logging.getLogger("tasks.bench")
    mp4 = (folder / "one.mp4").read_bytes()
    jobs = pl.read_parquet(folder / "m.parquet").height

    async def run(engine: Engine, orders) -> None:
        offer = engine.deps.publisher.on_published
        done = [*orders]
        for first in range(0, len(done), 50):
            for order in done[first : first + 50]:
                line = engine.tally.bill.lines.setdefault("bench", LaneBill())
                line.submits += 1
                line.clips += 1
                line.usd += Decimal("0.15")
                engine.tally.published += 1
                if offer is not None:
                    offer(order.job.id, mp4, {"prompt": "bench", "lane": "bench"})
            log.warning("job.broken job=%s", done[first].job.id)
            # Two shards are open at once.
            await asyncio.sleep(2 * 50 * seconds / jobs)

    Engine.run = run
    before = time.process_time()
    state = asyncio.run(
        batch(
            manifest=(folder / "m.parquet").as_uri(),
            root=(folder / "root").as_uri(),
            config=str(folder / "nightreel.toml"),
            return_state=True,
        )
    )
    print(state.type.value, state.message)
    used = time.process_time() - before
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"cpu {1000 * used / jobs:.3f} ms a job ({used:.1f} s), {most:.0f} MB")


def stage(folder: Path, jobs: int) -> None:
    from tasks.emulator.clips import ClipFormat, render
    from tasks.emulator.uploads import Still

    Image.effect_noise((320, 240), 40).convert("RGB").save(folder / "one.jpg")
    still = Still(content=(folder / "one.jpg").read_bytes(), sha256="0")
    cut = ClipFormat(resolution="480p", aspect_ratio="auto", frames=81, fps=16, move=1)
    (folder / "one.mp4").write_bytes(render(still, cut))
    rows = {"image": ["one.jpg"] * jobs, "prompt": [f"pan {n}" for n in range(jobs)]}
    pl.DataFrame(rows).write_parquet(folder / "m.parquet")
    (folder / "nightreel.toml").write_text(CONFIG)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--child", type=Path)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.seconds)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        stage(folder, asked.jobs)
        env = {
            **os.environ,
            "BENCH_KEY": "worthless",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_LOGGING_LEVEL": "INFO",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            "DO_NOT_TRACK": "1",
        }
        words = ["server", "start", "--no-ui", "--port", str(port)]
        server_log = folder / "server.log"
        server = subprocess.Popen(
            [Path(sys.executable).with_name("prefect"), *words],
            env=env,
            stdout=server_log.open("wb"),
            stderr=subprocess.STDOUT,
        )
        try:
            measure(folder, port, asked, env, server.pid)
        finally:
            server.terminate()
            server.wait(30)


def cpu_s(pid: int) -> float:
    """The CPU seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, port: int, asked, env, server: int) -> None:
    server_log = folder / "server.log"
    direct = httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=60)
    while True:
        try:
            if direct.get("/health").is_success:
                break
        except httpx.TransportError:
            time.sleep(0.2)
    before = server_log.stat().st_size
    began, used = time.monotonic(), cpu_s(server)
    subprocess.run(
        [sys.executable, __file__, "--child", folder, "--seconds", str(asked.seconds)],
        env={**env, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"},
        check=True,
    )
    minutes = (time.monotonic() - began) / 60
    used = cpu_s(server) - used
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = server_log.read_bytes()[before:].decode()
    seen = Counter(re.findall(r'"([A-Z]+ /api/[a-z_]+)[^"]* HTTP', told))
    lines = 0
    while page := direct.post(
        "/logs/filter", json={"limit": 200, "offset": lines}
    ).json():
        lines += len(page)
    total = sum(seen.values())
    print(f"{asked.jobs:,} jobs in {60 * minutes:.0f} s, {asked.jobs // 50:,} warnings")
    print(
        f"requests {total / minutes:.0f} a minute,"
        f" {total / minutes / REQUESTS_A_MINUTE:.2f} of what is allowed"
    )
    print(f"log lines {lines}, {lines / LINES:.2f} of what is allowed")
    thousands = asked.jobs / 1000
    print(
        f"for 1,000 jobs: {total / thousands:.1f} requests,"
        f" {used / thousands:.2f} CPU s of the server,"
        f" {(ours.ru_utime + ours.ru_stime) / thousands:.2f} of ours, Prefect's import"
        " among it"
    )
    for kind, count in seen.most_common(8):
        print(f"  {kind}: {count}")


if __name__ == "__main__":
    main()
