"""The temporal split: no timestamp on both sides, nothing lost, as near the shares as can be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidDataset
from training.pipeline.split import Split, check_no_overlap, temporal_split

SHARES = (0.7, 0.15, 0.15)

# Few distinct values: most rows are tied.
tied_times = st.lists(st.integers(0, 12), min_size=3, max_size=200).map(
    lambda values: np.array(sorted(values), dtype=np.int64)
)
shares = st.tuples(*[st.floats(0.05, 1.0)] * 3).map(
    lambda raw: tuple(value / sum(raw) for value in raw)
)


@given(times=tied_times, fractions=shares)
def test_parts_cover_the_rows_and_never_share_a_timestamp(times, fractions):
    if len(np.unique(times)) < 3:
        with pytest.raises(InvalidDataset, match="3 distinct times"):
            temporal_split(times, fractions)
        return
    train, validation, test = temporal_split(times, fractions)
    assert (train.start, test.stop) == (0, len(times))
    assert (train.stop, validation.stop) == (validation.start, test.start)
    assert set(times[train]) < set(times)
    assert times[train].max() < times[validation].min()
    assert times[validation].max() < times[test].min()


@given(times=tied_times)
def test_no_other_boundary_is_nearer_to_the_first_cut(times):
    if len(np.unique(times)) < 3:
        return
    cut = temporal_split(times, SHARES).train.stop
    boundaries = [row for row in range(1, len(times)) if times[row] != times[row - 1]][:-1]
    wanted = SHARES[0] * len(times)
    assert abs(cut - wanted) == min(abs(row - wanted) for row in boundaries)


def test_distinct_times_are_cut_at_exactly_the_shares():
    split = temporal_split(np.arange(1000), SHARES)
    assert split == Split(slice(0, 700), slice(700, 850), slice(850, 1000))


def test_a_timestamp_that_straddles_a_cut_stays_in_one_part():
    times = np.concatenate([np.arange(65), np.full(10, 65), np.arange(66, 91)])
    split = temporal_split(times, SHARES)
    assert split.train.stop in (65, 75)


@pytest.mark.parametrize(
    ("times", "found"), [([], "0 rows at 0"), ([5], "1 rows at 1"), ([5, 5, 9], "3 rows at 2")]
)
def test_fewer_than_three_times_are_refused_with_the_count(times, found):
    with pytest.raises(InvalidDataset, match=found):
        temporal_split(np.array(times, dtype=np.int64), SHARES)


def test_rows_out_of_order_are_refused_with_the_row():
    with pytest.raises(InvalidDataset, match="Row 2 "):
        temporal_split(np.array([1, 5, 3, 9]), SHARES)


def test_an_overlap_is_refused():
    times = np.array([1, 2, 2, 3, 4, 5])
    with pytest.raises(InvalidDataset, match="train part overlaps the validation"):
        check_no_overlap(times, Split(slice(0, 2), slice(2, 4), slice(4, 6)))


@pytest.mark.parametrize("fractions", [(0.7, 0.3, 0.0), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_shares_must_be_positive_and_sum_to_one(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        temporal_split(np.arange(10), fractions)
