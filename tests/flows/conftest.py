"""The real process: `nightreel` as it is installed, real providers' words, a real bill.

Prefect starts a temporary server in each process that has none, which takes seconds.
One server that all tests share is started here, once.
"""

import asyncio
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import httpx
import polars as pl
import pytest
from PIL import Image

from flows.prefect_runtime.inbox_runs import AGAIN_S
from storage.ledger import begin_root
from tasks.emulator import Emulator, running

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
KEY = "sk-live-7d9f2c41aa"
LANES = {
    "spicy": "wavespeed/wan-2.2-spicy",
    "atlas": "atlas/wan-2.2-spicy",
    "fal": "fal/wan-2.2",
    "kling": "kling/kling-2.5-turbo",
}
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def until(seen: Callable[[], object], *, within_s: float = 200.0) -> None:
    """Checks repeatedly until the condition is true."""
    deadline = time.monotonic() + within_s
    while not seen():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {within_s} s")
        time.sleep(0.002)


def environment(**more: str) -> dict[str, str]:
    """Our environment without the variables that would change a test's result."""
    ours = ("PREFECT_", "NIGHTREEL_", "AWS_")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(ours)
    }
    return {**kept, "LANE_KEY": KEY, **more}


@dataclass
class Prefect:
    """A Prefect server that is starting or running."""

    url: str
    env: Mapping[str, str]
    kill: Callable[[], None]
    """Kills the server, as a power cut would."""
    is_up: bool = False

    def wait(self) -> None:
        if not self.is_up:
            until(lambda: answers(f"{self.url}/health"), within_s=200)
            self.is_up = True

    def post(self, path: str, **asked: Any) -> Any:
        answer = self._answer("POST", path, json=asked)
        return answer.json() if answer.content else None

    def patch(self, path: str, **asked: Any) -> None:
        self._answer("PATCH", path, json=asked)

    def delete(self, path: str) -> None:
        self._answer("DELETE", path)

    def _answer(self, method: str, path: str, **asked: Any) -> httpx.Response:
        answers: list[httpx.Response] = []

        def taken() -> bool:
            # As Prefect's own client does, which keeps its leases.
            agent = {"User-Agent": f"prefect/{version('prefect')} (API 0)"}
            url = f"{self.url}/{path}"
            answer = httpx.request(method, url, headers=agent, timeout=300, **asked)
            answers.append(answer)
            # Its database is locked: it did nothing and asks for a retry.
            return answer.status_code != 503

        until(taken, within_s=200)
        return answers[-1].raise_for_status()

    def until(self, seen: Callable[[], object]) -> None:
        """Waits for a condition as long as a scheduled run takes to be recorded."""
        until(seen, within_s=400)

    def events(self, prefix: str, about: str = "") -> list[dict[str, Any]]:
        """The first fifty events that the server received, of all or about one resource."""
        asked: dict[str, Any] = {"event": {"prefix": [prefix]}, "order": "ASC"}
        if about:
            asked["any_resource"] = {"id": [about]}
        return self.post("events/filter", filter=asked, limit=50)["events"]

    def ask(self, *words: str) -> None:
        """Runs a Prefect command in the repository."""
        done = subprocess.run(
            [BIN / "prefect", "--no-prompt", *words],
            cwd=ROOT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def deployment(self, name: str) -> Any:
        answer = httpx.get(f"{self.url}/deployments/name/{name}", timeout=30)
        return answer.raise_for_status().json()


@contextmanager
def serving(home: Path, **more: str) -> Iterator[Prefect]:
    """A Prefect server that keeps its data in this folder."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = environment(PREFECT_HOME=str(home), **QUIET, **more)
    words = ["server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    server = subprocess.Popen(
        [BIN / "prefect", *words],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Prefect(url, env | {"PREFECT_API_URL": url}, server.kill)
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="session")
def prefect(tmp_path_factory) -> Iterator[Prefect]:
    # A test that needs the server waits for it; other tests run meanwhile.
    with serving(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture(scope="session")
def deployed(prefect) -> Prefect:
    """The server with every deployment of prefect.yaml, put there by one command."""
    prefect.wait()
    for pool in ("nightreel", "nightreel-shards"):
        prefect.ask("work-pool", "create", pool, "--type", "process")
    prefect.ask("deploy", "--all")
    return prefect


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


@dataclass(frozen=True)
class Ran:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def reply(self) -> dict[str, Any]:
        """The one JSON object on stdout; fails if there is anything else."""
        assert self.out.count("\n") == 1, (self.out, self.err)
        return json.loads(self.out)


class Running:
    """A process that is running."""

    def __init__(self, words: Sequence[str | Path], *, cwd: Path, env: Any) -> None:
        self.process = subprocess.Popen(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def signal(self, number: int) -> None:
        assert self.process.poll() is None, "it ended too early to be told"
        self.process.send_signal(number)

    def ended(self, *, within_s: float = 300.0) -> Ran:
        out, err = self.process.communicate(timeout=within_s)
        return Ran(self.process.returncode, out, err)

    def kill(self) -> None:
        """Ends the process; its children may hold its pipes open, so these are not read."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@dataclass(kw_only=True)
class Bench:
    """A folder with stills, manifests and a config whose lanes lead to an emulator."""

    folder: Path
    emulator: Emulator
    url: str
    prefect: Prefect
    started: list[Running] = field(default_factory=list)

    def still(self, name: str) -> str:
        path = self.folder / "stills" / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (320, 240), (len(name) * 7 % 255, 90, 60)).save(path, "JPEG")
        return path.relative_to(self.folder).as_posix()

    def manifest(self, rows: list[dict[str, Any]] | int, name: str = "m") -> str:
        if isinstance(rows, int):
            rows = [{"prompt": f"pan {n}"} for n in range(rows)]
        still = self.still("one.jpg")
        frame = pl.DataFrame([{"image": still, **row} for row in rows])
        frame.write_parquet(self.folder / f"{name}.parquet")
        return f"{name}.parquet"

    def config(
        self, *lanes: str, name: str = "nightreel.toml", more: str = "", **facts: Any
    ) -> str:
        """A config of these lanes, all with the same key and limits."""
        lane_facts = {
            "key": "env:LANE_KEY",
            "slots": 4,
            "submits_per_minute": 6000,
            **facts,
        }
        lines = [more]
        for lane in lanes or ("spicy",):
            route = LANES[lane]
            lines += [
                f"[lanes.{lane}]",
                f"route = {json.dumps(route)}",
                f"base_url = {json.dumps(self.url + '/' + route.split('/')[0])}",
                *(
                    f"{fact} = {json.dumps(value)}"
                    for fact, value in lane_facts.items()
                ),
            ]
        (self.folder / name).write_text("\n".join(lines))
        return name

    def start(self, *words: str, **env: str) -> Running:
        env = {**self.prefect.env, **env}
        if {"run", "demo", "watch"} & {*words} and env["PREFECT_API_URL"]:
            self.prefect.wait()
        one = Running([BIN / "nightreel", *words], cwd=self.folder, env=env)
        self.started.append(one)
        return one

    def nightreel(self, *words: str, **env: str) -> Ran:
        return self.start(*words, **env).ended()

    def each(self, *commands: Sequence[str]) -> list[Ran]:
        """Runs these commands two at a time: most of the time is their start."""
        with ThreadPoolExecutor(2) as two:
            return [*two.map(lambda words: self.nightreel(*words), commands)]

    def run(self, *words: str, manifest: str = "m.parquet", root: str = "root") -> Ran:
        return self.nightreel("run", manifest, "--root", root, "--json", *words)

    def begin(self, *words: str) -> Running:
        return self.start("run", "m.parquet", "--root", "root", "--json", *words)

    def wait(self, seen: Callable[[], object]) -> None:
        until(seen)

    def close(self) -> None:
        for one in self.started:
            if one.process.poll() is None:
                one.kill()

    def table(self, name: str = "clips", root: str = "root") -> pl.DataFrame:
        """The last batch's table of rows, attempts or complaints."""
        found = (self.folder / root / "tables" / name).glob("*/*.parquet")
        return pl.read_parquet(max(found))

    def seen(self, kind: str) -> int:
        """The number of requests of this kind that the providers received."""
        counts = self.emulator.stats()["requests"].values()
        return sum(requests.get(kind, 0) for requests in counts)

    @property
    def bought(self) -> Counter[str]:
        """How many times each prompt was accepted, charged or not."""
        return Counter(line.prompt for line in self.emulator.bill)

    @property
    def owed(self) -> float:
        return float(self.emulator.total_usd)


@pytest.fixture(scope="session")
def clip() -> bytes:
    """A small MP4 for every job, so that no time is spent on making clips."""
    out = io.BytesIO()
    noise = random.Random(7)
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for _ in range(8):
            image = Image.frombytes("RGB", (160, 96), noise.randbytes(160 * 96 * 3))
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return out.getvalue()


@pytest.fixture
def emulator(clip) -> Emulator:
    return Emulator(latency_s=0.2, slots=100, submits_per_minute=100000, clip=clip)


@pytest.fixture(scope="session")
def make_bench(
    tmp_path_factory, prefect
) -> Callable[[Emulator], AbstractContextManager[Bench]]:
    @contextmanager
    def made(emulator: Emulator) -> Iterator[Bench]:
        folder = tmp_path_factory.mktemp("bench")
        with running(emulator) as url:
            bench = Bench(folder=folder, emulator=emulator, url=url, prefect=prefect)
            bench.config()
            try:
                yield bench
            finally:
                bench.close()

    return made


@pytest.fixture
def bench(make_bench, emulator) -> Iterator[Bench]:
    with make_bench(emulator) as one:
        yield one


@dataclass
class House:
    """A Prefect server with everything deployed, and a worker that knows the folder."""

    bench: Any
    worker: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> str:
        return (self.bench.folder / "root").as_uri()

    @property
    def inbox(self) -> str:
        return (self.bench.folder / "inbox").as_uri()

    def work(self, **env: str) -> None:
        """Starts a worker, which runs whatever is due from now on."""
        self.worker = subprocess.Popen(
            [BIN / "prefect", "worker", "start", "--pool", "nightreel"],
            env={
                **self.bench.prefect.env,
                "NIGHTREEL_HOME": str(self.bench.folder),
                "PREFECT_WORKER_QUERY_SECONDS": "0.5",
                **env,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def look(self, *, again_s: float = AGAIN_S, **more: str) -> str:
        """Runs the watch flow once, in this process; returns the words of its state."""
        asked = {"inbox": self.inbox, "root": self.root, "settle_s": 0.05}
        asked |= {"again_s": again_s, **more}
        ran = subprocess.run(
            [sys.executable, "-c", LOOK, json.dumps(asked)],
            env={**self.bench.prefect.env},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return ran.stdout.strip()

    def batches(self, **is_so: Any) -> list[dict[str, Any]]:
        """The runs that were started for the root, the first one first."""
        on_manifest = self.bench.prefect.deployment("nightreel/on-manifest")["id"]
        runs = self.bench.prefect.post(
            "flow_runs/filter",
            deployments={"id": {"any_": [on_manifest]}},
            sort="START_TIME_ASC",
        )
        ours = [run for run in runs if run["parameters"]["root"] == self.root]
        return [run for run in ours if is_so.items() <= run.items()]

    def forget(self) -> None:
        """Deletes these runs, as if the server had lost its database."""
        for run in self.batches():
            self.bench.prefect.delete(f"flow_runs/{run['id']}")

    def ended(self, count: int) -> list[tuple[str, str]]:
        """The states of `count` batches, by type and name, once they are over."""
        over = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        self.bench.prefect.until(
            lambda: sum(run["state_type"] in over for run in self.batches()) == count
        )
        return [(run["state_type"], run["state_name"]) for run in self.batches()]


LOOK = """
import asyncio, json, sys
from flows.prefect_runtime import inbox_runs
from flows.watch import watch

asked = json.loads(sys.argv[1])
inbox_runs.AGAIN_S = asked.pop("again_s")
state = asyncio.run(watch(**asked, return_state=True))
print(state.name, state.message)
"""


@pytest.fixture
def house(bench, deployed) -> Iterator[House]:
    (bench.folder / "inbox").mkdir()
    (bench.folder / "flows").symlink_to(ROOT / "flows")
    one = House(bench)
    # A deployment's run begins no root unasked.
    asyncio.run(begin_root(one.root))
    nightly = deployed.deployment("nightreel/nightly")["id"]
    # It names a bucket that does not exist, and it may be two o'clock now.
    deployed.post(f"deployments/{nightly}/pause_deployment")
    try:
        yield one
    finally:
        deployed.post(f"deployments/{nightly}/resume_deployment")
        one.forget()
        if one.worker is not None:
            one.worker.terminate()
            one.worker.wait(60)
