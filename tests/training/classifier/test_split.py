"""Which part a row is in: its content decides."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.classifier.support import churn, churn_rows, import_churn
from training.pipeline.classifier.rows import Rows, read_rows
from training.pipeline.classifier.split import (
    copy_keys,
    copy_numbers,
    is_tested,
    number_keys,
    text_keys,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


def read(folder, columns) -> Rows:
    return read_rows(import_churn(folder, columns).path, churn(), None, lambda _done, _told: None)


def test_rows_are_as_the_definition_encodes_a_request(tmp_path):
    columns = churn_rows(200)
    rows = read(tmp_path, columns)
    for at, values in enumerate(zip(*columns.values(), strict=True)):
        given_row = dict(zip(columns, values, strict=True))
        encoded = churn().encode(churn().complete(given_row))
        assert rows.matrix[at].tolist() == encoded.astype(np.float32).tolist()
        assert churn().labels[rows.labels[at]] == given_row["outcome"]


def test_every_column_tells_rows_apart(tmp_path):
    columns = churn_rows(4)
    for name, values in churn_rows(1).items():
        columns[name] = values * 4
    for at, (name, other) in enumerate({"age": 90, "active": None, "outcome": "unsure"}.items()):
        columns[name][at] = not columns[name][at] if other is None else other
    assert len(np.unique(read(tmp_path, columns).keys)) == 4


def test_a_row_is_in_the_same_part_wherever_it_is_and_whatever_is_beside_it(tmp_path):
    columns = churn_rows(600)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = is_tested(read(tmp_path / "a", columns).keys, 0.2)
    shuffled = np.random.default_rng(1).permutation(600)[:300]
    some = {name: [values[at] for at in shuffled] for name, values in columns.items()}
    part = is_tested(read(tmp_path / "b", some).keys, 0.2)
    assert part.tolist() == whole[shuffled].tolist()
    assert 0.1 < whole.mean() < 0.3


@given(st.lists(finite, min_size=1), st.floats(0.01, 0.5), st.floats(0.5, 0.99))
def test_the_test_part_of_a_smaller_share_is_in_that_of_a_larger_one(values, smaller, larger):
    keys = number_keys("x", np.array(values))
    assert (is_tested(keys, smaller) <= is_tested(keys, larger)).all()


@given(st.lists(st.tuples(finite, st.text(max_size=5)), min_size=1))
def test_a_key_is_of_the_value_alone_and_no_two_columns_cancel(rows):
    values = np.array([value for value, _ in rows])
    texts = [text for _, text in rows]
    keys = number_keys("a", values) + text_keys("b", texts)
    for at, (value, text) in enumerate(rows):
        alone = number_keys("a", np.array([value])) + text_keys("b", [text])
        assert alone[0] == keys[at]
    assert number_keys("a", np.array([0.0])) == number_keys("a", np.array([-0.0]))
    # The same value in two columns tells them apart.
    assert number_keys("a", values)[0] != number_keys("b", values)[0]


@settings(max_examples=20)
@given(st.floats(0.02, 0.98), st.integers(0, 2**32))
def test_the_share_of_different_rows_is_the_one_that_was_asked_for(share, first):
    keys = number_keys("x", np.arange(first, first + 20_000, dtype=np.float64))
    spread = 5 * np.sqrt(share * (1 - share) / 20_000)
    assert abs(is_tested(keys, share).mean() - share) < spread


def test_a_key_never_changes():
    # Versions that were trained long ago are compared with new ones: this must stay.
    keys = number_keys("age", np.array([18.0, 40.5])) + text_keys("plan", ["free", "paid"])
    assert keys.tolist() == [16890210424001866517, 7046143627328761931]


@given(st.lists(st.integers(0, 4)))
def test_copies_are_counted_in_the_order_of_the_rows(values):
    keys = number_keys("x", np.array(values, dtype=np.float64))
    numbers = copy_numbers(keys).tolist()
    assert numbers == [values[:at].count(value) for at, value in enumerate(values)]


def test_of_few_possible_rows_each_part_has_its_share(tmp_path):
    # Three rows, and the commonest class of the one is in both parts.
    counts = {"stays": 3_000, "leaves": 300, "unsure": 300}
    outcome = [label for label, rows in counts.items() for _ in range(rows)]
    columns = {name: values * len(outcome) for name, values in churn_rows(1).items()}
    keys = read(tmp_path, columns | {"outcome": outcome}).keys
    tested = is_tested(keys + copy_keys(copy_numbers(keys)), 0.2)
    for label, rows in counts.items():
        share = tested[[each == label for each in outcome]].mean()
        assert abs(share - 0.2) < 5 * np.sqrt(0.16 / rows)
