"""A process that dies at any moment causes no double payment and no lost clip."""

import signal
import time
from dataclasses import dataclass

import pytest

from flows.config import lanes, settings
from manifests.lifecycle import State, fold
from storage.ledger import read
from storage.objects import Objects
from tasks.batch.lifespan import begun
from tasks.batch.request import Wanted
from tasks.batch.summary import Summary
from tasks.emulator import Emulator, running

pytestmark = pytest.mark.anyio

JOBS = 30
MOMENTS = [("submit", 1), ("submit", 6), ("poll", 4), ("download", 2), ("download", 9)]
"""The moments of death: the kind of request, and its number since the run began."""
QUICK_S = 20.0
"""The limit for a process; waiting for a dead run's lease would take a minute more."""


@dataclass
class Clock:
    """The machine's clock, which a test can put forward."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


async def once_more(bench) -> Summary:
    """Runs the batch again in this process, without a second spent on Prefect."""
    config = settings.load(bench.folder / "nightreel.toml")
    manifest, root = ((bench.folder / name).as_uri() for name in ("m.parquet", "root"))
    async with begun(
        Wanted(manifest=manifest, root=root),
        lanes=await lanes.opened(config),
        rules=lanes.rules(config),
    ) as batch_run:
        for number in range(len(batch_run.shards)):
            await batch_run.run_shard(number)
    return batch_run.summary()


@pytest.fixture
def slow(bench, clip):
    """The bench, with providers that take ten minutes by a separate clock."""
    clock = Clock()
    bench.emulator = Emulator(
        latency_s=600, slots=100, submits_per_minute=100000, clip=clip, clock=clock
    )
    with running(bench.emulator) as bench.url:
        bench.config()
        yield bench, clock


@pytest.mark.slow
async def test_killed_batch_buys_only_the_rest_when_run_again(bench, monkeypatch):
    """A batch that is killed repeatedly, until little is left to do."""
    monkeypatch.setenv("LANE_KEY", bench.prefect.env["LANE_KEY"])
    prompts = [f"pan {n}" for n in range(JOBS)]
    bench.manifest([{"prompt": prompt} for prompt in [*prompts, "pan 0"]])
    bench.config(more="engine.settle_s = 0")

    for kind, more in MOMENTS:
        count = bench.seen(kind) + more
        killed = bench.begin()
        bench.wait(lambda kind=kind, count=count: bench.seen(kind) >= count)
        killed.signal(signal.SIGKILL)
        assert killed.ended().code == -signal.SIGKILL
        assert set(bench.bought.values()) <= {1}, f"killed after {more} {kind}s"
    bought_by_then = {*bench.bought}
    began = time.monotonic()
    resumed = bench.run()
    took_s = time.monotonic() - began
    again = await once_more(bench)

    entries = await read(Objects.open(str(bench.folder / "root")))
    jobs = fold(entries)
    doubts = [job for job in jobs.values() if job.state is State.IN_DOUBT]
    reply = resumed.reply
    assert set(bench.bought.values()) == {1}
    assert bought_by_then <= {*bench.bought} <= {*prompts}
    assert len(bench.bought) >= JOBS - len(doubts)
    assert {job.state for job in jobs.values()} <= {State.PUBLISHED, State.IN_DOUBT}
    assert reply["published"] + reply["in_doubt"] == reply["rows"] == JOBS + 1
    assert resumed.code == (1 if doubts else 0), resumed.err
    assert took_s < QUICK_S
    assert bench.table().height == JOBS + 1
    assert (again.bought, again.in_doubt) == (0, reply["in_doubt"])
    assert float(sum(job.spent_usd for job in jobs.values())) >= bench.owed


def test_stopped_batch_leaves_no_doubt_and_the_next_continues(slow):
    """A batch that is stopped leaves no job in doubt, and the next one continues."""
    bench, clock = slow
    bench.manifest(8)
    stopped = bench.begin()
    bench.wait(lambda: len(bench.bought) >= 4)

    stopped.signal(signal.SIGTERM)
    ended = stopped.ended(within_s=100)
    clock.ahead_s = 600
    going_on = bench.start("run", "m.parquet", "--root", "root", "--json")
    bench.wait(lambda: len(bench.bought) == 8)
    clock.ahead_s = 1200
    resumed = going_on.ended()

    assert (ended.code, ended.reply["in_doubt"], ended.reply["pending"]) == (1, 0, 8)
    assert (resumed.code, resumed.reply["published"]) == (0, 8)
    assert resumed.reply["bought"] == 8 - ended.reply["bought"]
    assert set(bench.bought.values()) == {1}


@pytest.mark.slow
def test_a_second_run_on_a_root_is_refused_and_buys_nothing(slow):
    bench, _ = slow
    bench.manifest(2)
    first = bench.begin()
    bench.wait(lambda: len(bench.bought) == 2)
    bench.manifest([{"prompt": "another"}], "other")

    second = bench.run(manifest="other.parquet")
    first.signal(signal.SIGINT)
    ended = first.ended(within_s=100)

    assert (second.code, second.out) == (2, "")
    assert f"batch 'm' holds it: pid {first.process.pid} on" in second.err
    assert "Traceback" not in second.err
    assert bench.bought == {"pan 0": 1, "pan 1": 1}
    assert (ended.code, ended.reply["in_doubt"], ended.reply["pending"]) == (1, 0, 2)
