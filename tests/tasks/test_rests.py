"""A lane rests that gets answers which are not its provider's own, or a refused key."""

import asyncio
import logging
import time
from contextlib import ExitStack

import pytest
from starlette.responses import Response

from tasks.dispatch import rests
from tasks.dispatch.rests import ALIKE, ALIKE_CLOSE, Rests
from tasks.emulator import Emulator, running
from tasks.engine.engine import Rules

pytestmark = pytest.mark.anyio

ROUTE = "wavespeed/wan-2.2"
LOGIN = "https://login.example/start?token=abcdef"
MOVED = Response(status_code=308, headers={"location": LOGIN})
CHALLENGE = Response(
    "<html><head><title>Just a moment...</title></head></html>",
    403,
    media_type="text/html",
)
LIMITED = Response(
    "<html><body><h1>Error 1015</h1>You are being rate limited</body></html>",
    429,
    media_type="text/html",
)
NGINX = Response("<center><h1>404 Not Found</h1></center>nginx", 404)


def test_rests_grow_until_the_lane_closes():
    """Three alike begin a rest of a minute, which doubles up to an hour; ten close it."""
    one, now, waits = Rests(), 0.0, []
    for _ in range(ALIKE_CLOSE - 1):
        one.foreign("submit", "302", now)
        waits.append(one.wait_s(now))
        now += waits[-1]

    assert waits == [0, 0, 60, 120, 240, 480, 960, 1920, 3600]
    assert one.foreign("submit", "302", now) == "closes"


def test_answers_during_a_rest_do_not_count():
    """Answers of submits that were under way when the rest began do not lengthen it."""
    one = Rests()
    for _ in range(ALIKE + 5):
        one.foreign("submit", "302", 0.0)

    assert one.wait_s(0.0) == 60


def test_other_answers_and_acceptances_begin_the_row_anew():
    """Only answers that are alike, with no acceptance between them, make a rest."""
    one = Rests()
    for shape in ("302", "302", "404", "302", "302"):
        one.foreign("submit", shape, 0.0)
    assert one.wait_s(0.0) == 0
    one.answered("submit")
    one.foreign("submit", "302", 0.0)
    one.answered("poll")
    one.foreign("submit", "302", 0.0)
    assert one.wait_s(0.0) == 0

    one.foreign("submit", "302", 0.0)

    assert one.wait_s(0.0) == 60


def test_third_refusal_of_a_good_key_closes():
    """A refused key is tried after 20 and 40 s; refusals under way do not count."""
    one = Rests()

    assert [one.key_refused("poll", now) for now in (0.0, 1.0, 20.0, 60.0)] == [
        "rests",
        "goes on",
        "rests",
        "closes",
    ]


def stop_when_resting(lane, stopped):
    """Return a hook that stops the run once the lane rests."""

    def during(batch_run):
        async def stop():
            while not lane.rests.wait_s(time.monotonic()):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
            batch_run.engine.stop("the lane rests")

        stopped.append(asyncio.ensure_future(stop()))

    return during


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (MOVED, ["HTTP 308", "https://login.example/start?***", "base_url"]),
        (CHALLENGE, ["HTTP 403", "Just a moment", "user_agent"]),
        (LIMITED, ["HTTP 429", "Error 1015", "submits_per_minute"]),
        (NGINX, ["HTTP 404", "404 Not Found", "base_url"]),
    ],
)
async def test_page_to_each_submit_makes_few_doubts(
    worlds, emulator, caplog, page, words
):
    """The lane rests after a few doubts, and says status, place, words and the cure."""
    emulator.pages["submit"] = page
    stopped = []
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ROUTE], slots=20)
        lane = world.lane(ROUTE)

        summary = await world.run(
            20, lanes=[lane], during=stop_when_resting(lane, stopped)
        )

    [told] = [each for each in caplog.messages if each.startswith("lane.rests")]
    assert ALIKE <= summary.in_doubt < ALIKE + 4
    assert summary.pending == 20 - summary.in_doubt
    assert all(word in told for word in [*words, "stage=submit wait_s=60"])
    assert "abcdef" not in told
    assert emulator.bill == []


class TwoProviders:
    """Two lanes with the same route: one behind a proxy's pages, and one that works."""

    def __init__(self, worlds, clip, stack, route=ROUTE, **rules):
        self.good = Emulator(latency_s=0.1, clip=clip)
        self.behind = Emulator(latency_s=0.1, clip=clip)
        url = stack.enter_context(running(self.good))
        self.world = worlds(emulator=self.good, url=url, routes=[])
        self.world.rules = Rules(settle_s=0.0, **rules)
        works = self.world.lane(route, key="works")
        works.name = "works"
        self.world.url = stack.enter_context(running(self.behind))
        self.first = self.world.lane(route)
        self.first.name = "behind"
        self.lanes = [self.first, works]


@pytest.mark.parametrize("page", [MOVED, Response("<html>Log in</html>")])
async def test_page_to_uploads_sends_rows_to_another_lane(worlds, clip, page):
    """A login page in front of the uploads ends no row while another lane works."""
    with ExitStack() as stack:
        two = TwoProviders(worlds, clip, stack)
        two.behind.pages["upload"] = page

        summary = await two.world.run(8, lanes=two.lanes)

    assert (summary.published, summary.exit_code) == (8, 0)
    assert two.behind.bill == []


@pytest.mark.parametrize("page", [MOVED, Response("<html>Log in</html>"), NGINX])
async def test_page_to_polls_of_a_gpu_sends_rows_to_another(worlds, clip, page, caplog):
    """A login in front of a GPU's polls ends no row: another GPU makes it."""
    caplog.set_level(logging.WARNING)
    with ExitStack() as stack:
        two = TwoProviders(worlds, clip, stack, "sglang/wan-2.2", dead_s=1.0)
        two.behind.pages["poll"] = page

        summary = await two.world.run(8, lanes=two.lanes)

    assert (summary.published, summary.exit_code) == (8, 0)
    assert "lane.rests lane=behind stage=poll" in caplog.text


async def test_engine_without_the_polled_path_is_the_lanes_trouble(worlds, clip):
    """A router's 404 to polls makes no job forgotten: the lane rests."""
    with ExitStack() as stack:
        two = TwoProviders(worlds, clip, stack, "sglang/wan-2.2", dead_s=1.0)
        two.behind.pages["poll"] = Response(
            '{"detail":"Not Found"}', 404, media_type="application/json"
        )

        summary = await two.world.run(12, lanes=two.lanes)

    slots = two.first.limits.slots + two.first.limiter.slots
    assert (summary.published, summary.exit_code) == (12, 0)
    assert len(two.behind.bill) <= slots


@pytest.fixture
def quick_rests(monkeypatch):
    monkeypatch.setattr(rests, "KEY_RESTS_S", (0.2, 0.4))


REFUSED_KEY = Response(
    '{"code":401,"message":"no"}', 401, media_type="application/json"
)


def refusing_the_key(emulator, lane, kind, *, until):
    """Return a hook that has the key refused once it was good, until `until()`."""

    async def refuse():
        while not lane.key_was_good:  # noqa: ASYNC110 - another task sets it
            await asyncio.sleep(0.001)
        emulator.pages[kind] = REFUSED_KEY
        while not until():  # noqa: ASYNC110 - another task decides it
            await asyncio.sleep(0.001)
        del emulator.pages[kind]

    return lambda _: asyncio.ensure_future(refuse())


async def test_key_refused_once_does_not_close_the_lane(
    worlds, emulator, quick_rests, caplog
):
    """One 401 in a run whose key was good makes the lane rest, and go on."""
    del quick_rests
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ROUTE])
        lane = world.lane(ROUTE, slots=1, queues=False)
        rests = refusing_the_key(
            emulator, lane, "submit", until=lambda: lane.rests.wait_s(time.monotonic())
        )

        summary = await world.run(8, lanes=[lane], during=rests)

    assert (summary.published, summary.lanes_closed) == (8, {})
    assert "lane.rests lane=wavespeed stage=submit" in caplog.text


async def test_clips_of_a_lane_closed_by_its_key_are_fetched(worlds, clip, quick_rests):
    """A lane that closes at the third refusal of its key still fetches what it bought."""
    del quick_rests
    emulator = Emulator(latency_s=1.0, clip=clip)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[ROUTE], slots=2)
        lane = world.lane(ROUTE, queues=False)

        closes = refusing_the_key(
            emulator, lane, "poll", until=lambda: lane.closed is not None
        )

        summary = await world.run(9, lanes=[lane], during=closes)

    assert "401" in summary.lanes_closed["wavespeed"]
    assert summary.published == len(emulator.bill) > 0
    assert summary.pending == 9 - summary.published
