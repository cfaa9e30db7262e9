"""Laws of polling: few polls, and an end is noticed soon."""

import random

import pytest

from tasks.dispatch.poll_schedule import PollSchedule


def polled(latencies):
    """Polls jobs of these latencies one by one; yields the polls and lateness of each."""
    polls, found = PollSchedule(), []
    for latency in latencies:
        at, seen, count = 0.0, 0.0, 0
        while True:
            at += polls.next_s(seen)
            count += 1
            if at >= latency:
                break
            seen = at
        polls.finished(seen, at)
        found.append((count, at - latency))
    return found


@pytest.mark.parametrize("typical", [2.0, 60.0, 600.0])
def test_finished_jobs_are_noticed_promptly_in_few_polls(typical):
    """Few polls notice a finished job within a few per cent of its latency."""
    chance = random.Random(3)
    latencies = [typical * chance.uniform(0.85, 1.15) for _ in range(400)]

    found = polled(latencies)[100:]
    late = sum(lateness for _, lateness in found) / len(found)
    count = sum(count for count, _ in found) / len(found)

    assert late / typical < 0.05
    assert count < 6


def test_straggler_is_noticed_soon_after_its_end():
    """A straggler's end is noticed within a minute, so that its slot is used again."""
    found = polled([60.0] * 50 + [4 * 3600.0 - 1])

    assert found[-1][1] < 61.0


def test_a_lane_that_becomes_slower_is_learned_again():
    found = polled([10.0] * 50 + [100.0] * 300)

    assert found[-1][0] < 8
    assert found[-1][1] < 10


def test_faster_lane_is_noticed_by_the_few_early_polls():
    """The few jobs that are polled early notice that a lane has become faster."""
    polls, at, seen, count = PollSchedule(), 0.0, 0.0, 0
    polls.learn([600.0] * 20)
    assert polls.next_s(0.0) > 500

    while at < 90.0:
        seen = at
        at += polls.next_early_s(seen)
        count += 1

    assert at < 90.0 * 1.3
    assert count < 16
    assert polls.is_news(at)
    polls.finished(seen, at)
    assert polls.next_s(0.0) < 90.0
    assert not polls.is_news(at)
