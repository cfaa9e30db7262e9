"""Laws of the rate limit: use the whole quota and never exceed it."""

import math
import random

import pytest

from tasks.dispatch import RATE_WINDOW_S, LearnedLimits, Limits, RateLimiter
from tasks.dispatch.rate_limit import FAILURES_TO_OPEN, MAX_UNANSWERED


def limiter(slots=4, submits_per_minute=1000, *, queues=False):
    return RateLimiter(
        Limits(slots=slots, submits_per_minute=submits_per_minute, queues=queues)
    )


def accept(limiter, n, now=0.0):
    """Makes the lane accept `n` jobs, which then run."""
    for _ in range(n):
        begin(limiter, 1, now)
        limiter.accepted(now)


def begin(limiter, n, now=0.0):
    for _ in range(n):
        assert limiter.wait_s(now) == 0
        limiter.reserve_slot(now)


def test_no_more_are_in_flight_than_there_are_slots():
    lane = limiter(slots=2)
    begin(lane, 2)

    assert lane.wait_s(0.0) == math.inf

    lane.release_slot()

    assert lane.wait_s(0.0) == 0


def test_a_provider_that_queues_is_given_a_few_more_than_it_runs():
    lane = limiter(slots=100, queues=True)
    assert lane.slots == 125

    lane.set_typical_s(600.0)
    assert lane.slots == 106
    lane.set_typical_s(2.0)
    assert lane.slots == 200


def test_a_provider_that_refuses_is_given_no_more_than_it_runs():
    lane = limiter(slots=100, queues=False)

    lane.set_typical_s(2.0)

    assert lane.slots == 100


def test_limit_learned_from_a_refusal_outlives_expectations():
    """A limit learned from a refusal stays when `expect` is called later."""
    lane = limiter(slots=100, queues=True)
    accept(lane, 49)
    begin(lane, 1)
    lane.throttled(0.0, None)

    lane.set_typical_s(2.0)

    assert lane.slots < 60


def test_a_minute_never_has_more_submits_than_it_may():
    lane = limiter(slots=10**6, submits_per_minute=7)
    sent, now = [], 0.0
    while len(sent) < 50:
        now += lane.wait_s(now)
        accept(lane, 1, now)
        sent.append(now)

    assert all(
        later - sooner >= RATE_WINDOW_S
        for sooner, later in zip(sent, sent[7:], strict=False)
    )


def test_a_turn_that_is_withdrawn_late_gives_its_slot_back():
    lane = limiter(slots=2)
    begin(lane, 1)
    lane.wait_s(RATE_WINDOW_S + 1)  # this call drops everything over a minute old

    lane.not_sent()
    lane.release_slot()

    assert lane.in_flight == 0
    begin(lane, 2, RATE_WINDOW_S + 1)


def test_late_withdrawal_of_a_turn_hides_no_other_submit():
    lane = limiter(submits_per_minute=2)
    begin(lane, 1, 0.0)  # its still takes long and is then rejected
    accept(lane, 1, 50.0)

    lane.not_sent()
    lane.release_slot()

    begin(lane, 1, 55.0)
    assert lane.wait_s(56.0) == 50.0 + RATE_WINDOW_S - 56.0


def test_retry_after_is_honoured():
    lane = limiter()
    begin(lane, 1)
    lane.throttled(0.0, retry_after=17.0)
    lane.release_slot()

    assert lane.wait_s(0.0) == 17.0
    assert lane.wait_s(17.0) == 0


def test_refusals_without_a_hint_back_off_until_a_success():
    """Refusals without a hint back off further each time; a success resets this."""
    lane, now, waits = limiter(), 0.0, []
    for _ in range(4):
        begin(lane, 1, now)
        lane.throttled(now, None)
        lane.release_slot()
        waits.append(lane.wait_s(now))
        now += lane.wait_s(now)
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]

    begin(lane, 1, now)
    lane.accepted(now)
    lane.release_slot()
    now += RATE_WINDOW_S
    begin(lane, 1, now)
    lane.throttled(now, None)
    lane.release_slot()

    assert lane.wait_s(now) == waits[0]


@pytest.mark.parametrize(("told", "bears"), [(40, 20), (20, 19), (100, 7), (8, 4)])
def test_a_limit_set_too_high_is_learned_and_not_hammered(told, bears):
    """A provider that refuses jobs above its limit, and jobs of uneven length."""
    lane, chance = limiter(slots=told, submits_per_minute=10**6), random.Random(1)
    now, refused, taken, ends, busy = 0.0, 0, 0, [], 0.0
    while taken < 2000:
        ends = sorted(ends)
        while ends and ends[0] <= now:
            ends.pop(0)
            lane.release_slot()
        wait = lane.wait_s(now)
        if wait > 0:
            step = min(wait, ends[0] - now if ends else math.inf)
            busy += len(ends) * step
            now += step
            continue
        lane.reserve_slot(now)
        if len(ends) < bears:
            lane.accepted(now)
            taken += 1
            ends.append(now + chance.uniform(3, 5))
        else:
            refused += 1
            lane.throttled(now, None)
            lane.release_slot()

    assert refused < 0.05 * taken
    assert busy / (bears * now) > 0.9


def test_a_rate_set_too_high_is_learned_too():
    """A provider accepts 30 a minute from a lane configured with 300."""
    lane, now, taken, refused = limiter(slots=1000, submits_per_minute=300), 0.0, [], 0
    while now < 3600:
        wait = lane.wait_s(now)
        if wait > 0:
            now += wait
            continue
        lane.reserve_slot(now)
        if len([at for at in taken if at > now - 60]) < 30:
            lane.accepted(now)
            taken.append(now)
        else:
            refused += 1
            lane.throttled(now, None)
        lane.release_slot()

    assert refused < 0.05 * len(taken)
    assert len(taken) > 0.8 * 30 * 60


def test_lane_that_keeps_failing_is_tried_one_job_at_a_time():
    """A lane that keeps failing is tried with one job at a time."""
    lane = limiter(slots=10)
    begin(lane, FAILURES_TO_OPEN)
    for _ in range(FAILURES_TO_OPEN):
        lane.failed(0.0)
        lane.release_slot()

    assert lane.wait_s(0.0) > 0

    now = lane.wait_s(0.0)
    begin(lane, 1, now)

    assert lane.wait_s(now) == math.inf

    lane.accepted(now)

    assert lane.wait_s(now) == 0


def test_many_failures_of_one_outage_are_one_piece_of_news():
    lane = limiter(slots=100)
    accept(lane, 80)
    begin(lane, 20)
    for _ in range(20):
        lane.failed(0.0)
        lane.release_slot()

    assert not lane.breaker.is_down


def test_first_volley_to_an_unknown_lane_is_small():
    lane = limiter(slots=100)
    begin(lane, MAX_UNANSWERED)

    assert lane.wait_s(0.0) == math.inf
    lane.accepted(0.0)
    assert lane.wait_s(0.0) == 0


def test_volley_grows_with_the_jobs_that_the_lane_runs():
    lane = limiter(slots=100)
    accept(lane, 60)

    begin(lane, 15)

    assert lane.wait_s(0.0) == math.inf


def test_the_refusals_of_one_volley_are_one_piece_of_news():
    lane = limiter(slots=16)
    accept(lane, 8)
    begin(lane, MAX_UNANSWERED)

    for _ in range(MAX_UNANSWERED):
        lane.throttled(0.0, None)
        lane.release_slot()

    assert lane.slots == 8
    assert lane.learned() == LearnedLimits(8.0, 1000.0)


def test_outage_is_down_after_a_quarter_of_an_hour():
    """An outage counts as down after about a quarter of an hour, not sooner."""
    lane, now = limiter(slots=1), 0.0
    while not lane.breaker.is_down:
        now += lane.wait_s(now)
        begin(lane, 1, now)
        lane.failed(now)
        lane.release_slot()

    assert 600 < now < 1800


@pytest.mark.parametrize("answer", ["accepted", "rejected"])
def test_answer_closes_the_breaker(answer):
    """After one answer of the provider, more than one job at a time is sent again."""
    lane, now = limiter(slots=10), 0.0
    begin(lane, FAILURES_TO_OPEN)
    for _ in range(FAILURES_TO_OPEN):
        lane.failed(now)
        lane.release_slot()
    now = lane.wait_s(now)
    begin(lane, 1, now)

    lane.accepted(now) if answer == "accepted" else lane.rejected()

    assert not lane.breaker.is_open
    begin(lane, 2, now)


def test_submits_of_other_runs_count_for_the_minute():
    """Submits of other runs to the account leave fewer of its submits per minute."""
    lane = limiter(submits_per_minute=3)
    lane.others_sent([10.0, 5.0])
    accept(lane, 1, 20.0)

    assert lane.sent_at(20.0) == [5.0, 10.0, 20.0]
    assert lane.wait_s(20.0) == 5.0 + RATE_WINDOW_S - 20.0


@pytest.mark.parametrize(("slots", "a_minute"), [(2, 1000), (4, 2)])
def test_process_keeps_to_its_share_of_the_account(slots, a_minute):
    """A process has no more in flight, and sends no more, than its share allows."""
    lane = limiter(slots=4)
    lane.set_share(slots, a_minute)
    accept(lane, 2)

    assert lane.wait_s(0.0) > 0

    lane.set_share(4, 1000)

    assert lane.wait_s(0.0) == 0


def test_empty_share_of_submits_sends_nothing():
    lane = limiter()
    lane.set_share(4, 0)

    assert lane.wait_s(0.0) == math.inf


def test_restored_limits_never_exceed_those_configured():
    """Limits learned under a larger configuration do not raise a smaller one."""
    lane = limiter(slots=3, submits_per_minute=5)

    lane.restore(LearnedLimits(50.0, 900.0), now=0.0)

    assert lane.slots == 3
    begin(lane, 3)
    assert lane.wait_s(0.0) == math.inf
    assert lane.learned() is None
