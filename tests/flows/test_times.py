"""Laws of times as people write and read them."""

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from flows.views import Local, finish_by, moment, span

BERLIN = ZoneInfo("Europe/Berlin")
EVENING = datetime(2026, 11, 22, 19, 30, 15, tzinfo=BERLIN)


@pytest.fixture
def in_berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("06:00", datetime(2026, 11, 23, 6, tzinfo=BERLIN)),
        ("6:00", datetime(2026, 11, 23, 6, tzinfo=BERLIN)),
        ("19:31", datetime(2026, 11, 22, 19, 31, tzinfo=BERLIN)),
        ("19:30", datetime(2026, 11, 23, 19, 30, tzinfo=BERLIN)),
        ("00:00", datetime(2026, 11, 23, tzinfo=BERLIN)),
        ("2026-11-24T06:00", datetime(2026, 11, 24, 6, tzinfo=BERLIN)),
        ("2026-11-24 06:00:30", datetime(2026, 11, 24, 6, 0, 30, tzinfo=BERLIN)),
        ("2026-11-24T06:00Z", datetime(2026, 11, 24, 6, tzinfo=UTC)),
        ("2026-11-22T18:31+00:00", datetime(2026, 11, 22, 18, 31, tzinfo=UTC)),
    ],
)
def test_a_time_is_the_next_such_moment_and_a_date_is_that_one(text, meant):
    assert finish_by(text, EVENING).timestamp() == meant.timestamp()


@pytest.mark.parametrize(
    "text",
    ["", "six", "24:00", "06:60", "6", "06:00:00", "2026-11-24", "2026-13-01T06:00"],
)
def test_invalid_time_is_refused_with_the_valid_forms(text):
    with pytest.raises(ValueError, match=r"is neither HH:MM nor like 2026-") as refused:
        finish_by(text, EVENING)

    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    "text", ["2026-11-22T19:30", "2026-11-22T18:30Z", "1999-01-01T00:00"]
)
def test_past_time_is_refused_with_the_current_time(text):
    with pytest.raises(ValueError, match="is past: it is 2026-11-22 19:30"):
        finish_by(text, EVENING)


def test_six_oclock_is_right_when_the_clocks_are_put_back(in_berlin):
    """A deadline of six o'clock is right in the night the clocks are put back."""
    now = datetime(2026, 10, 24, 18, tzinfo=UTC).astimezone(Local())

    then = finish_by("06:00", now)

    assert (now.hour, then.hour) == (20, 6)
    assert then.timestamp() - now.timestamp() == timedelta(hours=11).total_seconds()


def test_machines_zone_is_the_zone_of_its_clock(in_berlin):
    summer = datetime(2026, 7, 1, 12, tzinfo=UTC).astimezone(Local())
    winter = datetime(2026, 12, 1, 12, tzinfo=UTC).astimezone(Local())

    assert summer.isoformat() == "2026-07-01T14:00:00+02:00"
    assert (winter.isoformat(), winter.tzname()) == ("2026-12-01T13:00:00+01:00", "CET")


@pytest.mark.parametrize(
    ("after", "text"),
    [
        (timedelta(hours=2), "21:30"),
        (timedelta(hours=10), "Mon 05:30"),
        (timedelta(days=6), "Sat 19:30"),
        (timedelta(days=7), "29 Nov 19:30"),
    ],
)
def test_moment_is_written_with_its_day_if_not_today(after, text):
    assert moment((EVENING + after).astimezone(UTC), EVENING) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (44.2, "45 s"),
        (59.2, "1 min"),
        (60, "1 min"),
        (3541, "1 h 00 min"),
        (6000, "1 h 40 min"),
        (86_399, "1 d 0 h"),
        (1_735_000, "20 d 1 h"),
    ],
)
def test_span_is_written_as_roughly_as_it_is_known(seconds, text):
    assert span(seconds) == text
