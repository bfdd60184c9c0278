"""When a schedule is due, beside a slow reading of the same rule minute by minute."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from training.crontab import in_words, read_crontab

# Half hours and quarters, both hemispheres, a change at midnight, a whole day left out.
ZONES = (
    "UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu",
    "America/Santiago", "Africa/Casablanca", "Pacific/Apia", "America/St_Johns", "Africa/Cairo",
)  # fmt: skip
MINUTE = timedelta(minutes=1)


def matches(moment: datetime, text: str, zone: str) -> bool:
    """Whether a minute is one of the schedule's, told from the clock on the wall."""
    times = read_crontab(text, zone)
    wall = moment.astimezone(ZoneInfo(zone))
    if wall.fold and len(times.hours) < 24:
        return False  # the same time came already
    shown = [wall]
    # Where an hour was left out, its times come as much later as the clocks moved.
    for minutes in (30, 60, 24 * 60):
        unreal = (wall - timedelta(minutes=minutes)).replace(fold=0)
        if unreal.astimezone(UTC) == moment:
            shown.append(unreal)
    return any(
        each.minute in times.minutes
        and each.hour in times.hours
        and each.day in times.days
        and each.month in times.months
        and each.isoweekday() % 7 in times.weekdays
        for each in shown
    )


crontabs = st.builds(
    "{} {} {} * {}".format,
    st.sampled_from(["0", "30", "*/20", "5,45", "*"]),
    st.sampled_from(["*", "2", "0", "3", "1-4", "23", "*/6"]),
    st.sampled_from(["*", "*", "25-31", "1"]),
    st.sampled_from(["*", "*", "sun", "1-5"]),
)
# Around the days on which these zones change their clocks, and around any other.
moments = st.one_of(
    st.sampled_from(
        [
            datetime(2026, 3, 29, tzinfo=UTC),
            datetime(2026, 10, 25, tzinfo=UTC),
            datetime(2026, 3, 8, 6, tzinfo=UTC),
            datetime(2026, 11, 1, 6, tzinfo=UTC),
            datetime(2026, 4, 4, 14, tzinfo=UTC),
            datetime(2026, 10, 3, 14, tzinfo=UTC),
            datetime(2026, 9, 6, 3, tzinfo=UTC),
            datetime(2011, 12, 30, 9, tzinfo=UTC),
            datetime(2026, 4, 23, 21, tzinfo=UTC),
        ]
    ),
    st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),
)


@given(text=crontabs, zone=st.sampled_from(ZONES), begin=moments)
@example("30 2 * * *", "Europe/Paris", datetime(2026, 3, 29, tzinfo=UTC))
@example("30 2 * * *", "Europe/Paris", datetime(2026, 10, 25, tzinfo=UTC))
@example("*/20 * * * *", "Europe/Paris", datetime(2026, 10, 25, tzinfo=UTC))
@example("0 0 * * *", "America/Santiago", datetime(2026, 9, 6, 3, tzinfo=UTC))
@settings(deadline=None, max_examples=60)
def test_every_time_of_eight_hours_is_found_and_no_other(text, zone, begin):
    begin = begin.replace(second=0, microsecond=0)
    end = begin + timedelta(hours=8)
    minutes = [begin + n * MINUTE for n in range(1, 8 * 60 + 1)]
    expected = [at for at in minutes if matches(at, text, zone)]
    times = read_crontab(text, zone)
    assert [at for at in times.upcoming(begin, 8 * 60 + 1) if at <= end] == expected
    if expected:
        assert times.latest(end) == expected[-1]
        assert times.latest(expected[0]) == expected[0]
    else:
        latest = times.latest(end)
        assert latest is None or latest <= begin


@given(
    text=crontabs, zone=st.sampled_from(ZONES), begin=moments, ahead=st.integers(0, 60 * 24 * 60)
)
@settings(deadline=None, max_examples=60)
def test_the_latest_time_never_goes_back(text, zone, begin, ahead):
    times = read_crontab(text, zone)
    earlier, later = times.latest(begin), times.latest(begin + ahead * MINUTE)
    assert earlier is not None
    assert earlier <= begin
    assert later >= earlier
    following = times.upcoming(earlier, 1)[0]
    assert following > begin


def test_a_time_that_happens_twice_comes_once_and_one_that_does_not_exist_comes_later():
    paris = read_crontab("30 2 * * *", "Europe/Paris")
    spring = paris.upcoming(datetime(2026, 3, 28, 12, tzinfo=UTC), 2)
    assert spring == [
        datetime(2026, 3, 29, 1, 30, tzinfo=UTC),  # 03:30 on the wall
        datetime(2026, 3, 30, 0, 30, tzinfo=UTC),
    ]
    autumn = paris.upcoming(datetime(2026, 10, 24, 12, tzinfo=UTC), 2)
    assert autumn == [
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 10, 26, 1, 30, tzinfo=UTC),
    ]


def test_a_leap_day_is_found_and_a_day_that_never_comes_is_not():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    leap = read_crontab("0 3 29 2 *", "UTC")
    assert leap.latest(now) == datetime(2024, 2, 29, 3, tzinfo=UTC)
    assert leap.upcoming(now, 1) == [datetime(2028, 2, 29, 3, tzinfo=UTC)]
    never = read_crontab("0 3 31 2 *", "UTC")
    assert never.latest(now) is None
    assert never.upcoming(now, 1) == []


@pytest.mark.parametrize(
    ("text", "zone", "message"),
    [
        ("0 3 * *", "UTC", "4 fields were given where five are needed"),
        ("61 3 * * *", "UTC", "The minute “61” can't be read: expected minutes from 0 to 59."),
        ("0 24 * * *", "UTC", "The hour “24”"),
        ("0 3 0 * *", "UTC", "The day of month “0”"),
        ("0 3 * 13 *", "UTC", "The month of year “13”"),
        ("0 3 * * moon", "UTC", "The day of week “moon”"),
        ("0 3 * * *", "Europe/Pariss", "There is no time zone “Europe/Pariss”"),
    ],
)
def test_what_cannot_be_read_is_named(text, zone, message):
    with pytest.raises(ValueError, match=message):
        read_crontab(text, zone)


def test_words():
    assert in_words("0 3 * * 1") == "At 03:00, only on Monday"
    assert in_words("*/15 * * * *") == "Every 15 minutes"
