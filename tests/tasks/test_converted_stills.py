"""Stills that providers do not take: converted, sent, and named in the sidecar."""

import json

import pytest

from tasks.emulator import running
from tasks.engine.environment import Rules

pytestmark = pytest.mark.anyio

ROUTE = "wavespeed/wan-2.2-spicy"


async def test_converted_still_is_bought_and_in_the_sidecar(worlds, emulator):
    """A WebP is sent as PNG; the clip's sidecar tells it, and a JPEG's has no such field."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ROUTE])
        stills = [world.still(name) for name in ("a.webp", "b.jpg")]
        summary = await world.run([{"image": s, "prompt": s[-6:]} for s in stills])

    found = (world.folder / "root" / "clips").rglob("*.json")
    sidecars = [json.loads(path.read_text()) for path in found]
    assert summary.published == 2
    assert {each["prompt"]: each.get("still_changes") for each in sidecars} == {
        "a.webp": ["converted from WebP (RGB) to PNG (RGB)"],
        "/b.jpg": None,
    }


async def test_still_is_not_converted_against_the_owners_wish(worlds, emulator):
    """With `convert_stills = false` such a row is bad, and nothing is bought for it."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ROUTE])
        world.rules = Rules(settle_s=0.0, convert_stills=False)
        rows = [{"image": world.still("a.webp"), "prompt": "p"}]
        summary = await world.run(rows, convert_stills=False)

    assert (summary.published, emulator.bill) == (0, [])
    assert "convert_stills is off" in world.table("clips")["reason"][0]
