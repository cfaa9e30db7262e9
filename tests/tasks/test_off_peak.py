"""Laws of off-peak hours, in Unix seconds: midnight UTC is a multiple of a day."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tasks.dispatch import open_s, wait_s

NIGHT = (22 * 60, 6 * 60)
H = 3600.0
DAY = 24 * H

minutes = st.integers(0, 24 * 60 - 1)
hours = st.tuples(minutes, minutes)
seconds = st.integers(0, 3 * 10**5).map(float)


def test_a_night_begins_in_the_evening_and_ends_in_the_morning():
    assert wait_s(NIGHT, 12 * H) == 10 * H
    assert wait_s(NIGHT, 23 * H) == wait_s(NIGHT, DAY + 5 * H) == 0
    assert wait_s(NIGHT, 6 * H) == 16 * H


def test_day_is_open_for_its_hours_wherever_it_begins():
    """Any 24 hours contain the open hours in full, wherever they begin."""
    assert open_s(NIGHT, 12 * H, DAY) == open_s(NIGHT, 3 * H, DAY) == 8 * H
    assert open_s(NIGHT, 5 * H, 4 * H) == H
    assert open_s(NIGHT, 12 * H, math.inf) == math.inf


def test_work_too_long_for_a_night_continues_the_next_night():
    """Work that is too long for one night continues the next night."""
    assert wait_s(NIGHT, 22 * H, 8 * H - 1) == 8 * H - 1
    assert wait_s(NIGHT, 22 * H, 8 * H) == DAY
    assert wait_s(NIGHT, 5 * H, 3 * H) == 17 * H + 2 * H


def test_hours_that_end_at_their_start_are_all_day():
    assert wait_s((60, 60), 17 * H, 100 * H) == 100 * H
    assert open_s((60, 60), 17 * H, 100 * H) == 100 * H


@given(hours, seconds, seconds)
def test_wait_ends_when_the_hours_have_been_open_long_enough(hours, at, opened):
    """After the wait the hours have been open for the given time and are open."""
    wait = wait_s(hours, at, opened)

    assert open_s(hours, at, wait) == opened
    assert open_s(hours, at + wait, 1.0) > 0
