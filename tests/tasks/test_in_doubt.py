"""Jobs in doubt over real HTTP: questions to providers, risks, people's decisions."""

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

import httpx
import orjson
import polars as pl
import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from manifests.lifecycle import History, Intended, Risked, State
from storage.ledger import HeldError, Ledger, read
from storage.objects import Objects, UnavailableError
from tasks.dispatch import Budget, Lane, Router
from tasks.dispatch.rate_limit import MAX_UNANSWERED
from tasks.emulator import Emulator, Fault, running
from tasks.engine.environment import Deps, Rules, World
from tasks.engine.in_doubt import Doubts
from tasks.engine.job import SEND_WITHIN_S
from tasks.engine.submit_mark import account_fingerprint
from tasks.providers.http.clients import UNACKNOWLEDGED_S
from tasks.reconcile import DecisionError, Decisions, Reconciled, opened
from tests.histories import intended
from tests.storage.lives import made

pytestmark = pytest.mark.anyio

KLING = "kling/kling-2.5-turbo"
PRICE = Decimal("0.17")
RULES = Rules(settle_s=0.0, deadline_s=30.0)


@pytest.fixture
def atlas(worlds, emulator):
    """A provider that cannot report what became of a submit."""
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=["atlas/wan-2.2-spicy"])


@pytest.fixture(params=[KLING, "replicate/wan-2.2"])
def tells(worlds, emulator, request):
    """Providers that report for certain what became of a submit."""
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=[request.param])


@pytest.fixture
def kling(worlds, emulator):
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=[KLING])


def risking(world, usd):
    lane = world.lane(world.routes[0])
    return Lane(
        name=lane.name,
        route=lane.route,
        endpoint=lane.endpoint,
        limits=lane.limits,
        risk_usd=Decimal(usd),
    )


def named(name, lane):
    return Lane(name=name, route=lane.route, endpoint=lane.endpoint, limits=lane.limits)


def killed_after(seconds):
    """Stops the batch abruptly this many seconds after its start."""

    def during(batch_run):
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, batch_run.engine.stop, "killed")

    return during


@dataclass
class Gateway:
    """A gateway in front of a provider that answers some requests with its own page."""

    behind: Emulator
    method: str
    path: str
    """The path's end, as a regular expression."""
    times: int

    async def __call__(self, scope, receive, send):
        asked = scope.get("method"), re.search(f"{self.path}$", scope.get("path", ""))
        if self.times and asked[0] == self.method and asked[1]:
            self.times -= 1
            await self.behind(scope, receive, self._drop)
            await PlainTextResponse("Bad Gateway", 502)(scope, receive, send)
        else:
            await self.behind(scope, receive, send)

    async def _drop(self, message):
        """Drops the provider's answer."""


@dataclass
class Delay:
    """A gateway that answers the first submit itself, and delivers it at a later one."""

    behind: Emulator
    first_goes: str
    """Whether it goes `before` or `after` the later one."""
    held: tuple[dict, bytes] | None = None
    delivered: bool = False

    async def __call__(self, scope, receive, send):
        if scope.get("method") != "POST":
            await self.behind(scope, receive, send)
            return
        body = await _body(receive)
        if self.held is None:
            self.held = scope, body
            await PlainTextResponse("Bad Gateway", 502)(scope, receive, send)
            return
        if self.first_goes == "before":
            await self._deliver()
        await self.behind(scope, _again(body), send)
        await self._deliver()

    async def _deliver(self):
        if not self.delivered:
            self.delivered = True
            scope, body = self.held
            await self.behind(dict(scope), _again(body), self._drop)

    async def _drop(self, message):
        """Drops the provider's answer."""


async def _body(receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _again(body: bytes):
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


@dataclass
class ShortListing:
    """A gateway that leaves the predictions of these prompts out of a listing."""

    behind: Emulator
    hidden: frozenset[str]

    async def __call__(self, scope, receive, send):
        if not re.search(r"/v\d/predictions$", scope.get("path", "")):
            await self.behind(scope, receive, send)
            return
        bodies: list[bytes] = []

        async def keep(message):
            bodies.append(message.get("body", b""))

        await self.behind(scope, receive, keep)
        listing = orjson.loads(b"".join(bodies))
        place, name = (
            (listing, "results") if "results" in listing else (listing["data"], "items")
        )
        left_out = {x.request_id for x in self.behind.bill if x.prompt in self.hidden}
        place[name] = [item for item in place[name] if item["id"] not in left_out]
        await JSONResponse(listing)(scope, receive, send)


async def reconciled(
    world, decisions: Callable[..., Decisions] = lambda _: Decisions()
) -> Reconciled:
    """Does what the command does, without the terminal."""
    root, lanes = (world.folder / "root").as_uri(), [world.lane(world.routes[0])]
    async with opened(root, lanes=lanes, rules=RULES) as reconciliation:
        await reconciliation.ask()
        await reconciliation.decide(decisions(reconciliation.doubts()))
        await reconciliation.fetch()
        await reconciliation.settle()
    return reconciliation.told


def everything(world):
    return read(Objects.open((world.folder / "root").as_uri()))


async def test_run_finds_the_clip_of_a_lost_answer_by_itself(tells):
    tells.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]

    summary = await tells.run(3)

    assert (summary.published, summary.in_doubt, summary.exit_code) == (3, 0, 0)
    assert set(tells.bought.values()) == {1}
    assert summary.spent_usd == tells.owed


@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE, Fault.GATEWAY_BEFORE])
async def test_job_that_never_reached_the_provider_is_bought_once(tells, fault):
    """A job that never reached the provider is bought once and paid for once."""
    tells.emulator.faults["pan 1"] = [fault]

    summary = await tells.run(3)

    assert (summary.published, summary.exit_code) == (3, 0)
    assert set(tells.bought.values()) == {1}
    assert summary.spent_usd == tells.owed


async def test_doubt_resolved_after_all_else_goes_to_one_worker(tells):
    """One worker takes up a job whose doubt is resolved after all else is done."""
    tells.rules, tells.slots = Rules(settle_s=1.0, request_lives_s=0.0), 20
    tells.emulator.faults["pan 1"] = [Fault.ERROR_BEFORE]
    lane = tells.lane(tells.routes[0])

    summary = await tells.run(3, lanes=[lane])

    assert (summary.published, summary.exit_code) == (3, 0)
    assert set(tells.bought.values()) == {1}
    assert summary.spent_usd == tells.owed
    assert not tells.batch_runs[0].engine.tally.waiting_jobs
    # Each submit was answered once: MAX_UNANSWERED submits may be in flight again, no more.
    for _ in range(MAX_UNANSWERED):
        assert lane.limiter.wait_s(0.0) == 0
        lane.limiter.reserve_slot(0.0)
    assert lane.limiter.wait_s(0.0) == math.inf


async def test_a_stop_while_doubts_are_asked_about_takes_no_risk(tells):
    tells.rules = Rules(settle_s=3600.0)
    tells.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]

    await tells.run(3, lanes=[risking(tells, 1)], during=killed_after(1.0))
    tells.rules = RULES
    again = await tells.run(3)

    assert not [e for e in await everything(tells) if isinstance(e.event, Risked)]
    assert again.published == 3
    assert set(tells.bought.values()) == {1}


async def test_list_of_another_account_is_no_proof(tells):
    tells.rules = Rules(settle_s=3600.0)
    tells.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]
    await tells.run(3, during=killed_after(1.0))
    tells.rules = RULES
    other = tells.lane(tells.routes[0], key=f"another:{'account' * 6}")

    summary = await tells.run(3, lanes=[other])

    assert summary.in_doubt == 1
    assert set(tells.bought.values()) == {1}


@pytest.mark.parametrize("route", ["wavespeed/wan-2.2-spicy", "replicate/wan-2.2"])
async def test_listing_that_lacks_our_submits_proves_no_absence(
    worlds, emulator, route, caplog
):
    """Lost submits stay in doubt if the listing also lacks submits that were answered."""
    emulator.faults.update({f"pan {n}": [Fault.LOSE_ANSWER] for n in range(3)})
    hidden = frozenset(f"pan {n}" for n in range(4))
    with running(ShortListing(emulator, hidden)) as url:
        world = worlds(emulator=emulator, url=url, routes=[route])
        rows = [
            {"prompt": f"pan {n}", "image": world.still(f"{n}.jpg")} for n in range(8)
        ]
        await world.run(rows[3:])
        summary = await world.run(rows)

    assert (summary.published, summary.in_doubt) == (5, 3)
    assert world.bought == {f"pan {n}": 1 for n in range(8)}
    assert "lacks 1 of our 5 accepted submits near that time" in caplog.text


@pytest.mark.parametrize("first_goes", ["before", "after"])
@pytest.mark.parametrize("how", ["one run", "the next run"])
async def test_submit_that_arrives_late_is_not_paid_twice(
    worlds, emulator, first_goes, how
):
    """Both submits of a row have one external_task_id, so Kling accepts only one."""
    with running(Delay(emulator, first_goes)) as url:
        world = worlds(emulator=emulator, url=url, routes=[KLING])
        if how == "the next run":
            world.rules = Rules(settle_s=3600.0)
            await world.run(1, during=killed_after(1.0))
            world.rules = RULES
            assert (await reconciled(world)).absent == 1
        summary = await world.run(1)

    submits = [
        e.event for e in await everything(world) if isinstance(e.event, Intended)
    ]
    assert len(submits) == 2
    assert len({each.mark for each in submits}) == 1
    assert (summary.published, summary.in_doubt) == (1, 0)
    assert world.bought == {"pan 0": 1}
    assert world.table("clips")["spent_usd"].sum() == world.owed


async def test_accepted_submit_that_fails_is_bought_under_a_new_name(kling):
    """A name is used again only if no submit with it was accepted."""
    kling.emulator.faults["pan 0"] = [Fault.FAIL]

    summary = await kling.run(1)

    submits = [
        e.event for e in await everything(kling) if isinstance(e.event, Intended)
    ]
    assert len({each.mark for each in submits}) == len(submits) == 2
    assert (summary.published, summary.in_doubt) == (1, 0)


async def test_absence_at_another_place_is_no_proof(tells, clip):
    """Another region does not know the job: only the place it was sent to proves absence."""
    tells.rules = Rules(settle_s=3600.0)
    tells.emulator.faults.update({f"pan {n}": [Fault.LOSE_ANSWER] for n in range(2)})
    await tells.run(2, during=killed_after(1.0))
    tells.rules, home = RULES, tells.url
    with running(Emulator(latency_s=0.1, clip=clip)) as elsewhere:
        tells.url = elsewhere
        moved = await tells.run(2)
        told = await reconciled(tells)

    tells.url = home
    back = await tells.run(2)

    assert (moved.bought, moved.in_doubt) == (0, 2)
    assert all(f"went to {home}/" in doubt.reason for doubt in told.doubts)
    assert (back.published, back.in_doubt) == (2, 0)
    assert tells.bought == {"pan 0": 1, "pan 1": 1}


async def test_job_found_at_another_place_is_followed(tells):
    """A proxy to the same provider has the job: what is found is certain anywhere."""
    tells.rules = Rules(settle_s=3600.0)
    tells.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]
    await tells.run(2, during=killed_after(1.0))
    tells.rules = RULES
    with running(tells.emulator) as proxy:
        tells.url = proxy
        summary = await tells.run(2)

    assert (summary.published, summary.in_doubt) == (2, 0)
    assert set(tells.bought.values()) == {1}


async def test_lane_at_the_place_of_the_submit_is_asked(kling, clip):
    """A lane that was kept for the old base_url settles the doubts that went there."""
    kling.rules = Rules(settle_s=3600.0)
    kling.emulator.faults["pan 1"] = [Fault.ERROR_BEFORE]
    old = named("old", kling.lane(KLING))
    await kling.run(2, lanes=[named("main", old)], during=killed_after(1.0))
    kling.rules, elsewhere = RULES, Emulator(latency_s=0.1, clip=clip)
    with running(elsewhere) as kling.url:
        moved = named("main", kling.lane(KLING))
        summary = await kling.run(2, lanes=[moved, old])

    assert (summary.published, summary.in_doubt) == (2, 0)
    assert [line.prompt for line in elsewhere.bill] + [*kling.bought] in (
        ["pan 0", "pan 1"],
        ["pan 1", "pan 0"],
    )


async def test_absence_of_a_doubt_without_a_place_is_not_believed(kling):
    """An older ledger does not say where a submit went: only a found job is certain."""
    lane, job = kling.lane(KLING), "ab" * 16
    ledger = await Ledger.open(made((kling.folder / "root").as_uri()), name="old")
    old_mark = f"{account_fingerprint(lane)}:{job}-1"
    await ledger.record(job, intended("0.42", lane=lane.name, mark=old_mark))
    await ledger.close()

    told = await reconciled(kling)

    [doubt] = told.doubts
    assert (told.absent, doubt.askable) == (0, True)
    assert "did not record its base_url" in doubt.reason


async def test_place_on_record_has_no_secret(kling):
    """The recorded place has neither the user and password nor the query of a URL."""
    address = httpx.URL(kling.url)
    secret = address.copy_with(userinfo=b"us:pw", path="/kling", query=b"token=q")
    lane = kling.lane(KLING)
    endpoint = replace(lane.endpoint, base_url=secret)

    assert endpoint.place == f"{kling.url}/kling"
    assert replace(endpoint, base_url=None).place == (
        "https://api-singapore.klingai.com"
    )


async def test_list_of_another_provider_with_the_same_name_is_no_proof(kling):
    """The job list of another provider's lane with the same name proves nothing."""
    kling.rules = Rules(settle_s=3600.0)
    kling.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]
    rows = [{"prompt": f"pan {n}", "resolution": "720p"} for n in range(3)]
    first = named("main", kling.lane("wavespeed/wan-2.2-spicy"))
    await kling.run(rows, lanes=[first], during=killed_after(1.0))
    kling.rules = RULES

    summary = await kling.run(rows, lanes=[named("main", kling.lane(KLING))])

    assert summary.in_doubt == 1
    assert set(kling.bought.values()) == {1}


async def test_doubt_with_an_unreachable_provider_is_not_risked(worlds, emulator):
    """A doubt is not risked while its provider cannot be reached."""
    emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]
    # We look a submit up by our id, and poll it by the provider's.
    with running(Gateway(emulator, "GET", "-1", times=2)) as url:
        world = worlds(emulator=emulator, url=url, routes=[KLING])

        first = await world.run(3, lanes=[risking(world, 1)])
        again = await world.run(3)

    assert (first.published, first.in_doubt, first.risked_usd) == (2, 1, 0)
    assert (again.published, again.in_doubt) == (3, 0)
    assert set(world.bought.values()) == {1}


async def test_task_not_found_at_first_is_looked_for_again(worlds, emulator):
    """A task that is not in the provider's list at first is looked for repeatedly."""
    emulator.faults["pan 0"] = [Fault.NOT_FOUND_AT_FIRST]
    with running(Gateway(emulator, "POST", "image2video", times=1)) as url:
        world = worlds(emulator=emulator, url=url, routes=[KLING])

        summary = await world.run(1)

    assert (summary.published, summary.in_doubt) == (1, 0)
    assert set(world.bought.values()) == {1}
    assert summary.spent_usd == world.owed


async def test_doubt_dismissed_after_its_shard_still_has_its_still(worlds, emulator):
    """A doubt that turns out unsold after its shard ended still has its still."""
    emulator.faults["pan"] = [Fault.FAIL]
    with running(Gateway(emulator, "POST", "image2video", times=1)) as url:
        world = worlds(emulator=emulator, url=url, routes=[KLING])
        world.rules = Rules(settle_s=0.6, request_lives_s=0.0)
        path = world.folder / "embedded.parquet"
        rows = [
            {
                "image_bytes": (world.folder / world.still(f"{n}.jpg")).read_bytes(),
                "prompt": f"pan {n}",
                **world.fits(),
            }
            for n in range(8)
        ]
        pl.DataFrame(rows).write_parquet(path)

        summary = await world.run(path.as_uri(), shard_rows=2)

    assert (summary.published, summary.rejected) == (8, 0)
    assert sorted(world.bought.values()) == [1] * 7 + [2]


async def test_doubt_that_nobody_can_resolve_stays_and_is_counted(atlas):
    """A doubt that no provider can resolve stays open, and its money counts."""
    atlas.emulator.faults["pan 1"] = [Fault.GATEWAY_BEFORE]

    summary = await atlas.run(3)

    assert (summary.published, summary.in_doubt) == (2, 1)
    assert summary.spent_usd == PRICE * 3
    assert atlas.owed == PRICE * 2


@pytest.mark.slow
async def test_likeliest_refused_are_risked_first_within_the_limit(atlas):
    """The doubts most likely refused are risked first, up to the limit in USD."""
    atlas.emulator.faults.update(
        {
            "pan 0": [Fault.LOSE_ANSWER],
            "pan 1": [Fault.GATEWAY_BEFORE],
            "pan 2": [Fault.GATEWAY_BEFORE],
        }
    )

    summary = await atlas.run(4, lanes=[risking(atlas, PRICE * 2)])

    assert (summary.published, summary.in_doubt) == (3, 1)
    assert atlas.bought == {f"pan {n}": 1 for n in range(4)}
    risks = [e.event for e in await everything(atlas) if isinstance(e.event, Risked)]
    assert len(risks) == 2
    assert all("0.17 USD" in risk.reason for risk in risks)


async def test_a_risk_that_went_wrong_is_on_the_bill_and_in_the_tables(atlas):
    atlas.emulator.faults["pan 0"] = [Fault.LOSE_ANSWER]

    summary = await atlas.run(1, lanes=[risking(atlas, PRICE)])

    assert (summary.published, summary.in_doubt) == (1, 0)
    assert atlas.bought == {"pan 0": 2}
    attempts = atlas.table("attempts").sort("attempt")
    assert attempts["outcome"].to_list() == ["risked", "published"]
    assert attempts["charged_usd"].sum() == summary.spent_usd == atlas.owed


async def test_without_leave_nothing_is_ever_risked(atlas):
    atlas.emulator.faults["pan"] = [Fault.GATEWAY_BEFORE] * 2

    await atlas.run(4)

    assert not [e for e in await everything(atlas) if isinstance(e.event, Risked)]


@pytest.mark.slow
async def test_a_providers_bad_hour_does_not_park_a_batch_in_doubt(atlas):
    atlas.slots = 2
    atlas.emulator.faults["pan"] = [Fault.GATEWAY_BEFORE] * 3
    lane = atlas.lane(atlas.routes[0])
    # A doubt holds its slot for as long as a job would.
    lane.polls.learn([0.1] * 10)

    summary = await atlas.run(12, lanes=[lane])

    assert summary.in_doubt <= 4
    assert summary.published == 12 - summary.in_doubt


async def test_reconcile_lists_remaining_doubts_with_age_and_price(atlas):
    atlas.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]
    await atlas.run(2)

    told = await reconciled(atlas)

    [line] = told.doubts
    assert (line.lane, line.price_usd, line.askable) == ("atlas", PRICE, False)
    assert line.age_s >= 0


async def test_reconcile_finds_and_fetches_clips_of_a_killed_run(tells):
    tells.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]
    tells.rules = Rules(settle_s=3600.0, deadline_s=0.0)
    await tells.run(2, during=killed_after(1.0))

    told = await reconciled(tells)
    again = await tells.run(2)

    assert (told.accepted, told.doubts) == (1, [])
    assert told.fetched >= 1
    assert (again.published, again.bought) == (2, 0)
    assert set(tells.bought.values()) == {1}


async def test_doubt_that_its_owner_resubmits_is_bought_next_run(atlas):
    atlas.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]
    await atlas.run(2)

    told = await reconciled(atlas, lambda doubts: Decisions(resubmit=frozenset(doubts)))
    again = await atlas.run(2)

    assert (told.resubmit, told.doubts) == (1, [])
    assert (again.published, again.bought) == (2, 1)
    assert atlas.bought["pan 1"] == 2


async def test_doubt_that_its_owner_writes_off_is_over_and_paid(atlas):
    atlas.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]
    await atlas.run(2)

    told = await reconciled(
        atlas, lambda doubts: Decisions(write_off=frozenset(doubts))
    )
    again = await atlas.run(2)

    assert told.written_off == 1
    assert (again.published, again.rejected, again.bought) == (1, 1, 0)
    assert atlas.bought["pan 1"] == 1


async def test_batch_tables_show_decisions_made_afterwards(atlas):
    atlas.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]
    await atlas.run(2)
    [job] = atlas.table("clips").filter(pl.col("state") == "in_doubt")["job"]

    await reconciled(
        atlas,
        lambda _: Decisions(write_off=frozenset([job]), charged={job: Decimal(0)}),
    )

    row = atlas.table("clips").filter(pl.col("job") == job).row(0, named=True)
    assert (row["state"], row["spent_usd"]) == ("rejected", Decimal(0))
    assert atlas.table("attempts")["charged_usd"].sum() == PRICE


async def test_decision_about_a_job_that_is_not_in_doubt_is_void(atlas):
    """A decision about a job that is not in doubt changes nothing."""
    await atlas.run(1)
    [job] = atlas.table("clips")["job"]
    before = len(await everything(atlas))

    with pytest.raises(DecisionError, match=f"{job} is published, not in doubt"):
        await reconciled(atlas, lambda _: Decisions(resubmit=frozenset([job])))

    assert len(await everything(atlas)) == before


async def test_cost_of_a_doubt_is_not_given_back_twice(kling):
    """A doubt that is not settled yet cannot be decided and then refunded again."""
    kling.rules = Rules(settle_s=3600.0)
    kling.emulator.faults["pan 0"] = [Fault.ERROR_BEFORE]
    await kling.run(1, during=killed_after(1.0))
    [doubt] = {entry.job for entry in await everything(kling)}
    root = (kling.folder / "root").as_uri()

    async with opened(root, lanes=[kling.lane(KLING)], rules=RULES) as reconciliation:
        with pytest.raises(DecisionError, match="is known when that ends"):
            await reconciliation.decide(Decisions(charged={doubt: Decimal(0)}))
    kling.rules = RULES
    await kling.run(1)

    assert kling.table("clips")["spent_usd"].sum() == kling.owed


async def test_reconcile_waits_for_an_absent_store_as_a_batch_does(
    through, monkeypatch
):
    """`reconcile` waits as long as a batch does for a store that is away."""
    monkeypatch.setattr("tasks.engine.environment.PATIENCE_S", 0.0)
    through(9)  # where nobody is

    with pytest.raises(UnavailableError):
        async with asyncio.timeout(30), opened("s3://away/reel", lanes=[], rules=RULES):
            pass


async def test_reconcile_leaves_a_root_with_an_active_run_alone(atlas):
    ledger = await Ledger.open(made((atlas.folder / "root").as_uri()), name="at-work")

    with pytest.raises(HeldError):
        await reconciled(atlas)

    await ledger.close()


async def test_refund_reported_later_is_settled(worlds, clip):
    emulator = Emulator(latency_s=0.1, clip=clip, faults={"pan": [Fault.FAIL]})
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["runway/gen4-turbo"])
        world.rules = replace(RULES, attempts=1)
        await world.run(1)

        told = await reconciled(world)

    assert told.doubts == []
    assert world.table("attempts")["charged_usd"].sum() == world.owed


@pytest.mark.parametrize("lost", [None, "silent"])
def test_doubts_age_is_never_longer_than_we_have_known_it(lost):
    """Clocks that disagree make no doubt older than the time since we met it."""
    now, today = [0.0], [1090.0]
    world = World(now=lambda: now[0], today=lambda: today[0])
    deps = Deps(
        world=world,
        rules=Rules(settle_s=60.0, request_lives_s=0.0),
        objects=None,
        ledger=None,
        clients=None,
        router=Router([], policy="balanced", now=world.now, today=world.today),
        budget=Budget(),
    )
    doubts = Doubts(deps, record=None)
    # By a clock that is 90 seconds behind ours, it was submitted a moment ago.
    history = History(state=State.IN_DOUBT, attempts=1, submitted_at=1000.0, lost=lost)
    settled_s = 120.0 if lost else 60.0

    doubts.meet({"a": history})
    now[0] = 50.0
    assert doubts.due_in_s("a", history) == settled_s - 50.0
    assert doubts.due_in_s("b", history) == settled_s
    assert doubts.due_in_s("a", replace(history, attempts=2)) == settled_s
    now[0] = 120.0
    assert doubts.due_in_s("a", history) == 0.0
    today[0] += 15 * 3600.0
    assert doubts.due_in_s("c", history) == 0.0
    # A clock that is set during the run does not make a doubt older.
    assert doubts.due_in_s("b", history) == max(0.0, settled_s - 70.0)


def test_absence_is_believed_once_no_request_is_under_way():
    """However short `settle_s` is, a request of a dead process may arrive for minutes."""
    lives_s = Rules().request_lives_s

    assert lives_s >= SEND_WITHIN_S + 60.0 + UNACKNOWLEDGED_S + 120.0
    assert Rules(settle_s=30.0).absent_after_s == lives_s
    assert Rules(settle_s=3600.0).absent_after_s == 3600.0
    # An emulator holds no request up.
    assert Rules(settle_s=0.0).absent_after_s == 0.0
