"""The demo's world: the emulated providers, and the example manifest to run on them."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from flows.config import settings
from tasks.emulator import Emulator, running

LATENCY_S: Final = 4.0
"""Seconds that an emulated clip takes: long enough to watch, short enough to wait for."""

KEY: Final = "NIGHTREEL_DEMO_KEY"

# Kling's has two parts, and signs with the second: under 32 bytes PyJWT warns of it.
_WORTHLESS: Final = "demo:a-key-that-opens-nothing-but-the-emulator"

_LANE: Final = """
[lanes.{name}]
route = "{route}"
key = "env:{key}"
base_url = "{url}/{provider}"
slots = 3
submits_per_minute = 60
"""

_ROUTES: Final = {
    "spicy": "wavespeed/wan-2.2-spicy",
    "atlas": "atlas/wan-2.2-spicy",
    "fal": "fal/wan-2.2",
    "kling": "kling/kling-2.5-turbo",
    "runway": "runway/gen4-turbo",
}


@contextmanager
def emulated(root: Path) -> Generator[tuple[str, Path]]:
    """The example manifest's URI and a config that has lanes to emulated providers."""
    settings.lend(KEY, _WORTHLESS)
    root.mkdir(parents=True, exist_ok=True)
    config = root / "nightreel.toml"
    with running(Emulator(latency_s=LATENCY_S, jitter=0.2)) as url:
        lanes = (
            _LANE.format(
                name=name,
                route=route,
                key=KEY,
                url=url,
                provider=route.partition("/")[0],
            )
            for name, route in _ROUTES.items()
        )
        config.write_text("".join(lanes).lstrip(), encoding="utf-8")
        yield (examples() / "manifest.parquet").as_uri(), config


def examples() -> Path:
    """The examples: of the clone, or as they were installed."""
    flows = Path(__file__).resolve().parents[1]
    for folder in (flows.parent / "examples", flows / "examples"):
        if (folder / "manifest.parquet").exists():
            return folder
    raise FileNotFoundError(f"{flows}: no examples beside it")
