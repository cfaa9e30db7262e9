"""The laws, over real HTTP, for every provider, proved by the emulator's bill."""

import shutil
from dataclasses import replace
from decimal import Decimal

import pytest

from manifests.input import ManifestError
from manifests.job_keys import ids
from storage.ledger import Ledger, read
from storage.objects import Objects
from storage.sources import OpeningError
from tasks.dispatch.rate_limit import MAX_UNANSWERED
from tasks.emulator import Emulator, Fault, running
from tasks.engine.engine import Rules
from tasks.engine.stats import WaitReason
from tasks.providers.protocol import Findable
from tests.storage.lives import made

pytestmark = pytest.mark.anyio

LOST = [
    Fault.LOSE_ANSWER,
    Fault.LOSE_ANSWER_MID,
    Fault.MALFORMED_ACCEPT,
    Fault.ERROR_AFTER,
]
BROKEN_DOWNLOADS = [
    Fault.TRUNCATED_CLIP,
    Fault.CUT_CLIP,
    Fault.HTML_CLIP,
    Fault.EMPTY_CLIP,
    Fault.EXPIRED_LINK,
]
BEFORE = [Fault.ERROR_BEFORE, Fault.GATEWAY_BEFORE]


def doubts(world):
    """The number of doubts after one lost answer: 0 if the provider can resolve it.

    WaveSpeed lists the jobs that it accepted, but not their requests.
    """
    lane = world.lane(world.routes[0])
    provider = lane.endpoint.provider
    told = isinstance(provider, Findable) and provider.name != "wavespeed"
    return 0 if told or not lane.paid else 1


def made_twice(world):
    """Whether a job is sent again after a lost answer, although it was accepted.

    This holds for a free engine that does not list our id of a job.
    """
    return world.routes[0] == "vllm-omni/wan-2.2"


def cost(world):
    """The price of one clip: 0 on the user's own GPU."""
    return next(iter(world.lane(world.routes[0]).route.prices_usd.values()))


@pytest.mark.core
async def test_a_manifest_becomes_clips_each_paid_for_once(world):
    summary = await world.run(6)

    assert (summary.rows, summary.published, summary.exit_code) == (6, 6, 0)
    assert set(world.bought.values()) == {1}
    assert summary.spent_usd == world.owed


async def test_running_again_buys_nothing(world):
    await world.run(4)
    again = await world.run(4)

    assert (again.published, again.bought, again.spent_usd) == (4, 0, 0)
    assert set(world.bought.values()) == {1}


async def test_a_second_manifest_with_the_same_rows_buys_nothing(world):
    rows = [{"prompt": f"pan {n}"} for n in range(4)]
    await world.run(world.manifest(rows, "monday"))

    again = await world.run(world.manifest([*rows, {"prompt": "new"}], "tuesday"))

    assert (again.published, again.bought) == (5, 1)
    assert set(world.bought.values()) == {1}


async def test_rows_that_want_the_same_clip_share_one(world):
    still = world.still("same.jpg")
    rows = [{"image": still, "prompt": "pan", "sku": sku} for sku in "abc"]

    summary = await world.run(rows)

    assert (summary.rows, summary.jobs, summary.published) == (3, 1, 3)
    assert world.bought == {"pan": 1}


async def test_another_take_is_another_clip(world):
    still = world.still("same.jpg")
    rows = [{"image": still, "prompt": "pan", "take": take} for take in (1, 2)]

    await world.run(rows)

    seeds = {line.seed for line in world.emulator.bill}
    assert world.bought == {"pan": 2}
    assert len(seeds) == 2


@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_is_never_paid_for_twice(world, fault):
    world.emulator.faults["pan 1"] = [fault]

    first = await world.run(3)
    second = await world.run(3)

    left = doubts(world)
    assert (first.published, first.in_doubt, first.exit_code) == (3 - left, left, left)
    assert (second.published, second.in_doubt) == (3 - left, left)
    assert world.bought == {"pan 0": 1, "pan 1": 1 + made_twice(world), "pan 2": 1}
    assert first.spent_usd == world.owed


@pytest.mark.parametrize("fault", BEFORE)
async def test_a_5xx_that_bought_nothing_is_not_trusted_without_proof(world, fault):
    world.emulator.faults["pan 1"] = [fault]

    summary = await world.run(3)

    asked = isinstance(world.lane(world.routes[0]).endpoint.provider, Findable)
    assert (summary.published, summary.in_doubt) == ((3, 0) if asked else (2, 1))
    assert set(world.bought.values()) == {1}
    assert summary.spent_usd >= world.owed


@pytest.mark.parametrize("fault", [Fault.THROTTLE, Fault.THROTTLE_WITH_RETRY_AFTER])
async def test_a_429_slows_the_lane_and_loses_nothing(world, fault):
    world.emulator.faults["pan 1"] = [fault]

    summary = await world.run(3)

    assert (summary.published, summary.exit_code) == (3, 0)
    assert set(world.bought.values()) == {1}
    assert summary.spent_usd == world.owed


async def test_a_content_refusal_is_final(world):
    world.emulator.faults["pan 1"] = [Fault.REFUSE_CONTENT]

    first = await world.run(3)
    second = await world.run(3)

    assert (first.published, first.rejected, first.exit_code) == (2, 1, 5)
    assert second.rejected == 1
    assert world.bought["pan 1"] == 1
    assert first.spent_usd == world.owed


async def test_job_that_the_provider_fails_is_retried_and_charged_once(world):
    """A job that fails at the provider is tried again and charged once."""
    world.emulator.faults["pan 1"] = [Fault.FAIL]

    summary = await world.run(3)

    assert summary.published == 3
    assert world.bought["pan 1"] == 2
    assert summary.spent_usd == world.owed


async def test_job_that_fails_every_time_rests_with_a_reason(world):
    world.rules = Rules(attempts=2)
    world.emulator.faults["pan 1"] = [Fault.FAIL] * 5

    summary = await world.run(3)

    [waiting] = world.batch_runs[0].engine.tally.waiting_jobs.values()
    assert (summary.published, summary.pending, summary.exit_code) == (2, 1, 1)
    assert world.bought["pan 1"] == 2
    assert waiting.why is WaitReason.ATTEMPTS


@pytest.mark.parametrize("fault", BROKEN_DOWNLOADS)
async def test_a_broken_download_is_fetched_again_and_not_bought_again(world, fault):
    world.emulator.faults["pan 1"] = [fault]

    summary = await world.run(3)

    assert summary.published == 3
    assert set(world.bought.values()) == {1}


@pytest.mark.parametrize("fault", [Fault.NOT_FOUND_AT_FIRST, Fault.UNKNOWN_STATUS])
async def test_an_odd_answer_to_a_poll_is_asked_about_again(world, fault):
    world.emulator.faults["pan 1"] = [fault]

    summary = await world.run(3)

    assert summary.published == 3
    assert set(world.bought.values()) == {1}


async def test_a_job_that_never_ends_is_left_to_the_next_run(world):
    world.rules = Rules(deadline_s=0.5)
    world.emulator.faults["pan 1"] = [Fault.STUCK]

    first = await world.run(3)
    second = await world.run(3)

    assert (first.published, first.pending, first.exit_code) == (2, 1, 1)
    assert (second.pending, second.bought) == (1, 0)
    assert world.bought["pan 1"] == 1


@pytest.mark.parametrize("recorded", [2, 3], ids=["accepted", "generated"])
async def test_clip_ready_when_the_process_died_is_fetched_by_the_next(world, recorded):
    """The next run fetches a clip that was ready when the process died."""
    whole = await world.run(1)
    root = Objects.open((world.folder / "root").as_uri())
    entries = (await read(root))[:recorded]
    shutil.rmtree(world.folder / "root")
    ledger = await Ledger.open(made((world.folder / "root").as_uri()), name="died")
    for entry in entries:
        await ledger.record(entry.job, entry.event)
    await ledger.close()

    again = await world.run(1)

    assert (whole.published, again.published, again.bought) == (1, 1, 0)
    assert world.bought == {"pan 0": 1}
    assert world.table("clips")["spent_usd"].sum() == world.owed


async def test_a_clip_that_is_gone_for_good_is_not_waited_for_for_ever(world, caplog):
    world.emulator.faults["pan 1"] = [Fault.LOST_CLIP]
    lane = world.lane(world.routes[0])
    lane.route = replace(lane.route, keeps_s=0)

    summary = await world.run(3, lanes=[lane])

    attempts = world.table("attempts").sort("submitted_at")
    level, outcome = ("ERROR", "discarded") if lane.paid else ("WARNING", "forgotten")
    [lost] = attempts.filter(outcome=outcome).rows(named=True)
    told = [line for line in caplog.records if line.name == "tasks.engine.steps"]
    [record] = [line for line in told if line.levelname == level]
    assert (summary.published, summary.exit_code, lane.failed) == (3, 0, 0)
    assert world.bought == {"pan 0": 1, "pan 1": 2, "pan 2": 1}
    assert summary.spent_usd == world.owed
    assert lost["charged"]
    how = "expired at" if lane.paid else "forgotten by"
    begins = f"{how} {lost['provider']}: "
    assert lost["reason"].startswith(begins)
    assert lost["reason"].removeprefix(begins) in record.message


@pytest.mark.parametrize("fault", [Fault.UNAUTHORIZED, Fault.NO_CREDIT])
async def test_lane_that_accepts_nothing_is_closed_with_advice(world, fault):
    """A lane that accepts no job is closed, and the batch says what to do."""
    world.emulator.faults["pan"] = [fault] * 1000

    summary = await world.run(20)

    assert summary.exit_code == 3
    assert summary.short_of == "lanes"
    assert summary.pending == 20
    assert list(summary.lanes_closed) == [world.batch_runs[0].engine.lanes.all[0].name]
    assert world.bought == {}
    assert summary.spent_usd == 0


async def test_input_that_no_provider_takes_is_rejected_free_of_charge(world):
    world.emulator.faults["pan 1"] = [Fault.REJECT_INPUT]

    summary = await world.run(3)

    assert (summary.published, summary.rejected) == (2, 1)
    assert summary.spent_usd == world.owed


async def test_the_budget_is_a_wall(world):
    price = cost(world)

    summary = await world.run(10, budget_usd=price * 4 + price / 2)

    assert summary.published == (4 if price else 10)
    assert (summary.exit_code, summary.short_of) == (
        (3, "budget") if price else (0, None)
    )
    assert world.owed == summary.spent_usd == price * 4


async def test_a_budget_of_nothing_buys_nothing_that_costs_anything(world):
    summary = await world.run(3, budget_usd=Decimal(0))

    made = 0 if cost(world) else 3
    assert (summary.published, summary.pending) == (made, 3 - made)
    assert sum(world.bought.values()) == made
    assert world.owed == summary.spent_usd == 0


async def test_a_row_that_pays_less_than_the_price_is_not_bought(world):
    summary = await world.run([{"prompt": "a", "max_usd": 0.01}, {"prompt": "b"}])

    bought = {"b": 1} if cost(world) else {"a": 1, "b": 1}
    assert (summary.published, summary.pending) == (len(bought), 2 - len(bought))
    assert world.bought == bought


async def test_still_that_is_no_picture_costs_nothing(world):
    """A still that is not a picture costs nothing and stops no other row."""
    (world.folder / "stills").mkdir()
    (world.folder / "stills" / "page.jpg").write_text("<html>not found</html>")
    rows = [
        {"image": "stills/page.jpg", "prompt": "a"},
        {"image": "stills/none.jpg", "prompt": "b"},
        {"prompt": "c"},
    ]

    summary = await world.run(rows)

    assert (summary.published, summary.rejected, summary.exit_code) == (1, 2, 5)
    assert world.bought == {"c": 1}


async def test_strict_looks_at_every_still_before_a_cent_is_spent(world):
    rows = [{"prompt": "a"}, {"image": "stills/none.jpg", "prompt": "b"}]

    with pytest.raises(ManifestError, match=r"none\.jpg: no such file"):
        await world.run(rows, strict=True)

    assert world.bought == {}


async def test_still_out_of_reach_for_now_does_not_fail_a_manifest(world):
    """A still that is unreachable for now does not make the manifest invalid."""
    rows = [{"prompt": "a"}, {"image": "http://127.0.0.1:1/b.jpg", "prompt": "b"}]

    with pytest.raises(OpeningError, match=r"b\.jpg: .*Connect call failed") as caught:
        await world.run(rows, strict=True)

    assert caught.value.passing
    assert world.bought == {}


async def test_tables_hold_every_row_attempt_and_complaint(world):
    """The tables hold every row, every attempt and every complaint."""
    world.emulator.faults["pan 1"] = [Fault.FAIL]
    world.emulator.faults["pan 2"] = [Fault.LOSE_ANSWER]
    rows = [{"prompt": f"pan {n}", "sku": f"s{n}"} for n in range(3)]
    rows += [{"image": "stills/none.jpg", "prompt": "x"}, {"prompt": " "}]

    summary = await world.run(rows)

    clips, attempts, complaints = map(world.table, ("clips", "attempts", "complaints"))
    left = doubts(world)
    lost = "in_doubt" if left else "published"
    states = dict(clips.select("row", "state").iter_rows())
    assert states == {
        0: "published",
        1: "published",
        2: lost,
        3: "invalid",
        4: "invalid",
    }
    assert clips["sku"].to_list()[:3] == ["s0", "s1", "s2"]
    assert clips["reason"].null_count() == 3 - left
    assert clips["spent_usd"].sum() == summary.spent_usd == world.owed
    outcomes = sorted(attempts["outcome"])
    [failed] = [line for line in world.emulator.bill if line.outcome == "failed"]
    told = "refused" if failed.refunded else "discarded"
    again = ["risked"] * made_twice(world)
    assert outcomes == sorted([told, lost, "published", "published", *again])
    assert complaints["row"].to_list() == [3, 4]
    assert (summary.rejected, summary.exit_code) == (2, 5)


async def test_facts_learned_of_a_lane_are_kept_for_the_next_night(world):
    await world.run(10)

    await world.run(12)

    assert world.batch_runs[1].engine.lanes.all[0].polls.expected_s() is not None


async def test_stopping_leaves_no_doubt_and_the_next_run_goes_on(world):
    stopped = await world.run(
        12, during=lambda batch_run: batch_run.engine.stop("enough")
    )
    resumed = await world.run(12)

    assert (stopped.published, stopped.in_doubt, stopped.exit_code) == (0, 0, 1)
    assert (resumed.published, resumed.exit_code) == (12, 0)
    assert set(world.bought.values()) == {1}


async def test_quotas_are_kept_as_the_provider_counts_them(world):
    world.slots = 3
    lane = world.lane(world.routes[0], queues=False)

    await world.run(20, lanes=[lane])

    [account] = world.emulator.stats()["accounts"]
    assert account["running"] <= 3
    assert account["waiting"] == 0
    assert account["throttled"] == 0


async def test_sidecar_tells_how_a_clip_was_made_without_secrets(world):
    """A clip's sidecar records how it was made and contains no secret."""
    await world.run([{"prompt": "pan", "seed": 7}])

    batch_run = world.batch_runs[0]
    [job] = ids(batch_run.plan.wanted)
    objects = Objects.open(batch_run.wanted.root)
    sidecar = (await objects.get(f"clips/{job[:2]}/{job}.json")).decode()
    assert '"seed": 7' in sidecar
    assert '"ai_generated": true' in sidecar
    assert "key" not in sidecar


async def test_a_refund_of_an_earlier_runs_money_is_not_this_runs_gain(worlds, clip):
    emulator = Emulator(latency_s=1.0, clip=clip, faults={"pan": [Fault.FAIL]})
    with running(emulator) as url:
        routes = ["wavespeed/wan-2.2-spicy"]
        world = worlds(emulator=emulator, url=url, routes=routes)
        world.rules = Rules(deadline_s=0.0)
        first = await world.run(1)
        world.rules = Rules()

        second = await world.run(1)

    assert (first.pending, first.bought) == (1, 1)
    assert (second.published, second.bought) == (1, 1)
    assert second.spent_usd == world.owed


async def test_clip_matches_its_order(worlds):
    emulator = Emulator(latency_s=0.1)
    with running(emulator) as url:
        routes = ["wavespeed/wan-2.2-spicy"]
        world = worlds(emulator=emulator, url=url, routes=routes)
        tall = world.still("tall.jpg", (360, 640))

        await world.run([{"image": tall, "prompt": "pan", "duration_s": 8}])

    [clip] = world.table("clips").rows(named=True)
    assert (clip["width"], clip["height"], clip["codec"]) == (480, 832, "h264")
    assert clip["fps"] == 16
    assert 7.9 < clip["seconds"] < 8.1


async def test_key_refused_at_upload_leaves_the_other_lanes_at_work(worlds, clip):
    """A key that is refused at the upload closes its lane and no other."""
    emulator = Emulator(latency_s=0.1, keys={"key"}, clip=clip)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[])
        good = world.lane("atlas/wan-2.2-spicy")
        bad = world.lane("wavespeed/wan-2.2-spicy", key="wrong")

        summary = await world.run(5, lanes=[bad, good])

    assert (summary.published, summary.exit_code) == (5, 0)
    assert list(summary.lanes_closed) == ["wavespeed"]


async def test_request_that_cannot_be_built_costs_no_money_or_slot(worlds, emulator):
    """A request that the adapter cannot build costs no money and keeps no slot."""
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=[])
        lane = world.lane("replicate/wan-2.2")
        # The user lists a duration that the adapter cannot express.
        prices = {**lane.route.prices_usd, ("480p", 8): Decimal("0.08")}
        lane.route = replace(lane.route, prices_usd=prices)

        summary = await world.run([{"prompt": "pan", "duration_s": 8}], lanes=[lane])

    assert (summary.published, summary.spent_usd, world.bought) == (0, 0, {})
    for _ in range(MAX_UNANSWERED):
        assert lane.limiter.wait_s(0.0) == 0
        lane.limiter.reserve_slot(0.0)


async def test_still_with_an_expired_link_is_handed_over_again(worlds, clip):
    """The second attempt does not reuse the upload of the failed first one."""
    emulator = Emulator(latency_s=0.1, clip=clip, faults={"pan": [Fault.FAIL]})
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["wavespeed/wan-2.2-spicy"])

        summary = await world.run(1)

    assert summary.published == 1
    assert emulator.stats()["requests"]["wavespeed"]["upload"] == 4


async def test_a_still_may_have_any_name_that_a_file_may_have(world):
    """A name without a scheme is a path, to the letter; nothing in it is decoded."""
    still = world.still("50%20off? #3.jpg")

    summary = await world.run([{"image": still, "prompt": "pan"}])

    assert summary.published == 1


async def test_a_still_that_is_no_picture_is_not_quoted(world):
    (world.folder / "stills").mkdir()
    (world.folder / "stills" / "passwd").write_text("root:x:0:0")

    await world.run([{"image": "stills/passwd", "prompt": "pan"}])

    [complaint] = world.table("complaints").rows(named=True)
    assert "is not JPEG or PNG" in complaint["reason"]
    assert "root" not in complaint["reason"]


async def test_a_still_too_small_for_one_lane_is_made_by_another(worlds, emulator):
    with running(emulator) as url:
        routes = ["kling/kling-2.5-turbo", "wavespeed/wan-2.2"]
        world = worlds(emulator=emulator, url=url, routes=routes)
        still = world.still("small.jpg", (390, 260))
        row = {"image": still, "prompt": "pan", "resolution": "720p"}

        summary = await world.run([row])

    assert (summary.published, summary.rejected) == (1, 0)
    assert [line.dialect for line in emulator.bill] == ["wavespeed"]
