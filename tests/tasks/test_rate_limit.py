"""Laws of pacing: use the whole quota and never exceed it."""

import math
import random

import pytest

from tasks.dispatch.rate_limit import (
    MINUTE,
    TROUBLES,
    TRUST,
    Learned,
    Limits,
    Looks,
    Pace,
)


def pace(slots=4, submits_per_minute=1000, *, queues=False):
    return Pace(
        Limits(slots=slots, submits_per_minute=submits_per_minute, queues=queues)
    )


def accept(pace, n, now=0.0):
    """Makes the lane accept `n` jobs, which then run."""
    for _ in range(n):
        begin(pace, 1, now)
        pace.accepted(now)


def begin(pace, n, now=0.0):
    for _ in range(n):
        assert pace.wait(now) == 0
        pace.begin(now)


def test_no_more_are_in_flight_than_there_are_slots():
    lane = pace(slots=2)
    begin(lane, 2)

    assert lane.wait(0.0) == math.inf

    lane.done()

    assert lane.wait(0.0) == 0


def test_a_provider_that_queues_is_given_a_few_more_than_it_runs():
    lane = pace(slots=100, queues=True)
    assert lane.slots == 125

    lane.expect(600.0)
    assert lane.slots == 106
    lane.expect(2.0)
    assert lane.slots == 200


def test_a_provider_that_refuses_is_given_no_more_than_it_runs():
    lane = pace(slots=100, queues=False)

    lane.expect(2.0)

    assert lane.slots == 100


def test_limit_learned_from_a_refusal_outlives_expectations():
    """A limit learned from a refusal stays when `expect` is called later."""
    lane = pace(slots=100, queues=True)
    accept(lane, 49)
    begin(lane, 1)
    lane.throttled(0.0, None)

    lane.expect(2.0)

    assert lane.slots < 60


def test_a_minute_never_has_more_submits_than_it_may():
    lane = pace(slots=10**6, submits_per_minute=7)
    sent, now = [], 0.0
    while len(sent) < 50:
        now += lane.wait(now)
        accept(lane, 1, now)
        sent.append(now)

    assert all(
        later - sooner >= MINUTE for sooner, later in zip(sent, sent[7:], strict=False)
    )


def test_a_turn_that_is_withdrawn_late_gives_its_slot_back():
    lane = pace(slots=2)
    begin(lane, 1)
    lane.wait(MINUTE + 1)  # this call drops everything over a minute old

    lane.withdrawn()
    lane.done()

    assert lane.in_flight == 0
    begin(lane, 2, MINUTE + 1)


def test_late_withdrawal_of_a_turn_hides_no_other_submit():
    lane = pace(submits_per_minute=2)
    begin(lane, 1, 0.0)  # its still takes long and is then rejected
    accept(lane, 1, 50.0)

    lane.withdrawn()
    lane.done()

    begin(lane, 1, 55.0)
    assert lane.wait(56.0) == 50.0 + MINUTE - 56.0


def test_retry_after_is_honoured():
    lane = pace()
    begin(lane, 1)
    lane.throttled(0.0, retry_after=17.0)
    lane.done()

    assert lane.wait(0.0) == 17.0
    assert lane.wait(17.0) == 0


def test_refusals_without_a_hint_back_off_until_a_success():
    """Refusals without a hint back off further each time; a success resets this."""
    lane, now, waits = pace(), 0.0, []
    for _ in range(4):
        begin(lane, 1, now)
        lane.throttled(now, None)
        lane.done()
        waits.append(lane.wait(now))
        now += lane.wait(now)
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]

    begin(lane, 1, now)
    lane.accepted(now)
    lane.done()
    now += MINUTE
    begin(lane, 1, now)
    lane.throttled(now, None)
    lane.done()

    assert lane.wait(now) == waits[0]


@pytest.mark.parametrize(("told", "bears"), [(40, 20), (20, 19), (100, 7), (8, 4)])
def test_a_limit_set_too_high_is_learned_and_not_hammered(told, bears):
    """A provider that refuses jobs above its limit, and jobs of uneven length."""
    lane, chance = pace(slots=told, submits_per_minute=10**6), random.Random(1)
    now, refused, taken, ends, busy = 0.0, 0, 0, [], 0.0
    while taken < 2000:
        ends = sorted(ends)
        while ends and ends[0] <= now:
            ends.pop(0)
            lane.done()
        wait = lane.wait(now)
        if wait > 0:
            step = min(wait, ends[0] - now if ends else math.inf)
            busy += len(ends) * step
            now += step
            continue
        lane.begin(now)
        if len(ends) < bears:
            lane.accepted(now)
            taken += 1
            ends.append(now + chance.uniform(3, 5))
        else:
            refused += 1
            lane.throttled(now, None)
            lane.done()

    assert refused < 0.05 * taken
    assert busy / (bears * now) > 0.9


def test_a_rate_set_too_high_is_learned_too():
    """A provider accepts 30 a minute from a lane configured with 300."""
    lane, now, taken, refused = pace(slots=1000, submits_per_minute=300), 0.0, [], 0
    while now < 3600:
        wait = lane.wait(now)
        if wait > 0:
            now += wait
            continue
        lane.begin(now)
        if len([at for at in taken if at > now - 60]) < 30:
            lane.accepted(now)
            taken.append(now)
        else:
            refused += 1
            lane.throttled(now, None)
        lane.done()

    assert refused < 0.05 * len(taken)
    assert len(taken) > 0.8 * 30 * 60


def test_lane_that_keeps_failing_is_tried_one_job_at_a_time():
    """A lane that keeps failing is tried with one job at a time."""
    lane = pace(slots=10)
    begin(lane, TROUBLES)
    for _ in range(TROUBLES):
        lane.troubled(0.0)
        lane.done()

    assert lane.wait(0.0) > 0

    now = lane.wait(0.0)
    begin(lane, 1, now)

    assert lane.wait(now) == math.inf

    lane.accepted(now)

    assert lane.wait(now) == 0


def test_many_failures_of_one_outage_are_one_piece_of_news():
    lane = pace(slots=100)
    accept(lane, 80)
    begin(lane, 20)
    for _ in range(20):
        lane.troubled(0.0)
        lane.done()

    assert not lane.hopeless


def test_first_volley_to_an_unknown_lane_is_small():
    lane = pace(slots=100)
    begin(lane, TRUST)

    assert lane.wait(0.0) == math.inf
    lane.accepted(0.0)
    assert lane.wait(0.0) == 0


def test_volley_grows_with_the_jobs_that_the_lane_runs():
    lane = pace(slots=100)
    accept(lane, 60)

    begin(lane, 15)

    assert lane.wait(0.0) == math.inf


def test_the_refusals_of_one_volley_are_one_piece_of_news():
    lane = pace(slots=16)
    accept(lane, 8)
    begin(lane, TRUST)

    for _ in range(TRUST):
        lane.throttled(0.0, None)
        lane.done()

    assert lane.slots == 8
    assert lane.learned() == Learned(8.0, 1000.0)


def test_outage_is_hopeless_after_a_quarter_of_an_hour():
    """An outage counts as hopeless after about a quarter of an hour, not sooner."""
    lane, now = pace(slots=1), 0.0
    while not lane.hopeless:
        now += lane.wait(now)
        begin(lane, 1, now)
        lane.troubled(now)
        lane.done()

    assert 600 < now < 1800


def looked(latencies):
    """Polls jobs of these latencies one by one; yields the polls and lateness of each."""
    looks, found = Looks(), []
    for latency in latencies:
        at, seen, count = 0.0, 0.0, 0
        while True:
            at += looks.next(seen)
            count += 1
            if at >= latency:
                break
            seen = at
        looks.finished(seen, at)
        found.append((count, at - latency))
    return found


@pytest.mark.parametrize("typical", [2.0, 60.0, 600.0])
def test_finished_jobs_are_noticed_promptly_in_few_polls(typical):
    """Few polls notice a finished job within a few per cent of its latency."""
    chance = random.Random(3)
    latencies = [typical * chance.uniform(0.85, 1.15) for _ in range(400)]

    found = looked(latencies)[100:]
    late = sum(lateness for _, lateness in found) / len(found)
    count = sum(count for count, _ in found) / len(found)

    assert late / typical < 0.05
    assert count < 6


def test_straggler_is_noticed_soon_after_its_end():
    """A straggler's end is noticed within a minute, so that its slot is used again."""
    found = looked([60.0] * 50 + [4 * 3600.0 - 1])

    assert found[-1][1] < 61.0


def test_a_lane_that_becomes_slower_is_learned_again():
    found = looked([10.0] * 50 + [100.0] * 300)

    assert found[-1][0] < 8
    assert found[-1][1] < 10


def test_faster_lane_is_noticed_by_the_few_early_polls():
    """The few jobs that are polled early notice that a lane has become faster."""
    looks, at, seen, count = Looks(), 0.0, 0.0, 0
    looks.learn([600.0] * 20)
    assert looks.next(0.0) > 500

    while at < 90.0:
        seen = at
        at += looks.next_early(seen)
        count += 1

    assert at < 90.0 * 1.3
    assert count < 16
    assert looks.is_news(at)
    looks.finished(seen, at)
    assert looks.next(0.0) < 90.0
    assert not looks.is_news(at)
