"""Bugs planted on purpose, one for each law: some night finds each, and names the law.

A simulator that finds nothing is worth nothing until it has found a known bug.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest

from manifests.lifecycle import Accepted, Doubted, Refused, State
from storage.ledger import Ledger, missing, segments, shard_stream
from storage.objects import DamagedError, Objects
from tasks.batch.batch import BatchRun
from tasks.dispatch import Budget, Lane, Lanes, RateLimiter
from tasks.dispatch.budget import Day
from tasks.dispatch.poll_schedule import PollSchedule
from tasks.distributed import supervisor
from tasks.distributed.heartbeat import ShardHeartbeat
from tasks.engine.download import Publisher, UnfetchedError
from tasks.engine.poll import Follower
from tasks.engine.stats import Tally, WaitReason
from tasks.engine.submit import Submitter
from tasks.providers import listings
from tasks.providers.protocol import Finished
from tests.simulation import night
from tests.simulation.laws import LAWS
from tests.simulation.night import played
from tests.simulation.plan import (
    STATES_CHARGES,
    Fate,
    Script,
    catalogue_,
    drawn,
)

pytestmark = pytest.mark.slow

SEEDS = range(40)


@dataclass(frozen=True)
class Bug:
    """A plausible mistake, and the laws that it breaks."""

    laws: set[str]
    plant: Callable[[pytest.MonkeyPatch], None]
    script: Callable[[Script], Script] = lambda script: script


BUGS: dict[str, Bug] = {}


def breaks(*laws, script=lambda script: script):
    """Register a way to plant a bug."""

    def registered(plant):
        BUGS[plant.__name__] = Bug({*laws}, plant, script)
        return plant

    return registered


@breaks("once")
def a_submit_in_doubt_is_sent_again(patch):
    send = Submitter.send

    async def again(self, offer, seed, ref, **more):
        answer = await send(self, offer, seed, ref, **more)
        if isinstance(answer, Doubted):
            return await send(self, offer, seed, ref, **more)
        return answer

    patch.setattr(Submitter, "send", again)


@breaks("free")
def a_lost_answer_is_taken_for_a_refusal(patch):
    send = Submitter.send

    async def certain(self, offer, seed, ref, **more):
        answer = await send(self, offer, seed, ref, **more)
        return Refused("surely not") if isinstance(answer, Doubted) else answer

    patch.setattr(Submitter, "send", certain)


@breaks("paid-once")
def what_was_refused_is_said_to_be_free_though_it_was_charged(patch):
    a_lost_answer_is_taken_for_a_refusal(patch)


@breaks("write-ahead")
def what_is_not_durable_is_said_to_be(patch):
    create, writing = Objects.create, []

    async def hasty(self, key, data, **more):
        if ".jsonl." not in key:
            return await create(self, key, data, **more)
        writing.append(asyncio.create_task(create(self, key, data, **more)))
        return None

    patch.setattr(Objects, "create", hasty)


@breaks("budget")
def the_budget_always_has_the_money(patch):
    patch.setattr(Budget, "affords", lambda self, price_usd: True)


@breaks("risk")
def any_sum_is_risked(patch):
    affords = Budget.affords
    # Only budgets for risks start with nothing spent and a small sum.
    patch.setattr(
        Budget,
        "affords",
        lambda self, usd: affords(self, usd) or (self._limit or 0) <= Decimal(3),
    )


@breaks("day")
def no_day_is_ever_full(patch):
    patch.setattr(Day, "full", lambda self, usd, now: None)


@breaks("slots", "volley", "rate")
def a_lane_is_always_free(patch):
    patch.setattr(RateLimiter, "wait_s", lambda self, now: 0.0)


@breaks("volley")
def all_slots_are_filled_in_one_volley(patch):
    patch.setattr(RateLimiter, "_max_unanswered", lambda self: 1000)


def slow(script):
    """Allow few submits a minute."""
    lanes = [replace(lane, submits_per_minute=4) for lane in script.lanes]
    runs = [replace(run, lanes=lanes) for run in script.runs]
    return replace(script, lanes=lanes, runs=runs)


@breaks("rate", script=slow)
def what_was_sent_is_forgotten(patch):
    begin = RateLimiter.reserve_slot

    def forgetful(self, now):
        begin(self, now)
        self._sent.clear()

    patch.setattr(RateLimiter, "reserve_slot", forgetful)


@breaks("slots")
def a_slot_is_given_back_too_early(patch):
    accepted = RateLimiter.accepted

    def early(self, now):
        accepted(self, now)
        self.in_flight -= 1

    patch.setattr(RateLimiter, "accepted", early)


def at_once(script):
    """Start all runs at the same moment, without any takeover."""
    runs = [
        replace(
            run, begins_s=0.0, killed_at=None, take_over=False, ahead_s=0, jump=None
        )
        for run in script.runs
    ]
    return replace(script, runs=[*runs, replace(runs[0], name="other")])


@breaks("held", script=at_once)
def a_claim_may_be_made_twice(patch):
    overwrite(patch, "ledger/epochs/")


@breaks("kept")
def what_is_on_record_may_be_overwritten(patch):
    overwrite(patch, ".jsonl.")


@breaks("once", "write-ahead", "paid-once")
def a_seal_does_not_keep_its_owner_from_writing(patch):
    overwrite(patch, ".jsonl.")


@breaks("legal")
def two_writers_tell_one_story(patch):
    overwrite(patch, ".jsonl.")


def overwrite(patch, part):
    create = Objects.create

    async def careless(self, key, data, **more):
        if part in key:
            return await self.put(key, data)
        return await create(self, key, data, **more)

    patch.setattr(Objects, "create", careless)


@breaks("held")
def a_root_is_taken_without_leave(patch):
    begin = Ledger.open.__func__

    async def rude(cls, objects, **options):
        return await begin(cls, objects, **options | {"take_over": True})

    patch.setattr(Ledger, "open", classmethod(rude))


@breaks("whole")
def published_is_recorded_before_the_sidecar_is_there(patch):
    create, writing = Objects.create, []

    async def later(self, key, data, **more):
        if key.startswith("clips/") and key.endswith(".json"):
            writing.append(asyncio.create_task(create(self, key, data, **more)))
            return None
        return await create(self, key, data, **more)

    patch.setattr(Objects, "create", later)


def at_once_asked(script):
    """Ask about doubts at once, while recent submits are not listed yet."""
    terms = {name: replace(each, lag_s=15.0) for name, each in script.terms.items()}
    return replace(script, settle_s=0.0, terms=terms)


@breaks("free", "paid-once", script=at_once_asked)
def a_doubt_is_settled_by_an_empty_listing_at_once(patch):
    """The bug is in the script."""


@breaks("ticket")
def a_ticket_is_mixed_up_with_the_one_before(patch):
    send, before = Submitter.send, []

    async def mixed(self, offer, seed, ref, **more):
        answer = await send(self, offer, seed, ref, **more)
        if isinstance(answer, Accepted):
            before.append(answer)
            return before[max(0, len(before) - 2)]
        return answer

    patch.setattr(Submitter, "send", mixed)


@breaks("bill")
def half_the_price_is_put_on_record(patch):
    intended = Submitter.intended

    def cheap(self, offer, seed, ref):
        event = intended(self, offer, seed, ref)
        return replace(event, price_usd=event.price_usd / 2)

    patch.setattr(Submitter, "intended", cheap)


def dear(script):
    """Every provider that states its charges charges four times its price list."""
    terms = {
        name: replace(each, dearer=4) if name in STATES_CHARGES else each
        for name, each in script.terms.items()
    }
    return replace(script, terms=terms)


def dear_and_short_of_money(script):
    """Each run has the money for thirty clips, if they cost what the list says."""
    runs = [
        replace(run, budget_usd=min(map(lane_price, run.lanes)) * 30)
        for run in script.runs
    ]
    return dear(replace(script, runs=runs))


@breaks("dearer", script=dear)
def a_dearer_bill_is_paid_and_forgotten(patch):
    patch.setattr(Lane, "raise_prices", lambda *_: False)


@breaks("budget", script=dear_and_short_of_money)
def a_dearer_bill_is_no_reason_to_stop(patch):
    a_dearer_bill_is_paid_and_forgotten(patch)


@breaks("bill", script=dear)
def a_stated_charge_is_not_believed(patch):
    after = Follower.until_ended

    async def deaf(self, *asked, **more):
        ended = await after(self, *asked, **more)
        return replace(ended, usd=None) if isinstance(ended, Finished) else ended

    patch.setattr(Follower, "until_ended", deaf)


def rotting(script):
    """Every later run finds an object of the ledger damaged, or gone."""
    first, *later = script.runs
    runs = [
        replace(run, rots=(script.seed * 0.37 + n * 0.61) % 1)
        for n, run in enumerate(later)
    ]
    return replace(script, runs=[first, *runs])


@breaks("once", "paid-once", "legal", "write-ahead", script=rotting)
def a_damaged_segment_is_taken_for_an_empty_one(patch):
    plain = segments.plain

    def lenient(*of, **more):
        try:
            return plain(*of, **more)
        except DamagedError:
            return b""

    patch.setattr(segments, "plain", lenient)


@breaks("held", script=rotting)
def a_claim_that_is_gone_was_never_made(patch):
    async def trustful(*_):
        pass

    patch.setattr(missing, "refuse_claims", trustful)


@breaks("damage", script=rotting)
def damage_is_not_named(patch):
    plain = segments.plain

    def vague(*of, **more):
        try:
            return plain(*of, **more)
        except DamagedError:
            raise DamagedError("something is damaged") from None

    patch.setattr(segments, "plain", vague)


@breaks("summary")
def a_summary_counts_one_clip_too_many(patch):
    summary = BatchRun.summary

    def proud(self):
        told = summary(self)
        return replace(told, published=told.published + 1)

    patch.setattr(BatchRun, "summary", proud)


@breaks("ends", "done")
def a_job_rests_and_nobody_says_why(patch):
    waiting = Tally.set_waiting

    def silent(self, job, why, reason):
        if why is WaitReason.DOUBT:
            waiting(self, job, why, reason)

    patch.setattr(Tally, "set_waiting", silent)


def sharded(script):
    """All runs give their shards to other processes, which live."""
    runs = [
        replace(run, elsewhere=3, shard_rows=5, fates=(), budget_usd=few_usd(run))
        for run in script.runs
    ]
    return replace(script, runs=runs)


def few_usd(run):
    return min(lane_price(lane) for lane in run.lanes) * 4


def lane_price(lane):
    return min(catalogue_().route(lane.route).prices_usd.values())


def given_up(script):
    """Each shard's first process continues after another has started in its place: it
    was reported as failed, and was silent for a while."""
    given_up = [Fate(given_up_s=2.0, paused_s=(2.0, 20.0), heeds=False)] * 4
    runs = [
        replace(run, elsewhere=2, shard_rows=20, fates=given_up) for run in script.runs
    ]
    return replace(script, runs=runs)


@breaks("slots", script=sharded)
def every_shard_takes_the_whole_account(patch):
    patch.setattr(
        RateLimiter, "set_share", lambda self, slots, submits_per_minute: None
    )
    patch.setattr(Budget, "dealt", lambda self, budget_usd, more: None)
    patch.setattr(Budget, "affords", lambda self, price_usd: True)


@breaks("budget", script=sharded)
def what_other_shards_spend_is_not_counted(patch):
    dealt = Budget.dealt

    def generous(self, budget_usd, *, more):
        dealt(self, budget_usd * 3, more=more)

    patch.setattr(Budget, "dealt", generous)


@breaks("legal", "once", "paid-once", "write-ahead", script=given_up)
def a_shards_older_writer_is_not_shut_out(patch):
    async def let(*_):
        pass

    patch.setattr(shard_stream, "_end", let)
    patch.setattr(ShardHeartbeat, "_without_grant", lambda self, grant: None)


def never_heard(script):
    """Each shard's first process dies before its first message, without a report."""
    dies = [Fate(killed_s=0.0, told_s=None)] * 2
    runs = [replace(run, elsewhere=2, shard_rows=20, fates=dies) for run in script.runs]
    return replace(script, runs=runs)


@breaks("stuck", script=never_heard)
def a_process_that_was_never_heard_is_waited_for(patch):
    patch.setattr(supervisor, "_never_reported", lambda status: None)
    patch.setattr(night, "LONGEST_S", 3 * 3600.0)


@breaks("stuck", script=sharded)
def who_waits_for_money_is_not_told_that_no_more_will_come(patch):
    patch.setattr(Lanes, "recheck_budgets", lambda self: None)
    patch.setattr(night, "LONGEST_S", 3 * 3600.0)


@breaks("unbroken")
def an_answer_breaks_a_job(patch):
    send = Submitter.send

    async def clumsy(self, offer, seed, ref, **more):
        answer = await send(self, offer, seed, ref, **more)
        if isinstance(answer, Refused):
            raise KeyError("retry_after")
        return answer

    patch.setattr(Submitter, "send", clumsy)


@breaks("done")
def a_clip_is_never_fetched(patch):
    async def lazy(self, job_id, link, sidecar, **_more):
        raise UnfetchedError("tomorrow")

    patch.setattr(Publisher, "publish", lazy)


@breaks("noticed")
def jobs_are_looked_at_twice_a_night(patch):
    patch.setattr(PollSchedule, "next_s", lambda self, elapsed_s: 1200.0)


@breaks("stuck")
def nobody_is_told_that_a_slot_is_free(patch):
    patch.setattr(Lanes, "release_slot", lambda self, lane: lane.limiter.release_slot())
    patch.setattr(Lanes, "_assign_again_in", lambda self, seconds: None)
    patch.setattr(Lanes, "assign_slots", lambda self: None)


@breaks("replay")
def a_writer_remembers_otherwise(patch):
    history = Ledger.history

    def rosy(self, life):
        known = history(self, life)
        if known.state is State.REJECTED:
            return replace(known, state=State.PUBLISHED)
        return known

    patch.setattr(Ledger, "history", rosy)


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found_and_named(name, monkeypatch):
    bug = BUGS[name]
    bug.plant(monkeypatch)

    found = {}
    for seed in SEEDS:
        for breach in played(seed, bug.script(drawn(seed))).breaches:
            found.setdefault(breach.law, seed)
        if bug.laws & found.keys():
            break

    assert bug.laws & found.keys(), f"only {found}"


def test_every_law_has_a_bug_that_breaks_it():
    assert set().union(*(bug.laws for bug in BUGS.values())) == LAWS.keys()


BRIEFLY = 37
"""A seed whose lost answer is asked about when the listing no longer shows the job."""


def listing(latest):
    """The night of that seed; each listing shows only the `latest` jobs, or all."""
    script = drawn(BRIEFLY)
    terms = {
        name: replace(each, lists=latest, lag_s=0.0)
        for name, each in script.terms.items()
    }
    return replace(script, terms=terms)


def test_a_short_listing_that_is_believed_breaks_a_law(monkeypatch):
    """The same night with the whole listing, or without the bug, breaks none."""
    careful = played(BRIEFLY, listing(1)).breaches

    monkeypatch.setattr(listings, "missing", lambda listed, doubt: None)
    whole = played(BRIEFLY, listing(None)).breaches
    short = played(BRIEFLY, listing(1)).breaches

    assert not careful
    assert not whole
    assert "free" in {breach.law for breach in short}
