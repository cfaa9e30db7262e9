"""A process may die at any moment: nothing is paid for twice, nothing paid for is lost."""

import signal
import time
from decimal import Decimal

import pytest

from storage.ledger import read
from storage.objects import Objects
from manifests.lifecycle import State, fold
from tasks.emulator import Emulator

JOBS = 18
MOMENTS = {
    "after the first submit": ("submit", 1),
    "after a third of the submits": ("submit", JOBS // 3),
    "while polls go on": ("poll", JOBS // 2),
    "after the first downloads": ("download", 2),
    "near the end": ("download", JOBS - 2),
}
QUICK_S = 15.0
"""A run that waited for the dead one's lease would wait for a minute."""

pytestmark = pytest.mark.anyio


async def on_record(bench):
    objects = Objects.open(str(bench.folder / "root"))
    return fold(await read(objects))


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_batch_that_is_killed_buys_only_what_it_had_not_bought(bench, moment):
    bench.manifest(
        [*({"prompt": f"pan {n}"} for n in range(JOBS)), {"prompt": "pan 0"}]
    )
    kind, count = MOMENTS[moment]

    killed = bench.begin()
    until(lambda: bench.seen(kind) >= count)
    killed.signal(signal.SIGKILL)
    assert killed.ended().code == -signal.SIGKILL
    bought_by_then = {*bench.bought}
    began = time.monotonic()
    resumed = bench.run()
    took_s = time.monotonic() - began
    third = bench.run()

    states = {job.state for job in (await on_record(bench)).values()}
    said = resumed.said
    assert set(bench.bought.values()) == {1}
    assert bought_by_then <= {*bench.bought}
    assert states <= {State.PUBLISHED, State.IN_DOUBT}
    assert said["published"] + said["in_doubt"] == said["rows"] == JOBS + 1
    assert resumed.code == (1 if said["in_doubt"] else 0), resumed.err
    assert bench.table().height == JOBS + 1
    assert took_s < QUICK_S
    assert (third.code, third.said["bought"]) == (resumed.code, 0)
    assert len(bench.bought) <= JOBS
