"""Laws of times as people write and read them."""

import re
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from tzlocal import reload_localzone

from flows.views import finish_by, local_zone, moment, span

BERLIN = ZoneInfo("Europe/Berlin")
EVENING = datetime(2026, 11, 22, 19, 30, 15, tzinfo=BERLIN)


@pytest.fixture
def in_berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    reload_localzone()
    yield
    monkeypatch.undo()
    time.tzset()
    reload_localzone()


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
    now = datetime(2026, 10, 24, 18, tzinfo=UTC).astimezone(local_zone())

    then = finish_by("06:00", now)

    assert (now.hour, then.hour) == (20, 6)
    assert then.timestamp() - now.timestamp() == timedelta(hours=11).total_seconds()


BACK, FORWARD = datetime(2026, 10, 25, tzinfo=UTC), datetime(2027, 3, 28, tzinfo=UTC)
"""Midnight UTC of the days on which Berlin puts its clocks back, and forward, at 01:00 UTC."""


@pytest.mark.parametrize(
    ("now", "text", "hours", "remark"),
    [
        # (the current time and the time meant, in hours since midnight UTC)
        (BACK, "02:15", 0.25, "comes twice on 25 Oct.* 02:15 CEST is meant"),
        (BACK + timedelta(minutes=20), "02:15", 1.25, "twice.* 02:15 CET is meant"),
        (BACK + timedelta(minutes=80), "02:15", 25.25, None),
        (BACK + timedelta(minutes=30), "02:45", 0.75, "twice.* 02:45 CEST is meant"),
        (
            BACK - timedelta(hours=6),
            "2026-10-25T02:15",
            0.25,
            "the other one is 2026-10-25T02:15[+]01:00",
        ),
        (BACK - timedelta(hours=6), "2026-10-25T02:15+01:00", 1.25, None),
        (BACK - timedelta(hours=6), "03:00", 2, None),
        (
            FORWARD - timedelta(hours=6),
            "02:30",
            1.5,
            "does not exist on 28 Mar.* 03:30 CEST is meant",
        ),
        (FORWARD - timedelta(hours=6), "2027-03-28T02:30", 1.5, "does not exist"),
        (FORWARD - timedelta(hours=6), "03:00", 1, None),
        (FORWARD - timedelta(hours=6), "01:59", 59 / 60, None),
    ],
)
@pytest.mark.parametrize("zone", ["named", "of the machine"])
def test_deadline_in_a_night_of_a_clock_change(
    in_berlin, caplog, *, zone, now, text, hours, remark
):
    """A deadline is the least moment to come, and a warning names a doubtful one."""
    there = BERLIN if zone == "named" else local_zone()
    midnight = BACK if abs(now - BACK) < timedelta(days=1) else FORWARD

    then = finish_by(text, now.astimezone(there))

    assert then.timestamp() - midnight.timestamp() == pytest.approx(hours * 3600)
    if remark is None:
        assert not caplog.records
    else:
        [told] = caplog.messages
        assert re.search(remark, told)


def test_every_minute_of_the_longest_night_is_reached_in_a_day():
    """From any minute, a time on the clock is at most 25 hours away, and not past."""
    for minutes in range(0, 240, 5):
        now = (BACK + timedelta(minutes=minutes - 60)).astimezone(BERLIN)
        for minute in range(0, 60, 7):
            then = finish_by(f"02:{minute:02d}", now)
            wait_s = then.timestamp() - now.timestamp()
            assert 0 < wait_s <= 25 * 3600
            assert f"{then:%H:%M}" == f"02:{minute:02d}"


def test_zone_without_a_name_is_todays_offset_and_told(monkeypatch, caplog):
    monkeypatch.setenv("TZ", "Nowhere/At-all")
    monkeypatch.setattr("tzlocal.unix._cache_tz", None)

    zone = local_zone()

    assert zone.utcoffset(EVENING) == datetime.now().astimezone().utcoffset()
    assert "time.no_zone" in caplog.text


def test_a_time_that_comes_twice_is_written_with_its_zone():
    now = BACK.astimezone(BERLIN)

    shown = [moment(BACK + timedelta(minutes=n), now) for n in (15, 75, 135)]

    assert shown == ["02:15 CEST", "02:15 CET", "03:15"]


def test_machines_zone_is_the_zone_of_its_clock(in_berlin):
    summer = datetime(2026, 7, 1, 12, tzinfo=UTC).astimezone(local_zone())
    winter = datetime(2026, 12, 1, 12, tzinfo=UTC).astimezone(local_zone())

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
