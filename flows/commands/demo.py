"""The command `demo`: runs the example manifest on emulated providers."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from flows.commands.batch_flow import run_batch
from flows.commands.run import run_to_its_end
from flows.commands.terminal import place, tell
from flows.config import settings

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


def demo(
    root: Annotated[Path, typer.Option(help="The folder for the clips.")] = Path(
        "nightreel-demo"
    ),
) -> None:
    """Run the example manifest on the emulator. Needs no account and no money."""
    with emulated(root) as (manifest, config):
        tell(f"emulated providers, example manifest: {manifest}")
        run_to_its_end(
            # A root that was deleted is not away: emulated clips cost nothing.
            run_batch(
                manifest=manifest,
                root=place(str(root), "root"),
                config=str(config),
                new_root=True,
            ),
            str(root),
            f"clips: {root / 'clips'}\ntable: {root / 'tables'}",
        )


@contextmanager
def emulated(root: Path) -> Generator[tuple[str, Path]]:
    """The example manifest's URI and a config that has lanes to emulated providers."""
    from tasks.emulator import Emulator, running  # noqa: PLC0415 - only the demo needs a server

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
