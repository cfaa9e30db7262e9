"""The cost of running a batch in many processes: the same 500 jobs with each runner.

    .venv/bin/python benchmarks/runners.py [--jobs 500] [--slots 50] [--latency 3]
        [--ways here,pool,ray,dask] [--workers 3] [--shard-rows 50]

Prints for each way the wall time of `nightreel run` (its start included) and of the batch
in it, the CPU of all processes that took part (server and workers too, from the moment
the batch was started; the emulator not), requests as the emulator counted them, the bill,
and the most that it saw in flight. The Prefect server and the pool's workers are up before
the clock starts; Ray and Dask are started by the batch, as for a user without a cluster.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import httpx
import polars as pl
from spine import _clip, _manifest

HOME = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
TICKS = os.sysconf("SC_CLK_TCK")
CONFIG = """
[lanes.bench]
route = "kling/kling-2.5-turbo"
key = "env:BENCH_KEY"
base_url = "{url}/kling"
slots = {slots}
submits_per_minute = 100000

[engine]
decode = false
runner = "{way}"
workers = {workers}
shard_rows = {rows}
"""
"""Kling refuses requests over its slots, so that none goes unseen."""


def main() -> None:
    asked = _asked()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "clip.mp4").write_bytes(_clip())
        manifest = _manifest(folder, asked.jobs)
        rows = pl.read_parquet(manifest).with_columns(resolution=pl.lit("720p"))
        rows.write_parquet(manifest)
        env = _env(folder)
        with _Server(env) as server:
            rows = [
                _measured(asked, way, folder, manifest, server)
                for way in asked.ways.split(",")
            ]
    ideal = asked.jobs * asked.latency / asked.slots
    print(
        f"{asked.jobs} jobs of {asked.latency} s on {asked.slots} slots (ideal "
        f"{ideal:.0f} s), {asked.workers} workers, shards of {asked.shard_rows}"
    )
    with pl.Config(tbl_formatting="MARKDOWN", tbl_cols=-1, tbl_width_chars=200):
        print(pl.DataFrame(rows))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--slots", type=int, default=50)
    parser.add_argument("--latency", type=float, default=3.0)
    parser.add_argument("--ways", default="here,pool,ray,dask")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--shard-rows", type=int, default=50)
    return parser.parse_args()


def _env(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return kept | {
        "BENCH_KEY": f"access:{'secret' * 6}",
        "DO_NOT_TRACK": "1",
        "NIGHTREEL_HOME": str(HOME),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONPATH": str(HOME),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


class _Server:
    """A Prefect server with our deployments."""

    def __init__(self, env) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self._port = sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/api"
        self.env = env | {"PREFECT_API_URL": self.url}

    def __enter__(self) -> Self:
        self.process = self.start(
            *("server", "start", "--host", "127.0.0.1", "--no-ui"),
            *("--port", str(self._port)),
        )
        while not self._answers():
            time.sleep(0.5)
        for pool in ("nightreel", "nightreel-shards"):
            self.start("work-pool", "create", pool, "--type", "process").wait()
        self.start("deploy", "--all").wait()
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait()

    def start(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [BIN / "prefect", "--no-prompt", *words],
            cwd=HOME,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        except httpx.TransportError:
            return False


def _measured(asked, way, folder, manifest, server):
    emulator = subprocess.Popen(
        [
            *(BIN / "nightreel", "emulate", "--port", "0"),
            *("--latency", f"{asked.latency}s", "--slots", str(asked.slots)),
            *("--submits-per-minute", "100000", "--clip", folder / "clip.mp4"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    workers = []
    if way == "pool":
        words = ("worker", "start", "--pool", "nightreel-shards", "--limit", "1")
        workers = [server.start(*words) for _ in range(asked.workers)]
        time.sleep(15)
    try:
        url = emulator.stderr.readline().split("'")[1].rpartition("/")[0]
        config = folder / f"{way}.toml"
        config.write_text(
            CONFIG.format(
                url=url,
                slots=asked.slots,
                way=way,
                workers=asked.workers,
                rows=asked.shard_rows,
            )
        )
        with _Cpu(str(folder / "prefect")) as cpu:
            began = time.monotonic()
            ran = subprocess.run(
                [
                    *(BIN / "nightreel", "run", manifest, "--json"),
                    *("--root", folder / f"root-{way}", "--config", config),
                ],
                env=server.env,
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            wall_s = time.monotonic() - began
        summary = json.loads(ran.stdout)
        stats = httpx.get(f"{url}/stats").json()
        [account] = stats["accounts"]
        requests = sum(
            n for kinds in stats["requests"].values() for n in kinds.values()
        )
        return {
            "way": way,
            "wall s": round(wall_s, 1),
            "batch s": summary["wall_s"],
            "CPU s": round(cpu.total_s, 1),
            "requests": requests,
            "clips": summary["published"],
            "bought": summary["bought"],
            "USD": summary["spent_usd"],
            "most in flight": account["running"],
            "refused": account["throttled"],
        }
    finally:
        for process in (*workers, emulator):
            process.terminate()
            process.wait()


class _Cpu:
    """CPU of every process that has our PREFECT_HOME, from now on."""

    def __init__(self, marker: str) -> None:
        self._marker = f"PREFECT_HOME={marker}".encode()
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._over = threading.Event()

    @property
    def total_s(self) -> float:
        return sum(self._last[pid] - self._first.get(pid, 0.0) for pid in self._last)

    def __enter__(self) -> Self:
        self._look()
        self._first = dict(self._last)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self._look()
        self._look()

    def _look(self) -> None:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if self._marker in (path / "environ").read_bytes():
                    stat = (path / "stat").read_text().rpartition(")")[2].split()
                    self._last[int(path.name)] = sum(map(int, stat[11:13])) / TICKS
            except OSError:
                continue


if __name__ == "__main__":
    main()
