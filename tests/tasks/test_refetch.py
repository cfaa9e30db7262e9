"""Clips that are ready and cannot be fetched at first, over real HTTP."""

import logging

import pytest

from tasks.emulator import Fault, running
from tasks.engine.engine import Rules
from tasks.providers.http import Pace

pytestmark = pytest.mark.anyio

ATLAS = "atlas/wan-2.2-spicy"


@pytest.fixture
def atlas(worlds, emulator):
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=[ATLAS])


async def test_clip_refused_six_times_is_asked_for_at_the_end(atlas, caplog):
    """It is published in the same run; the log says which clip, and until when it is kept."""
    atlas.emulator.faults["pan 0"] = [Fault.REFUSED_CLIP]
    atlas.rules = Rules(settle_s=0.0, refused_s=0.0)

    with caplog.at_level(logging.WARNING, "tasks.engine.refetch"):
        summary = await atlas.run(2)

    [line] = [r.message for r in caplog.records if "clip.refused" in r.message]
    refused = atlas.table("clips").sort("published_at")["job"][-1]
    assert (summary.published, summary.bought, summary.exit_code) == (2, 2, 0)
    assert {*atlas.bought.values()} == {1}
    assert f"job={refused} " in line
    assert "HTTP 403" in line
    assert "its provider keeps it until 20" in line


@pytest.mark.slow
async def test_clip_of_another_manifest_is_asked_for_at_the_end(atlas):
    """A run asks again for refused clips that other batches bought, too."""
    atlas.emulator.faults["late"] = [Fault.REFUSED_CLIP, Fault.STUCK]
    atlas.rules = Rules(settle_s=0.0, refused_s=0.0, deadline_s=0.0)
    left = await atlas.run([{"prompt": "late"}])
    atlas.rules = Rules(settle_s=0.0, refused_s=0.0)

    summary = await atlas.run(1)

    assert (left.published, left.pending, summary.published) == (0, 1, 1)
    assert atlas.batch_runs[-1].engine.tally.fetched == 1
    assert {*atlas.bought.values()} == {1}


@pytest.mark.slow
async def test_end_of_a_run_waits_for_a_clip_just_refused(atlas):
    """A clip that is refused once more than a worker tries is not left to the next run."""
    atlas.emulator.faults["pan"] = [Fault.REFUSED_CLIP]

    summary = await atlas.run(1)

    assert (summary.published, summary.bought) == (1, 1)


async def test_dripping_links_do_not_starve_the_rest(atlas):
    """Links that drip give their places up, and all clips are fetched."""
    for number in range(4):
        atlas.emulator.faults[f"pan {number}"] = [Fault.DRIP_CLIP]
    atlas.rules = Rules(settle_s=0.0, refused_s=0.0, downloads=4)
    atlas.pace = Pace(part_s=0.5)

    summary = await atlas.run(8)

    clips = atlas.table("clips").sort("published_at")
    assert (summary.published, summary.bought) == (8, 8)
    assert {*atlas.bought.values()} == {1}
    assert {*clips["prompt"][-4:]} == {f"pan {number}" for number in range(4)}


async def test_download_has_a_time_limit_as_a_whole(atlas):
    """A link that brings each part in time is given up after `whole_s`."""
    atlas.emulator.faults["pan"] = [Fault.DRIP_CLIP]
    atlas.rules = Rules(settle_s=0.0, refused_s=0.0)
    atlas.pace = Pace(part=1, whole_s=1.0)

    summary = await atlas.run(1)

    assert (summary.published, summary.bought) == (1, 1)
