"""Batches over real HTTP to the emulator: everything but Prefect and the terminal."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import av
import httpx
import polars as pl
import pytest
from PIL import Image

from manifests.catalogue import loader as catalogue
from storage.media import mp4
from tasks.batch.batch import BatchRun
from tasks.batch.lifespan import begun
from tasks.batch.request import Wanted
from tasks.batch.summary import Summary
from tasks.dispatch import Lane, Limits
from tasks.dispatch.poll_schedule import PollSchedule
from tasks.emulator import Emulator, running
from tasks.emulator.prices import price_list
from tasks.engine.clip_check import Check
from tasks.engine.engine import Rules
from tasks.engine.environment import REAL
from tasks.providers import OWN_GPUS, PROVIDERS
from tasks.providers.http import PACE, Endpoint, Pace, connected

# The two whose answers about a doubt differ most run in every test run.
BILLED = [
    "wavespeed/wan-2.2-spicy",
    "kling/kling-2.5-turbo",
    *(
        pytest.param(route, marks=pytest.mark.slow)
        for route in (
            "replicate/wan-2.2",
            "302ai/wan-2.2-spicy",
            "302ai/unified",
            "atlas/wan-2.2-spicy",
            "fal/wan-2.2",
            "fal/kling-2.5-turbo",
            "runway/gen4-turbo",
        )
    ),
]
ENGINES = ("nightreel", "sglang", "vllm-omni", "fastvideo", "lightx2v", "comfyui")
ROUTES = [
    *BILLED,
    *(pytest.param(f"{name}/wan-2.2", marks=pytest.mark.slow) for name in ENGINES),
]

KEYS = {"kling": f"access:{'secret' * 6}"}
"""Keys of providers whose keys have a required form."""


@dataclass(kw_only=True)
class World:
    """A manifest, a root, and emulated providers whose bill proves what was bought."""

    folder: Path
    emulator: Emulator
    url: str
    routes: list[str]
    slots: int = 4
    rules: Rules = field(default_factory=lambda: Rules(settle_s=0.0))
    batch_runs: list[BatchRun] = field(default_factory=list)
    timeout_s: float = 60.0
    """The limit in seconds for an answer."""
    pace: Pace = PACE
    """The slowest download that is waited for."""
    check: Check = mp4.check
    """Checks clips before they are published."""

    def lane(
        self,
        route: str,
        *,
        key: str = "",
        risk_usd: Decimal = Decimal(0),
        **limits: Any,
    ) -> Lane:
        known = catalogue.load().route(route)
        key = key or KEYS.get(known.provider, "key")
        provider = PROVIDERS[known.provider](known, key)
        lane = Lane(
            name=known.provider,
            route=known,
            endpoint=Endpoint(provider, httpx.URL(f"{self.url}/{known.provider}")),
            limits=Limits(
                **{
                    "slots": self.slots,
                    "submits_per_minute": 6000,
                    "queues": known.queues,
                    **limits,
                }
            ),
            risk_usd=risk_usd,
            paid=known.provider not in OWN_GPUS,
        )
        # Emulated clips take a tenth of a second: poll them as often as real ones.
        lane.polls = PollSchedule(shortest_s=0.02)
        return lane

    def manifest(self, rows: list[dict[str, Any]] | int, name: str = "m") -> str:
        """Writes a manifest of these rows, or of that many, each with its own still."""
        if isinstance(rows, int):
            rows = [{"prompt": f"pan {n}"} for n in range(rows)]
        fits = self.fits()
        rows = [
            {"image": self.still(f"{n}.jpg"), **fits, **row}
            for n, row in enumerate(rows)
        ]
        path = self.folder / f"{name}.parquet"
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
        return path.as_uri()

    def fits(self) -> dict[str, Any]:
        """Fields that rows need if the first route does not offer the default clip."""
        if not self.routes:
            return {}
        made = catalogue.load().route(self.routes[0]).prices_usd
        resolution, seconds = next(iter(made))
        unsaid = ("480p", 5) in made
        return {} if unsaid else {"resolution": resolution, "duration_s": seconds}

    def still(self, name: str, size: tuple[int, int] = (640, 360)) -> str:
        path = self.folder / "stills" / name
        path.parent.mkdir(exist_ok=True)
        tint = hash(name) % 200
        Image.new("RGB", size, (tint, 90, 200 - tint)).save(path)
        return path.relative_to(self.folder).as_posix()

    async def run(
        self,
        manifest: str | list[dict[str, Any]] | int,
        *,
        root: str = "",
        lanes: list[Lane] | None = None,
        during: Callable[[BatchRun], None] | None = None,
        hints_url: str | None = None,
        **wanted: Any,
    ) -> Summary:
        """Runs a whole batch and keeps its night in `nights` for closer inspection."""
        uri = manifest if isinstance(manifest, str) else self.manifest(manifest)
        root = root or (self.folder / "root").as_uri()
        asked = Wanted(manifest=uri, root=root, **wanted)
        lanes = lanes or [self.lane(route) for route in self.routes]
        async with begun(
            asked,
            lanes=lanes,
            rules=self.rules,
            hints_url=hints_url,
            world=replace(
                REAL,
                state_folder=self.folder / "state",
                check=self.check,
                pace=self.pace,
                clients=partial(connected, timeout_s=self.timeout_s),
            ),
        ) as batch_run:
            self.batch_runs.append(batch_run)
            if during is not None:
                during(batch_run)
            for number in range(len(batch_run.shards)):
                await batch_run.run_shard(number)
            await batch_run.settle_doubts()
        return batch_run.summary()

    def table(self, name: str) -> pl.DataFrame:
        """The last batch's table of this name."""
        batch = self.batch_runs[-1].batch
        path = self.folder / "root" / "tables" / name / f"batch={batch}"
        return pl.read_parquet(path / "part-0.parquet", hive_partitioning=False)

    @property
    def bought(self) -> dict[str, int]:
        """How many times each prompt was accepted, charged or not."""
        lines = [line.prompt for line in self.emulator.bill]
        return {prompt: lines.count(prompt) for prompt in lines}

    @property
    def owed(self) -> Decimal:
        return self.emulator.total_usd


@pytest.fixture(params=ROUTES)
def route(request) -> str:
    """Each provider in turn: the laws hold for all of them."""
    return request.param


@pytest.fixture(scope="session")
def clip() -> bytes:
    """A real MP4 for jobs whose picture does not matter: one for each would be slow."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4", options={"moov_size": "65536"}) as file:
        stream = file.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(0, 160, 10):
            image = Image.new("RGB", (64, 48), (shade, 90, 90))
            file.mux(stream.encode(av.VideoFrame.from_image(image)))
        file.mux(stream.encode())
    return out.getvalue()


@pytest.fixture
def emulator(clip) -> Emulator:
    return Emulator(latency_s=0.1, slots=1000, submits_per_minute=100000, clip=clip)


@pytest.fixture
def dear_emulator(clip) -> Callable[..., Emulator]:
    """Makes an emulator whose Runway charges four times the prices in the catalogue."""

    def make(latency_s: float) -> Emulator:
        offers = price_list(catalogue.load().routes.values())
        dearer = {
            model: replace(
                offer, prices_usd={kind: 4 * p for kind, p in offer.prices_usd.items()}
            )
            for model, offer in offers["runway"].items()
        }
        return Emulator(
            latency_s=latency_s,
            slots=1000,
            submits_per_minute=100000,
            clip=clip,
            prices={**offers, "runway": dearer},
        )

    return make


@pytest.fixture
def worlds(tmp_path) -> Callable[..., World]:
    """Makes a world around the test's own emulator."""
    return partial(World, folder=tmp_path)


@pytest.fixture
def world(worlds, emulator, route):
    """One lane, to one provider."""
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=[route])
