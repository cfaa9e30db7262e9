"""A clip is published whole, or not at all."""

from decimal import Decimal

import pytest

from storage.media import Clips
from storage.objects import ExistsError, Objects

pytestmark = [pytest.mark.anyio, pytest.mark.core]

JOB = "abcd" * 8


async def test_a_clip_and_its_sidecar_are_published_together(objects: Objects):
    clips = Clips(objects)

    uri = await clips.publish(JOB, b"mp4", {"usd": Decimal("0.10"), "seed": 7})

    assert uri == f"{objects.root}/clips/ab/{JOB}.mp4" == clips.uri(JOB)
    assert await objects.get(f"clips/ab/{JOB}.mp4") == b"mp4"
    assert await clips.sidecar(JOB) == {"usd": "0.10", "seed": 7}


async def test_a_clip_without_its_sidecar_is_not_there(objects: Objects):
    await objects.create(f"clips/ab/{JOB}.mp4", b"half a crash")
    clips = Clips(objects)

    assert await clips.sidecar(JOB) is None


async def test_leftover_of_a_crash_is_replaced(objects: Objects):
    """A clip that a crash left without its sidecar is replaced."""
    await objects.create(f"clips/ab/{JOB}.mp4", b"of the crashed run")

    await Clips(objects).publish(JOB, b"of this run", {"run": 2})

    assert await objects.get(f"clips/ab/{JOB}.mp4") == b"of this run"


async def test_a_published_clip_is_never_touched_again(objects: Objects):
    clips = Clips(objects)
    await clips.publish(JOB, b"first", {"run": 1})

    with pytest.raises(ExistsError):
        await clips.publish(JOB, b"second", {"run": 2})

    assert await objects.get(f"clips/ab/{JOB}.mp4") == b"first"
    assert await clips.sidecar(JOB) == {"run": 1}
