"""Reservations: a job's slot, still and money before anything is spent."""

import asyncio
import random
import time

import pytest
from PIL import Image

from manifests.jobs import Job, Order
from tasks.dispatch import Budget, Router
from tasks.emulator import running
from tasks.engine.environment import Deps, Rules, World
from tasks.engine.job_run import JobRun
from tasks.engine.reserve import Reserver
from tasks.providers.http import connected

pytestmark = pytest.mark.anyio

KLING = "kling/kling-2.5-turbo"


@pytest.fixture
def order(tmp_path):
    """A job with a still of noise, which does not compress."""
    noise = random.Random(1).randbytes(1000 * 700 * 3)
    path = tmp_path / "large.png"
    Image.frombytes("RGB", (1000, 700), noise).save(path, compress_level=0)
    job = Job(
        image="large.png", prompt="pan", model="kling-2.5-turbo", resolution="720p"
    )
    return Order(job=job, still=path.as_uri())


def kept(run):
    """Number of characters."""
    return sum(len(still.url) for still in run.still_urls.values())


async def test_inline_still_is_not_kept_by_a_job_that_waits(worlds, emulator, order):
    """A job that waits for its turn does not keep its inline still in memory."""
    with running(emulator) as url:
        lane = worlds(emulator=emulator, url=url, routes=[KLING], slots=1).lane(KLING)
        router = Router([lane], policy="balanced", now=time.monotonic, today=time.time)
        async with connected() as clients:
            deps = Deps(
                world=World(),
                rules=Rules(),
                objects=None,
                ledger=None,
                clients=clients,
                router=router,
                budget=Budget(),
            )
            able = router.able(order)
            first, second = (JobRun(order, deps.lanes, able) for _ in range(2))
            reserver = Reserver(deps)
            await reserver.reserve(first, None)
            waiting = asyncio.create_task(reserver.reserve(second, None))
            await asyncio.wait({waiting}, timeout=0.5)
            assert not waiting.done()
            assert kept(second) == 0

            lane.limiter.accepted(time.monotonic())
            first.release_slot()
            reservation = await waiting

    assert len(reservation.image_url) > 2_000_000
    assert kept(first) == kept(second) == 0
