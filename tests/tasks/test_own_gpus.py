"""Own GPUs that restart, die or drain lose no clip and leave no job in doubt."""

import asyncio
import time
from contextlib import ExitStack, suppress

import httpx
import polars as pl
import pytest
from starlette.responses import Response

from tasks.dispatch import run_times
from tasks.dispatch.lane import FIRST_FAILED, STUCK
from tasks.emulator import Emulator, Fault, running
from tasks.engine.engine import Rules
from tasks.engine.poll import Patience, UnfinishedError
from tasks.engine.stats import WaitReason

pytestmark = pytest.mark.anyio

SLOW = ["sglang", "vllm-omni", "fastvideo", "lightx2v", "comfyui"]


@pytest.fixture(
    params=["nightreel", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)]
)
def route(request):
    return f"{request.param}/wan-2.2"


async def test_a_job_that_was_forgotten_in_a_restart_is_sent_again(world):
    world.emulator.faults["pan 1"] = [Fault.FORGET]

    summary = await world.run(3)

    attempts = world.table("attempts").filter(outcome="forgotten")
    assert (summary.published, summary.exit_code) == (3, 0)
    assert world.bought == {"pan 0": 1, "pan 1": 2, "pan 2": 1}
    assert attempts["reason"].str.contains("404").to_list() == [True]


@pytest.mark.slow
async def test_job_that_is_forgotten_each_time_rests_with_a_reason(world):
    world.rules = Rules(settle_s=0.0, attempts=9)
    world.emulator.faults["pan 1"] = [Fault.FORGET] * 9

    summary = await world.run(3)

    [waiting] = world.batch_runs[0].engine.tally.waiting_jobs.values()
    assert (summary.published, summary.pending) == (2, 1)
    assert world.bought["pan 1"] == 3
    assert (waiting.why, waiting.reason[:22]) == (
        WaitReason.ATTEMPTS,
        "3 times sent and lost:",
    )


async def test_engines_seconds_are_in_the_table_of_attempts(worlds):
    """The seconds that an engine reports are in the table of attempts."""
    emulator = Emulator(latency_s=0.2)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["nightreel/wan-2.2"])

        await world.run(2)

    stages = world.table("attempts")["stages"].str.json_decode(
        pl.Struct({"all": pl.Float64})
    )
    assert (stages.struct.field("all") >= 0.2).to_list() == [True, True]


async def test_a_doubt_is_not_waited_for(world):
    world.rules = Rules(settle_s=3600.0)
    world.emulator.faults["pan 1"] = [Fault.ERROR_BEFORE]

    summary = await world.run(3)

    assert (summary.published, summary.in_doubt) == (3, 0)
    assert world.bought == {"pan 0": 1, "pan 1": 1, "pan 2": 1}


async def test_draining_gpu_gets_a_pause_and_is_not_closed(worlds, emulator):
    """A GPU that drains gets no jobs for a while, and its lane is not closed."""
    emulator.faults["pan 1"] = [Fault.DRAIN]
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["nightreel/wan-2.2"])

        summary = await world.run(3)

    assert (summary.published, summary.lanes_closed) == (3, {})
    assert world.batch_runs[0].engine.lanes.all[0].limiter.learned() is None


class Door:
    """A proxy before an engine, which still takes connections when the engine is dead."""

    def __init__(self, url):
        self._port = httpx.URL(url).port
        self._taken: list[asyncio.StreamWriter] = []
        self.dead = False
        self.says = b""
        """The answer in place of a dead engine, as a proxy gives it; empty for none."""

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for taken in self._taken:
            taken.close()

    async def _take(self, asks, answers):
        far_asks, far_answers = await asyncio.open_connection("127.0.0.1", self._port)
        self._taken += [answers, far_answers]
        await asyncio.gather(
            self._pass(asks, far_answers, back=answers),
            self._pass(far_asks, answers, back=None),
        )

    async def _pass(self, read, write, back):
        with suppress(OSError):
            while some := await read.read(2**16):
                if not self.dead:
                    write.write(some)
                elif back is not None:
                    back.write(self.says)
        write.close()


AWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("says", ["refused", "silent", "away"])
async def test_jobs_of_a_dead_gpu_are_made_by_another(worlds, clip, says):
    quick = Emulator(latency_s=0.1, clip=clip)
    hung = Emulator(latency_s=3600.0, clip=clip)
    with ExitStack() as second, running(quick) as url:
        doomed = second.enter_context(running(hung))
        async with Door(doomed) as door:
            door.says = AWAY if says == "away" else b""
            world = worlds(emulator=quick, url=url, routes=[], timeout_s=0.5)
            world.rules = Rules(settle_s=0.0, dead_s=0.5)
            lives = world.lane("sglang/wan-2.2")
            world.url = doomed if says == "refused" else door.url
            dies = world.lane("sglang/wan-2.2", slots=1, queues=False)
            dies.name = "dies"

            async def kill():
                while not hung.bill:  # noqa: ASYNC110 - it is in another thread
                    await asyncio.sleep(0.01)
                door.dead = True
                if says == "refused":
                    await asyncio.to_thread(second.close)

            killing = asyncio.create_task(kill())
            summary = await world.run(3, lanes=[dies, lives])
            await killing

    assert (summary.published, summary.exit_code) == (3, 0)
    assert len(hung.bill) == 1


@pytest.mark.parametrize("dead", [b"", AWAY])
async def test_stills_that_a_dead_one_does_not_take_another_one_gets(
    worlds, clip, dead
):
    quick, never = Emulator(latency_s=0.1, clip=clip), Emulator()
    with running(quick) as url, running(never) as doomed:
        async with Door(doomed) as door:
            door.dead, door.says = True, dead
            world = worlds(emulator=quick, url=url, routes=[], timeout_s=0.5)
            world.rules = Rules(settle_s=0.0, dead_s=0.5)
            lives = world.lane("comfyui/wan-2.2", slots=1, queues=False)
            world.url = door.url
            dies = world.lane("comfyui/wan-2.2")
            dies.name = "dies"

            summary = await world.run(3, lanes=[dies, lives])

    assert (summary.published, summary.exit_code) == (3, 0)


async def test_gpu_that_never_answers_is_closed_as_out_of_reach(worlds, emulator):
    """A lane whose GPU never answers is closed as out of reach."""
    emulator.faults["pan 0"] = [Fault.LOSE_ANSWER]
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["nightreel/wan-2.2"])
        lane, long_ago = world.lane("nightreel/wan-2.2"), time.monotonic() - 9000.0
        for minute in range(10):
            lane.limiter.unreachable(long_ago + 600.0 * minute)

        summary = await world.run(1, lanes=[lane])

    assert "gives no answer" in summary.lanes_closed["nightreel"]


async def test_gpu_without_alternative_is_waited_for_then_left():
    """A job with no other GPU waits, then is left to the next run."""
    alone = Patience(left_s=900.0)

    assert alone.after(899.0, "no answer") is None
    with pytest.raises(UnfinishedError, match="out of reach for 900 s: no answer"):
        alone.after(900.0, "no answer")


async def test_clip_has_the_frames_ordered_not_the_engines_default(worlds):
    """A clip has the frames that were ordered, not the engine's default."""
    emulator = Emulator(latency_s=0.1)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["sglang/wan-2.2"])
        tall = world.still("tall.jpg", (360, 640))

        await world.run([{"image": tall, "prompt": "pan"}])

    [made] = world.table("clips").rows(named=True)
    assert (made["width"], made["height"], made["fps"]) == (480, 832, 16)
    assert round(made["seconds"] * made["fps"]) == 81


async def test_a_clip_in_a_store_is_fetched_there_without_the_key(worlds, emulator):
    emulator.faults["pan"] = [Fault.STORE]
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["sglang/wan-2.2"])

        summary = await world.run(1)

    assert (summary.published, emulator.stats()["keys_shown"]) == (1, 0)


async def test_a_clip_is_behind_the_workers_own_key(worlds, clip):
    emulator = Emulator(latency_s=0.1, clip=clip, keys={"key"})
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["nightreel/wan-2.2"])

        summary = await world.run(1)

    assert summary.published == 1
    assert emulator.stats()["keys_shown"] == 0


async def test_paid_doubt_is_not_dismissed_by_a_free_lane_of_its_name(worlds, emulator):
    """A free lane of the same name does not dismiss a doubt that may be charged."""
    emulator.faults["pan 0"] = [Fault.LOSE_ANSWER]
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["fal/wan-2.2"])
        manifest = world.manifest(1)
        sold, own = world.lane("fal/wan-2.2"), world.lane("sglang/wan-2.2")
        sold.name = own.name = "gpu"
        await world.run(manifest, lanes=[sold])

        summary = await world.run(manifest, lanes=[own])

    assert (summary.published, summary.in_doubt) == (0, 1)
    assert world.bought == {"pan 0": 1}


async def test_doubt_of_a_paid_lane_stays_one_at_a_price_of_0(worlds, emulator):
    """A doubt of a lane marked as paid stays in doubt, although its price is 0."""
    emulator.faults["pan 0"] = [Fault.LOSE_ANSWER]
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["vllm-omni/wan-2.2"])
        lane = world.lane("vllm-omni/wan-2.2")
        lane.paid = True

        summary = await world.run(1, lanes=[lane])

    assert (summary.published, summary.in_doubt) == (0, 1)
    assert world.bought == {"pan 0": 1}


async def test_clip_bought_from_an_engine_is_not_forgotten_by_a_gpu(worlds, clip):
    """A clip paid for at one engine is not given up by an unpaid GPU lane."""
    seller, own = Emulator(latency_s=3600.0), Emulator(latency_s=0.1, clip=clip)
    with running(seller) as url, running(own) as own_url:
        world = worlds(emulator=seller, url=url, routes=["sglang/wan-2.2"])
        manifest, sold = world.manifest(1), world.lane("sglang/wan-2.2")
        sold.name, sold.paid = "sold", True
        world.rules = Rules(settle_s=0.0, deadline_s=0.1)
        await world.run(manifest, lanes=[sold])
        world.url, world.rules = own_url, Rules(settle_s=0.0, deadline_s=2.0)

        summary = await world.run(manifest, lanes=[world.lane("sglang/wan-2.2")])

    assert (summary.published, summary.pending) == (0, 1)
    assert (len(seller.bill), len(own.bill)) == (1, 0)


async def test_a_gpu_by_another_name_still_has_its_jobs(worlds, clip):
    other, busy = Emulator(clip=clip), Emulator(latency_s=1.5, clip=clip)
    with running(other) as other_url, running(busy) as url:
        world = worlds(emulator=busy, url=url, routes=["sglang/wan-2.2"])
        manifest = world.manifest(1)
        world.rules = Rules(settle_s=0.0, deadline_s=0.1)
        await world.run(manifest)
        world.rules, first = Rules(settle_s=0.0), world.lane("sglang/wan-2.2")
        first.name, world.url = "gpu-1", other_url
        second = world.lane("sglang/wan-2.2")

        summary = await world.run(manifest, lanes=[second, first])

    assert summary.published == 1
    assert (len(other.bill), len(busy.bill)) == (0, 1)


class TwoGpus:
    """Two GPUs with the same engine: one that works, and one with a fault."""

    def __init__(self, worlds, clip, stack, *, engine="sglang", **rules):
        self.good = Emulator(latency_s=0.1, clip=clip)
        self.sick = Emulator(latency_s=0.1, clip=clip)
        url = stack.enter_context(running(self.good))
        self.world = worlds(emulator=self.good, url=url, routes=[])
        self.world.rules = Rules(settle_s=0.0, **rules)
        works = self.world.lane(f"{engine}/wan-2.2", slots=1, queues=False)
        works.name = "works"
        self.world.url = stack.enter_context(running(self.sick))
        self.fails = self.world.lane(f"{engine}/wan-2.2", slots=1, queues=False)
        self.fails.name = "fails"
        self.lanes = [self.fails, works]


@pytest.mark.parametrize("rows", [1, 12])
async def test_rows_of_a_sick_gpu_are_made_by_another(worlds, clip, rows):
    """No row ends at a GPU on which each job fails at once; its lane closes early."""
    with ExitStack() as stack:
        two = TwoGpus(worlds, clip, stack)
        two.sick.faults["pan"] = [Fault.FAIL] * 99

        summary = await two.world.run(rows, lanes=two.lanes)

    assert (summary.published, summary.exit_code) == (rows, 0)
    assert len(two.sick.bill) <= FIRST_FAILED
    if rows > FIRST_FAILED:
        assert "its first 3 jobs all failed" in summary.lanes_closed["fails"]
        assert "out of memory" in summary.lanes_closed["fails"]


async def test_stuck_job_is_made_by_another_gpu(worlds, clip, monkeypatch, caplog):
    """A job that takes ten times as long as others of its kind goes to another GPU."""
    monkeypatch.setattr(run_times, "LEAST_S", 1.0)
    with ExitStack() as stack:
        two = TwoGpus(worlds, clip, stack)
        two.sick.faults["pan"] = [Fault.STUCK] * 99

        summary = await two.world.run(12, lanes=two.lanes)

    assert (summary.published, summary.exit_code) == (12, 0)
    assert 1 <= len(two.sick.bill) <= STUCK
    assert "job.stuck" in caplog.text
    assert "others took" in caplog.text


async def test_stuck_job_without_another_gpu_is_waited_for(
    worlds, emulator, monkeypatch
):
    """A job is not given up while no other lane can make it; it stays pending."""
    monkeypatch.setattr(run_times, "LEAST_S", 0.2)
    emulator.faults["pan 4"] = [Fault.STUCK]
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["sglang/wan-2.2"])
        world.rules = Rules(settle_s=0.0, deadline_s=3.0)

        summary = await world.run(5)

    assert (summary.published, summary.pending) == (4, 1)
    assert world.bought["pan 4"] == 1


async def test_stuck_job_of_a_paid_lane_is_never_given_up(worlds, clip, monkeypatch):
    """A paid job that does not move keeps its attempt, however fast the others were."""
    monkeypatch.setattr(run_times, "LEAST_S", 0.2)
    with ExitStack() as stack:
        two = TwoGpus(worlds, clip, stack, deadline_s=3.0)
        two.fails.paid = True
        two.sick.faults["pan"] = [Fault.STUCK]

        summary = await two.world.run(6, lanes=two.lanes)

    assert (summary.published, summary.pending) == (5, 1)
    assert len(two.sick.bill) >= 1


async def test_comfyui_makes_the_same_jobs_for_another_root(worlds, emulator):
    """ComfyUI's cache answers no submit of a job that another root had made there."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["comfyui/wan-2.2"])
        manifest = world.manifest(4)
        await world.run(manifest)

        again = await world.run(manifest, root=(world.folder / "other").as_uri())

    assert (again.published, again.lanes_closed) == (4, {})
    assert set(world.bought.values()) == {2}


async def test_gpu_whose_answers_cannot_be_read_ends_no_row(worlds, clip):
    """Rows leave a GPU with unreadable answers to polls after `dead_s`, for another."""
    with ExitStack() as stack:
        two = TwoGpus(worlds, clip, stack, dead_s=0.5)
        two.sick.pages["poll"] = Response(
            '{"id": "1", "status": ["?"]}', media_type="application/json"
        )

        summary = await two.world.run(3, lanes=two.lanes)

    assert (summary.published, summary.exit_code) == (3, 0)
    reasons = two.world.table("attempts")["reason"].drop_nulls().to_list()
    assert any("its answers cannot be read" in reason for reason in reasons)
