"""Pauses between tries grow to a limit, and overflow for no number of tries."""

import random

from storage.backoff import backoff


def test_pauses_double_up_to_the_limit():
    pauses = [backoff(attempt, 0.5, 10.0) for attempt in range(1, 8)]

    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_ten_thousandth_failure_waits_the_longest():
    assert backoff(10_000, 0.1, 300.0) == 300.0


def test_no_failure_waits_as_after_the_first():
    assert backoff(0, 5.0, 60.0) == 5.0


def test_jitter_spreads_over_the_whole_pause():
    chance = random.Random(1)

    pauses = [backoff(3, 1.0, 60.0, jitter=chance.uniform) for _ in range(1000)]

    assert 0 <= min(pauses) < 0.1
    assert 3.9 < max(pauses) <= 4.0
