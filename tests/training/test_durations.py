"""Durations as people write them, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.pipeline.durations import LONGEST, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("7d", 7 * 24 * 3600 * 10**6),
        ("12h", 12 * 3600 * 10**6),
        ("30m", 30 * 60 * 10**6),
        ("90s", 90 * 10**6),
        ("0d", 0),
        (" 007d ", 7 * 24 * 3600 * 10**6),
    ],
)
def test_what_people_write(text, microseconds):
    assert parse_duration(text) == microseconds


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-1d", "1.5h", "7D", "7w", "1d12h", "٣d"])
def test_what_is_no_duration_is_quoted(text):
    with pytest.raises(ValueError, match="is not a duration such as 7d") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


def test_a_hundred_years_are_the_longest():
    assert parse_duration("36500d") == LONGEST
    with pytest.raises(ValueError, match="'36501d' is longer than 36500d"):
        parse_duration("36501d")


@pytest.mark.parametrize("microseconds", [-1_000_000, 1, 1_500_000, LONGEST + 1_000_000])
def test_what_can_not_be_written(microseconds):
    with pytest.raises(ValueError, match="whole number of seconds"):
        format_duration(microseconds)


@given(st.integers(0, LONGEST // 1_000_000))
def test_what_is_written_reads_the_same(seconds):
    assert parse_duration(format_duration(seconds * 1_000_000)) == seconds * 1_000_000


@pytest.mark.parametrize(("text", "shortest"), [("24h", "1d"), ("60m", "1h"), ("90s", "90s")])
def test_the_largest_unit_that_divides_is_written(text, shortest):
    assert format_duration(parse_duration(text)) == shortest
