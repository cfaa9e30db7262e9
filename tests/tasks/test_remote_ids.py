"""A gateway gives one remote id to two submits, over real HTTP."""

import pytest

from tasks.emulator import Fault, running
from tasks.engine.engine import Rules

pytestmark = pytest.mark.anyio


@pytest.fixture
def atlas(worlds, emulator):
    """A provider that cannot report what became of a submit."""
    with running(emulator) as url:
        yield worlds(
            emulator=emulator, url=url, routes=["atlas/wan-2.2-spicy"], slots=1
        )


async def test_no_two_rows_get_one_clip(world):
    """No id is published twice, nothing is broken, and each clip is paid for once."""
    world.slots = 1
    world.emulator.faults["pan"] = [Fault.CACHED_ACCEPT] * 2

    summary = await world.run(3)

    published = world.table("clips").filter(state="published")
    assert published["remote_id"].n_unique() == published.height == summary.published
    assert summary.broken == {}
    assert {*world.bought.values()} == {1}
    [why] = summary.lanes_closed.values()
    assert "gives one id to two submits" in why


async def test_second_submit_with_an_id_is_a_doubt(atlas):
    """The doubt names the job that has the id, and the lane buys no more."""
    atlas.emulator.faults["pan"] = [Fault.CACHED_ACCEPT] * 2

    summary = await atlas.run(3)

    clips = atlas.table("clips")
    [reason] = clips.filter(state="in_doubt")["reason"]
    [owner] = [job for job in clips["job"] if f"belongs to job {job}: " in reason]
    assert clips.filter(job=owner)["state"][0] == "published"
    assert (summary.in_doubt, summary.fault, summary.broken) == (1, None, {})


async def test_id_of_an_earlier_run_is_known(atlas):
    """A job that an earlier run left at its provider keeps its id."""
    atlas.emulator.faults["pan 0"] = [Fault.STUCK]
    atlas.rules = Rules(settle_s=0.0, deadline_s=0.5)
    first = await atlas.run(1)
    atlas.emulator.faults["late"] = [Fault.CACHED_ACCEPT]

    second = await atlas.run([{"prompt": "late"}])

    assert (first.published, first.pending) == (0, 1)
    assert (second.published, second.in_doubt) == (0, 1)
    assert "this id belongs to job" in atlas.table("clips")["reason"][0]
