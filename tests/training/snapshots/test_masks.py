"""Rows without a label in the training program: what is learnt from, judged by, and weighed."""

import numpy as np
import pyarrow as pa
import pytest

from engine.features.catalogue import DAY, LABEL_DELAY
from tests.training.pipeline_support import START_US, make_columns, write_dataset
from training.pipeline.labels import usable_at
from training.pipeline.prepare import split_data
from training.pipeline.sampling import draw
from training.pipeline.spec import Options
from training.pipeline.table import read_transactions

ROWS = 6_000


def read(tmp_path, **changes):
    columns = make_columns(ROWS, fraud_rate=0.03) | changes
    return read_transactions(str(write_dataset(tmp_path, columns)))


def unlabelled(seed: int = 0) -> tuple[pa.Array, np.ndarray]:
    """The labels of `make_columns` without those of a fifth of the rows, and the rows with one."""
    fraud = make_columns(ROWS, fraud_rate=0.03)["is_fraud"]
    known = np.random.default_rng(seed).random(ROWS) < 0.8
    known[-500:] = False
    return pa.array(fraud, mask=~known), known


def test_parts_are_shares_of_the_labelled_rows(tmp_path):
    """Those at the end, of which nobody knows yet, are not the test part."""
    labels, known = unlabelled()
    data = read(tmp_path, is_fraud=labels)
    assert (data.is_labelled == known).all()
    assert not data.is_fraud[~known].any()
    parts = split_data(data, Options(), LABEL_DELAY)
    test = parts.rows(parts.split.test)
    assert len(test) == pytest.approx(0.15 * known.sum(), rel=0.02)
    last = np.flatnonzero(known)[-1]
    assert parts.split.test.stop - 1 == test[-1] == last
    for _, part in parts.split.parts():
        rows = parts.rows(part)
        assert known[rows].all()
        assert len(rows) == known[part].sum()
    stops = [part.stop for _, part in parts.split.parts()]
    starts = [part.start for _, part in parts.split.parts()]
    assert all(stop <= start for stop, start in zip(stops, starts[1:], strict=False))


def test_a_file_where_every_label_is_known_is_split_as_ever(tmp_path):
    data = read(tmp_path)
    assert data.labelled is None
    parts = split_data(data, Options(), LABEL_DELAY)
    assert parts.usable.all()
    assert parts.split.test.stop == ROWS
    assert parts.split.train.start == 0


def test_what_was_never_made_is_unknown_until_its_label_is(tmp_path):
    """Transactions that were blocked or failed, and whose label came after the cut-off, are in no
    part that is fitted on."""
    made = START_US + np.arange(ROWS) * 60_000_000
    known = made + np.where(np.arange(ROWS) % 2, 1, 9) * DAY
    moment = pa.timestamp("us")
    data = read(
        tmp_path,
        created_at=pa.array(made).cast(moment),
        label_known_at=pa.array(known).cast(moment),
        label_from=["stated"] * ROWS,
        decision=["BLOCK" if row % 10 < 2 else "APPROVE" for row in range(ROWS)],
        status=["FAILED" if row % 10 == 3 else "SUCCESS" for row in range(ROWS)],
    )
    test = 5_000
    cut_off = int(made[4_000])
    usable = usable_at(data, LABEL_DELAY, cut_off, test)
    expected = np.array(
        [row % 10 not in (0, 1, 3) or row >= test or known[row] <= cut_off for row in range(ROWS)]
    )
    assert (usable == expected).all()
    assert 0 < (~usable).sum() < 1_000


def test_a_row_of_the_control_group_stands_for_blocks_nobody_knows():
    labels = np.arange(1_000) % 50 == 0
    share = np.full(1_000, np.nan)
    share[[0, 1, 2]] = 0.05, 0.05, 0.001
    rows = np.arange(1_000)
    rng = np.random.default_rng(0)
    sample = draw(rows, labels, 10_000, rng, share)
    assert sample.weights[:4].tolist() == [20.0, 20.0, 20.0, 1.0]
    plain = draw(rows, labels, 10_000, rng)
    assert (plain.weights == 1.0).all()
    half = draw(rows, labels, 490, np.random.default_rng(0), share)
    kept = dict(zip(half.rows.tolist(), half.weights.tolist(), strict=True))
    assert kept[0] == 20.0
    assert all(weight in (1.0, 2.0, 40.0, 20.0) for weight in kept.values())
