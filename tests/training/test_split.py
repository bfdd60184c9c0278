"""The temporal split: no timestamp on both sides, the gap is kept, nothing is fitted too early."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidDataset
from training.pipeline.spec import Periods
from training.pipeline.split import Split, microseconds, split_by_periods, split_by_shares

SHARES = (0.7, 0.15, 0.15)
SECOND = 1_000_000
DAY = 86_400 * SECOND
START = datetime(2026, 1, 1, tzinfo=UTC)

# Few distinct values: most rows are tied.
tied_times = st.lists(st.integers(0, 12), min_size=3, max_size=200).map(
    lambda values: np.array(sorted(values), dtype=np.int64) * SECOND
)
shares = st.tuples(*[st.floats(0.05, 1.0)] * 3).map(
    lambda raw: tuple(value / sum(raw) for value in raw)
)


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def days(count: int, a_day: int = 10) -> np.ndarray:
    """`a_day` rows a day from 2026-01-01, the first of each day at midnight."""
    return microseconds(START) + np.arange(count * a_day) * (DAY // a_day)


@given(
    times=tied_times,
    fractions=shares,
    delay=st.integers(0, 8).map(lambda seconds: seconds * SECOND),
    known_times=st.booleans(),
    cut_off=st.none() | st.integers(-3, 15),
)
def test_parts_are_in_order_keep_the_gap_and_hold_mature_rows_only(
    times, fractions, delay, known_times, cut_off
):
    frozen = None
    if cut_off is not None:
        frozen = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=cut_off)
    try:
        split = split_by_shares(times, fractions, delay, cut_off=frozen, known_times=known_times)
    except InvalidDataset as refusal:
        text = refusal.detail
        assert "3 distinct times" in text or "--label-delay" in text or "cut-off" in text
        return
    train, validation, test, cut = split
    assert 0 == train.start < train.stop == validation.start < validation.stop <= test.start
    assert test.start < test.stop == len(times)
    assert times[train].max() < times[validation].min()
    test_begins = times[test].min()
    assert times[validation].max() < test_begins - delay or delay == 0
    assert times[validation].max() < test_begins
    assert times[validation].max() + delay <= cut <= test_begins
    # Nothing is left out without a reason.
    left_out = times[validation.stop : test.start]
    assert all(time >= test_begins - delay or time + delay > cut for time in left_out)
    if frozen is None:
        assert cut == (test_begins - delay if known_times else test_begins)


@given(times=tied_times)
def test_no_other_boundary_is_nearer_to_the_last_cut(times):
    if len(np.unique(times)) < 3:
        return
    cut = split_by_shares(times, SHARES, 0).test.start
    boundaries = [row for row in range(1, len(times)) if times[row] != times[row - 1]][1:]
    wanted = (SHARES[0] + SHARES[1]) * len(times)
    assert abs(cut - wanted) == min(abs(row - wanted) for row in boundaries)


def test_distinct_times_without_a_delay_are_cut_at_exactly_the_shares():
    split = split_by_shares(np.arange(1000), SHARES, 0)
    assert split == Split(slice(0, 700), slice(700, 850), slice(850, 1000), 850)


def test_the_gap_is_taken_from_train_and_validation():
    split = split_by_shares(days(100), SHARES, 7 * DAY)
    assert split.test == slice(850, 1000)
    assert split.validation.stop == 780
    assert split.train == slice(0, round(780 * 70 / 85))
    assert split.cut_off == microseconds(day(85))


def test_with_known_label_times_the_labels_are_frozen_before_the_gap():
    split = split_by_shares(days(100), SHARES, 7 * DAY, known_times=True)
    assert split.cut_off == microseconds(day(78))
    # Of the rows until then, those of the last 7 days are not mature; exactly 7 days are enough.
    assert split.validation.stop == 711


def test_explicit_periods():
    periods = Periods(
        train_from=day(10), train_until=day(50), validate_until=day(60), test_until=day(80)
    )
    split = split_by_periods(days(100), periods, 7 * DAY)
    assert split == Split(slice(100, 500), slice(500, 600), slice(670, 800), microseconds(day(67)))
    early = split_by_periods(days(100), periods, 7 * DAY, cut_off=day(60))
    assert early[:3] == (slice(100, 500), slice(500, 531), slice(670, 800))
    assert split_by_periods(days(100), periods, 7 * DAY, known_times=True) == early


@pytest.mark.parametrize(
    ("periods", "delay", "says"),
    [
        (Periods(train_until=day(-1), validate_until=day(60)), 7, "train part has no rows"),
        (Periods(train_until=day(50), validate_until=day(99)), 7, "test part has no rows"),
        (Periods(train_until=day(50), validate_until=day(60)), 50, "7d"),
    ],
    ids=["train", "test", "a long delay"],
)
def test_a_period_without_rows_is_named_with_what_there_is(periods, delay, says):
    with pytest.raises(InvalidDataset, match="no rows") as refusal:
        split_by_periods(days(100), periods, delay * DAY)
    assert "2026-01-01T00:00:00Z to 2026-04-10T21:36:00Z" in refusal.value.detail
    if says != "7d":
        assert says in refusal.value.detail


def test_data_shorter_than_the_delay_names_the_option():
    with pytest.raises(InvalidDataset, match=r"7d to arrive \(--label-delay\).*3\.4 days.*0d"):
        split_by_shares(days(4), SHARES, 7 * DAY)


@pytest.mark.parametrize("train_until", [55, 58])
def test_a_part_that_the_cut_off_emptied_says_how_late_it_may_be(train_until):
    periods = Periods(train_until=day(train_until), validate_until=day(60))
    with pytest.raises(InvalidDataset, match="validation part has no rows") as refusal:
        split_by_periods(days(100), periods, 7 * DAY, known_times=True)
    assert refusal.value.detail.endswith(
        "give a later --cut-off, at most the test's start (2026-03-09T00:00:00Z)."
    )
    later = split_by_periods(days(100), periods, 7 * DAY, cut_off=day(67), known_times=True)
    assert later.validation == slice(train_until * 10, 600)


def test_a_cut_off_within_the_test_part_is_refused():
    with pytest.raises(InvalidDataset, match="later than the beginning of the test part"):
        split_by_shares(days(100), SHARES, 7 * DAY, cut_off=day(90))


def test_a_timestamp_that_straddles_a_cut_stays_in_one_part():
    times = np.concatenate([np.arange(65), np.full(10, 65), np.arange(66, 91)])
    assert split_by_shares(times, SHARES, 0).train.stop in (65, 75)


@pytest.mark.parametrize(
    ("times", "found"), [([], "0 rows at 0"), ([5], "1 rows at 1"), ([5, 5, 9], "3 rows at 2")]
)
def test_fewer_than_three_times_are_refused_with_the_count(times, found):
    with pytest.raises(InvalidDataset, match=found):
        split_by_shares(np.array(times, dtype=np.int64), SHARES, 0)


def test_rows_out_of_order_are_refused_with_the_row():
    with pytest.raises(InvalidDataset, match="Row 2 "):
        split_by_shares(np.array([1, 5, 3, 9]), SHARES, 0)
