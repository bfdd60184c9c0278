"""Durations as people write them: `7d`, `12h`, `30m`, `90s`, `0d`."""

import re

_UNITS = {"d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000}
_WRITTEN = re.compile("([0-9]{1,12})([dhms])")

LONGEST = 36_500 * _UNITS["d"]
"""Microseconds in the longest duration, a hundred years."""


def parse_duration(text: str) -> int:
    """The microseconds in `text`: a whole number and one of `d`, `h`, `m`, `s`.

    Raises:
        ValueError: it is not written so, or longer than 36,500 days; the message says which.
    """
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise ValueError(f"{text!r} is not a duration such as 7d, 12h, 30m, 90s or 0d")
    duration = int(written[1]) * _UNITS[written[2]]
    if duration > LONGEST:
        raise ValueError(f"{text!r} is longer than {format_duration(LONGEST)}")
    return duration


def format_duration(microseconds: int) -> str:
    """The shortest text that `parse_duration` reads as `microseconds`.

    Raises:
        ValueError: it is negative, not a whole number of seconds, or longer than 36,500 days.
    """
    if not 0 <= microseconds <= LONGEST or microseconds % _UNITS["s"]:
        raise ValueError(f"{microseconds} µs is not a whole number of seconds from 0 to 36500d")
    unit = next(unit for unit, size in _UNITS.items() if microseconds % size == 0)
    return f"{microseconds // _UNITS[unit]}{unit}"
