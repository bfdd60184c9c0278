"""When a schedule is due: five crontab fields in a time zone, as moments in UTC.

The fields are read by Celery's own parser, so that they mean here what they mean to beat; a day
must satisfy both the day of the month and the day of the week. Where clocks are put forward, a time
that does not exist comes as much later as the clocks moved; where they are put back, a time that
happens twice comes once, unless the schedule is for every hour.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from celery.schedules import ParseException
from celery.schedules import crontab as celery_crontab
from cron_descriptor import FormatException, MissingFieldException, Options, get_description

FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
EXPECTED = (
    "minutes from 0 to 59",
    "hours from 0 to 23",
    "days of the month from 1 to 31",
    "months from 1 to 12",
    "days of the week from 0 (Sunday) to 6, or sun to sat",
)
# The 29th of February comes at the latest after eight years.
FARTHEST_DAYS = 8 * 366 + 2
# By how many days the clocks of a zone may jump: islands have crossed the date line.
JUMP_DAYS = 2


class Crontab(NamedTuple):
    """Five sets of numbers and the zone of the clock that they are read on."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    zone: ZoneInfo

    def latest(self, now: datetime) -> datetime | None:
        """The last moment that is not after `now`; None when there is none within eight years."""
        today = now.astimezone(self.zone).date()
        nearest, checked = None, 0
        for back in range(-JUMP_DAYS, FARTHEST_DAYS):
            past = [at for at in self._of_day(today - timedelta(days=back)) if at <= now]
            nearest = max([*past, *filter(None, [nearest])], default=None)
            checked += nearest is not None
            if checked > JUMP_DAYS:
                break
        return nearest

    def upcoming(self, now: datetime, count: int) -> list[datetime]:
        """The next moments after `now`, fewer than `count` when they are beyond eight years."""
        return list(islice(self._after(now), count))

    def _after(self, now: datetime) -> Iterator[datetime]:
        today = now.astimezone(self.zone).date()
        last = now
        for ahead in range(-JUMP_DAYS, FARTHEST_DAYS):
            for at in sorted(self._of_day(today + timedelta(days=ahead))):
                if at > last:
                    yield at
                    last = at

    def _of_day(self, day: date) -> set[datetime]:
        if (
            day.month not in self.months
            or day.day not in self.days
            or day.isoweekday() % 7 not in self.weekdays
        ):
            return set()
        found = set()
        for hour in self.hours:
            for minute in self.minutes:
                wall = datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone)
                first, second = wall.astimezone(UTC), wall.replace(fold=1).astimezone(UTC)
                found.add(first)
                if len(self.hours) == 24 and second > first:
                    found.add(second)
        return found


@lru_cache(maxsize=256)
def read_crontab(text: str, time_zone: str) -> Crontab:
    """Read fields such as `0 3 * * 1`; ValueError says which field is wrong and what it can be."""
    words = text.split()
    if len(words) != len(FIELDS):
        raise ValueError(
            f"{len(words)} fields were given where five are needed: minute, hour, day of the "
            "month, month, day of the week, such as 0 3 * * 1."
        )
    minutes, hours, days, months, weekdays = map(_read_field, FIELDS, EXPECTED, words)
    if time_zone not in available_timezones():
        raise ValueError(f"There is no time zone “{time_zone}”; write such as Europe/Paris or UTC.")
    return Crontab(minutes, hours, days, months, weekdays, ZoneInfo(time_zone))


def in_words(text: str) -> str:
    """A crontab in words: “At 03:00, only on Monday”."""
    options = Options()
    options.use_24hour_time_format = True
    options.locale_code = "en_US"
    try:
        return str(get_description(text, options))
    except (FormatException, MissingFieldException, ValueError):
        return text


def _read_field(name: str, expected: str, written: str) -> frozenset[int]:
    try:
        return frozenset(getattr(celery_crontab(**{name: written}), name))
    except (ParseException, ValueError):
        words = name.replace("_", " ")
        raise ValueError(f"The {words} “{written}” can't be read: expected {expected}.") from None
