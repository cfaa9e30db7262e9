"""Writes manifest.parquet, the example manifest: copy this file and make it yours.

Run it from anywhere: python examples/make_manifest.py
"""

from pathlib import Path
from typing import Any

import polars as pl

HERE = Path(__file__).parent

# Only `image` and `prompt` are needed; a null leaves the choice to Nightreel. `sku` and
# `campaign` mean nothing to Nightreel: it carries them through to the table of clips.
COLUMNS = {
    "id": pl.String,
    "image": pl.String,
    "prompt": pl.String,
    "negative_prompt": pl.String,
    "model": pl.String,
    "content": pl.String,
    "resolution": pl.String,
    "duration_s": pl.Int64,
    "aspect_ratio": pl.String,
    "seed": pl.Int64,
    "take": pl.Int64,
    "sku": pl.String,
    "campaign": pl.String,
}

ESPRESSO: dict[str, Any] = {
    "image": "stills/coffee.jpg",
    "prompt": "Thin steam curls up from the espresso and drifts to the left, light "
    "glints along the spoon, the camera pushes in slowly.",
    "model": "wan-2.2-spicy",
    "resolution": "480p",
    "duration_s": 5,
    "sku": "CUP-RED-01",
}

ROWS: list[dict[str, Any]] = [
    {"id": "espresso", "campaign": "autumn", **ESPRESSO},
    # The same still and prompt again, as a different clip.
    {"id": "espresso-again", "campaign": "autumn", "take": 2, **ESPRESSO},
    # The clip of the first row, wanted twice: bought once, given to both rows.
    {"id": "espresso-for-winter", "campaign": "winter", **ESPRESSO},
    {
        "id": "espresso-square",
        "image": "stills/coffee-square.jpg",
        "prompt": "The crema swirls slowly in the cup, warm light moves across the "
        "red saucer, the camera circles a few degrees to the right.",
        # For a model that is made for everybody; any that serves the rest will do.
        "content": "general",
        "resolution": "720p",
        "duration_s": 5,
        "seed": 7,
        "sku": "CUP-RED-01",
        "campaign": "autumn",
    },
    {
        "id": "cat-blinks",
        "image": "stills/cat.jpg",
        "prompt": "The cat blinks slowly, its whiskers twitch, one ear turns towards "
        "a sound; the camera holds still, shallow depth of field.",
        "model": "wan-2.2-spicy",
        "resolution": "480p",
        "duration_s": 5,
    },
    {
        "id": "cat-looks-up",
        "image": "stills/cat.jpg",
        "prompt": "The cat lifts its head and follows something above it with its "
        "eyes, soft window light, gentle handheld camera.",
        "model": "wan-2.2-spicy",
        "resolution": "720p",
        "duration_s": 8,
        "seed": 20,
    },
    {
        "id": "rocket-dusk",
        "image": "stills/rocket.jpg",
        "prompt": "Dusk deepens over the launch pad, floodlights flicker and flare, "
        "thin vapour slides down the rocket, clouds drift along the horizon.",
        "model": "wan-2.2-spicy",
        "resolution": "720p",
        "duration_s": 5,
        "campaign": "space",
    },
    {
        "id": "rocket-tall",
        "image": "stills/rocket-portrait.jpg",
        "prompt": "The camera rises slowly along the rocket towards its nose while "
        "vapour vents from its side and the evening sky darkens.",
        "resolution": "480p",
        "duration_s": 8,
        "aspect_ratio": "auto",
        "seed": 1969,
        "campaign": "space",
    },
    {
        "id": "galaxies",
        "image": "stills/galaxies.jpg",
        "prompt": "A slow flight forward through the galaxies, the nearest ones slide "
        "past the edges of the frame, distant ones twinkle.",
        "resolution": "720p",
        "duration_s": 8,
        "campaign": "space",
    },
    {
        "id": "galaxies-tall",
        "image": "stills/galaxies-portrait.jpg",
        "prompt": "The field of galaxies turns slowly clockwise around the bright "
        "orange one in the middle, points of light shimmer.",
        "model": "wan-2.2-spicy",
        "resolution": "480p",
        "duration_s": 5,
        "seed": -1,
        "campaign": "space",
    },
    {
        "id": "grass",
        "image": "stills/grass-square.jpg",
        "prompt": "A breeze runs through the grass from left to right, clover leaves "
        "nod, seen from directly above, black and white.",
        "negative_prompt": "people, text, colour, camera shake",
        "model": "wan-2.2",
        "resolution": "480p",
        "duration_s": 5,
        "aspect_ratio": "1:1",
    },
    # Tiers may stand for models: draft, standard, premium.
    {
        "id": "rocket-premium",
        "image": "stills/rocket.jpg",
        "prompt": "Floodlights come on one after another around the launch pad, "
        "birds cross the sky from right to left, the camera rises slowly.",
        "model": "premium",
        "resolution": "720p",
        "duration_s": 5,
        "campaign": "space",
    },
    # The first of these that a lane in use makes.
    {
        "id": "cat-premium",
        "image": "stills/cat.jpg",
        "prompt": "The cat turns its head to the window and narrows its eyes, dust "
        "drifts through a ray of light, the camera moves a little closer.",
        "model": "kling-2.5-turbo, gen4-turbo, premium",
        "resolution": "720p",
        "duration_s": 5,
    },
]

if __name__ == "__main__":
    pl.DataFrame(ROWS, schema=COLUMNS).write_parquet(HERE / "manifest.parquet")
