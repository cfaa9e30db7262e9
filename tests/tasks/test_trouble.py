"""The engine reports trouble in half a minute: lane, stage, reason and count."""

import asyncio
import io
import json
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest
from rich.console import Console
from tenacity import RetryCallState

from flows.commands.status import observed
from flows.dashboard.night import NightPage
from flows.views import unmade
from manifests.reasons import alike
from storage.objects import Objects
from storage.run_reports import put
from tasks.batch.run_report import report_of
from tasks.batch.watches import tell_troubles
from tasks.emulator import Emulator, running
from tasks.engine.standstill import SHORTEST_S, TIMES, Standstills
from tasks.engine.trouble import IN_A_ROW, UNHEALED_S, Stage, Troubles, merged
from tasks.providers.errors import InDoubtError, ThrottledError
from tasks.providers.http import LONGEST_RETRY_AFTER_S, retrying

pytestmark = pytest.mark.anyio

SPICY = "wavespeed/wan-2.2-spicy"
KLING = "kling/kling-2.5-turbo"
UPLOAD, POLL = Stage.UPLOAD, Stage.POLL


@pytest.fixture
def clock():
    """A clock that stands still until it is set."""
    return Clock()


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Proxy:
    """Stands before the emulator, and answers requests of some paths itself."""

    emulator: Emulator
    method: str
    part: str
    """A part of the path of the requests that it answers."""
    status: int
    body: dict
    headers: dict[str, str] = field(default_factory=dict)
    answers: int = 0

    async def __call__(self, scope, receive, send):
        ours = scope["type"] == "http" and self.part in scope["path"]
        if not (ours and scope["method"] == self.method):
            await self.emulator(scope, receive, send)
            return
        self.answers += 1
        while (await receive()).get("more_body"):
            pass
        head = {"content-type": "application/json", **self.headers}
        headers = [(name.encode(), text.encode()) for name, text in head.items()]
        start = {"type": "http.response.start", "status": self.status}
        await send({**start, "headers": headers})
        content = json.dumps(self.body).encode()
        await send({"type": "http.response.body", "body": content})


def objects(world):
    return Objects.open((world.folder / "root").as_uri())


def printed(seen):
    """The text of `nightreel status` at a wide terminal."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(seen.rendered("root"))
    return console.export_text()


async def until(fact, batch_run):
    """Look for trouble until this is true of it."""
    while not fact(batch_run.troubles):
        tell_troubles(batch_run)
        await asyncio.sleep(0.01)
    tell_troubles(batch_run)


async def test_third_failure_in_a_row_is_a_trouble(clock):
    """A stage is in trouble at its third failure, and no longer after a success."""
    troubles = Troubles(clock)

    for n in range(IN_A_ROW):
        assert troubles.standing() == []
        troubles.failed("spicy", UPLOAD, f"HTTP 50{n}")
    (one,) = troubles.standing()
    troubles.succeeded("spicy", UPLOAD)

    assert (one.lane, one.stage, one.count) == ("spicy", UPLOAD, IN_A_ROW)
    assert (one.reason, one.since) == ("HTTP 502", 1000.0)
    assert troubles.standing() == []


async def test_single_failure_is_a_trouble_after_half_a_minute(clock):
    troubles = Troubles(clock)
    troubles.failed("spicy", UPLOAD, "HTTP 429", "job")

    clock.now += UNHEALED_S - 1
    assert troubles.standing() == []
    clock.now += 1

    assert [one.count for one in troubles.standing()] == [1]


async def test_success_of_another_job_heals_nothing(clock):
    """A job that always fails is a trouble although all others succeed."""
    troubles = Troubles(clock)

    for _ in range(IN_A_ROW):
        troubles.failed("spicy", POLL, "unknown status 'weird'", "odd")
        troubles.succeeded("spicy", POLL, "even")

    assert [one.count for one in troubles.standing()] == [IN_A_ROW]


async def test_failures_of_a_job_that_is_left_heal_with_the_lane(clock):
    """The failures of a job that is over stay until the lane has a success."""
    troubles = Troubles(clock)
    for _ in range(IN_A_ROW):
        troubles.failed("spicy", UPLOAD, "HTTP 422", "job")

    troubles.left("job")
    left = troubles.standing()
    troubles.succeeded("spicy", UPLOAD, "another")

    assert [one.count for one in left] == [IN_A_ROW]
    assert troubles.standing() == []


async def test_trouble_is_logged_once_and_again_when_it_changes(clock, caplog):
    """Logged once, again with another reason, and once when it has healed."""
    troubles = Troubles(clock)

    def fail(reason):
        for _ in range(IN_A_ROW):
            troubles.failed("spicy", POLL, reason)
        troubles.tell(troubles.standing())

    fail("HTTP 403: 3fa85f64-5717-4562-b3fc-2c963f66afa6")
    fail("HTTP 403: 11111111-5717-4562-b3fc-2c963f66afa6")
    fail("HTTP 500")
    clock.now += 90
    troubles.succeeded("spicy", POLL)
    troubles.tell(troubles.standing())
    troubles.tell(troubles.standing())

    assert [line.getMessage().split(" failures")[0] for line in caplog.records] == [
        "lane.trouble lane=spicy stage=poll count=3 since_s=0",
        "lane.trouble lane=spicy stage=poll count=9 since_s=0",
        "lane.healed lane=spicy stage=poll after_s=90 it works again",
    ]


async def test_troubles_of_shards_are_one_for_each_stage(clock):
    """The batch shows the sum of what its shards report."""
    one, two = Troubles(clock), Troubles(clock)
    for troubles in (one, two):
        clock.now += 5
        for _ in range(IN_A_ROW):
            troubles.failed("spicy", POLL, "HTTP 403")

    (both,) = merged([one.standing(), two.standing()])

    assert (both.count, both.since) == (2 * IN_A_ROW, 1005.0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://a.example/1.jpg: HTTP 404", "https://b.example/2.jpg?x=1: HTTP 404"),
        ("not done after 3601 s: at work", "not done after 62 s: at work"),
        ("1,200 bytes, more than 1000", "99 bytes, more than 1000"),
        ("job 0123456789abcdef0123456789abcdef failed", "job " + "f0" * 16 + " failed"),
    ],
)
async def test_reasons_of_single_jobs_are_alike(one, other):
    """Names, ids and quantities are no part of a reason."""
    assert alike(one) == alike(other)


async def test_statuses_are_not_alike():
    assert alike("wavespeed: HTTP 403: no") != alike("wavespeed: HTTP 422: no")


async def test_retry_after_of_a_free_request_is_capped():
    """An upload is repeated within a minute, whatever Retry-After says."""
    state = RetryCallState(retry_object=retrying(2), fn=None, args=(), kwargs={})

    def waits(error):
        state.set_exception((type(error), error, None))
        return retrying(2).wait(state)

    assert waits(ThrottledError("slow", 3600.0)) == LONGEST_RETRY_AFTER_S
    assert waits(ThrottledError("slow", 7.0)) == 7.0
    assert waits(InDoubtError("odd")) <= LONGEST_RETRY_AFTER_S


async def test_lane_that_ends_nothing_stands_still(worlds, emulator, clock):
    """A lane without the end of a job for four usual run times is in trouble."""
    troubles = Troubles(clock)
    standstills = Standstills(troubles, clock)
    lane = worlds(emulator=emulator, url="http://none", routes=[SPICY]).lane(SPICY)
    for job in "ab":
        standstills.began(job, lane)

    clock.now += max(SHORTEST_S, TIMES * lane.typical_s())
    standstills.look()
    before = troubles.standing()
    clock.now += 1
    standstills.look()
    (trouble,) = troubles.standing()
    standstills.ended(lane)
    standstills.left("a")
    standstills.look()

    assert (before, troubles.standing()) == ([], [])
    assert (trouble.lane, trouble.stage, trouble.count) == ("wavespeed", Stage.QUEUE, 2)
    assert "no job has ended" in trouble.reason


async def test_refused_uploads_close_the_lane_with_their_reason(worlds, emulator):
    """A provider that refuses three stills in a row gets no more; each row says why."""
    body = {"code": 422, "message": "unsupported image"}
    proxy = Proxy(emulator, "POST", "/media/upload", 422, body)
    with running(proxy) as url:
        world = worlds(emulator=emulator, url=url, routes=[SPICY], slots=1)
        summary = await world.run(8)

    assert proxy.answers > 0
    assert (summary.pending, summary.bought, world.owed) == (8, 0, 0)
    assert "refuses 3 stills in a row" in summary.lanes_closed["wavespeed"]
    assert all("unsupported image" in why for why in world.table("clips")["reason"])


async def test_failing_uploads_are_shown_and_outlive_a_stop(worlds, emulator):
    """The live page shows the trouble; a stopped run names it at its end."""
    body, wait = {"code": 429, "message": "slow"}, {"retry-after": "3600"}
    proxy = Proxy(emulator, "POST", "/media/upload", 429, body, wait)
    pages, seen = [], []
    with running(proxy) as url:
        world = worlds(emulator=emulator, url=url, routes=[SPICY])

        def during(batch_run):
            async def stop():
                await until(lambda troubles: troubles, batch_run)
                pages.append(NightPage(batch_run).live())
                await put(objects(world), batch_run.batch, report_of(batch_run))
                seen.append(await observed(objects(world).root))
                batch_run.engine.stop("the owner asked")

            during.stopping = asyncio.create_task(stop())

        await world.run(IN_A_ROW, during=during)

    batch_run = world.batch_runs[-1]
    (trouble,) = batch_run.troubles
    line, where = unmade(batch_run)
    (group,) = batch_run.without_clip().groups()
    reasons = {*world.table("clips")["reason"]}
    assert (trouble.lane, trouble.stage) == ("wavespeed", UPLOAD)
    assert "| wavespeed | upload | " in pages[0]
    assert "wavespeed: HTTP 429: slow |" in pages[0]
    assert reasons == {"its still: wavespeed: HTTP 429: slow; the run was stopped"}
    assert line.startswith(f"3 pending: {reasons.pop()} (first: {group.ids[0]}, ")
    (report,) = seen[0].plain()["runs"]
    assert (seen[0].plain()["never_bought"], report["over"]) == (3, False)
    assert [one["reason"] for one in report["troubles"]] == [
        "wavespeed: HTTP 429: slow"
    ]
    assert where.endswith(f"tables/left/batch={batch_run.batch}/part-0.parquet")


async def test_status_counts_and_explains_what_was_never_bought(worlds, emulator):
    """`status` counts jobs that were never submitted, until a later run submits them."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[SPICY])
        manifest = world.manifest(4)
        await world.run(manifest, budget_usd=Decimal("0.30"))
        short = await observed(objects(world).root)
        await world.run(manifest)
        whole = await observed(objects(world).root)

    told = short.plain()
    bought = told["published"]
    (report,) = told["runs"]
    assert 0 < bought < 4
    assert (told["pending"], told["never_bought"]) == (0, 4 - bought)
    assert (report["over"], report["done"], report["jobs"]) == (True, bought, 4)
    assert sum(group["jobs"] for group in report["waiting"]) == 4 - bought
    assert all("budget" in group["reason"] for group in report["waiting"])
    assert f"never bought  {4 - bought}" in printed(short)
    assert "the budget" in printed(short)
    assert whole.plain()["never_bought"] == 0
    assert "never bought" not in printed(whole)


async def test_silent_report_is_shown_as_perhaps_killed(worlds, emulator):
    """The report of a run that was killed is not shown as that of a running one."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[SPICY])
        await world.run(1)
        batch_run = world.batch_runs[-1]
        trouble = {"lane": "spicy", "stage": "poll", "reason": "HTTP 500", "count": 3}
        report = report_of(batch_run)
        report["troubles"] = [{**trouble, "since": report["at"]}]
        await put(objects(world), batch_run.batch, report)
        seen = await observed(objects(world).root)

    text = printed(replace(seen, now=seen.now + 600))
    assert "it may have been killed" in text
    assert "HTTP 500" in text


async def test_unreadable_polls_are_told_and_kept_by_a_stop(worlds, emulator):
    """A job whose status nobody knows is never called at work."""
    body = {"code": 200, "message": "ok", "data": {"id": "1", "status": "weird"}}
    proxy = Proxy(emulator, "GET", "/result", 200, body)
    with running(proxy) as url:
        world = worlds(emulator=emulator, url=url, routes=[SPICY])

        def during(batch_run):
            async def stop():
                await until(lambda troubles: troubles, batch_run)
                batch_run.engine.stop("the owner asked")

            during.stopping = asyncio.create_task(stop())

        await world.run(IN_A_ROW, during=during)

    (trouble,) = world.batch_runs[-1].troubles
    reasons = {*world.table("clips")["reason"]}
    assert (trouble.stage, trouble.count >= IN_A_ROW) == (POLL, True)
    assert "weird" in trouble.reason
    assert all("weird" in why and "at work" not in why for why in reasons)


async def test_status_counts_no_job_bought_since_the_last_report(worlds, emulator):
    """A run that was killed has an old report; the ledger has what it bought afterwards."""
    emulator.latency_s = 60.0
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[SPICY])
        seen = []

        def during(batch_run):
            async def stop():
                first = report_of(batch_run)
                await until(lambda _: sum(world.bought.values()) == 3, batch_run)
                await put(objects(world), batch_run.batch, first)
                seen.append(await observed(objects(world).root))
                batch_run.engine.stop("the owner asked")

            during.stopping = asyncio.create_task(stop())

        await world.run(3, during=during)

    told = seen[0].plain()
    assert told["runs"][0]["never_bought"] == 3
    assert (told["jobs"], told["never_bought"]) == (3, 0)
