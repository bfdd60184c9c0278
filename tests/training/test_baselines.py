"""The logistic baseline and the importances, on data whose answer is known."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from engine.features.schema import Attribute, FeatureSchema
from tests.training.pipeline_support import make_columns, write_dataset
from training.pipeline import baselines, importance, stages
from training.pipeline.baselines import logistic_baseline
from training.pipeline.features import Features
from training.pipeline.importance import grouped, permutation_importances
from training.pipeline.prepare import Parts, choose_schema
from training.pipeline.split import Split
from training.pipeline.table import read_transactions


def make(rows: int = 8_000, seed: int = 0):
    """A signal, a constant, noise with outliers, and a value that frauds often lack."""
    rng = np.random.default_rng(seed)
    labels = rng.random(rows) < 0.05
    matrix = np.column_stack(
        [
            rng.normal(size=rows) + 1.5 * labels,
            np.full(rows, 7.0),
            rng.standard_cauchy(rows) * 1e6,
            np.where(rng.random(rows) < np.where(labels, 0.8, 0.2), np.nan, rng.normal(size=rows)),
            np.full(rows, np.nan),
        ]
    )
    return matrix, labels


def precision(scores, labels) -> float:
    return float(average_precision_score(labels, scores))


def test_it_learns_from_values_and_from_their_absence():
    matrix, labels = make()
    test, test_labels = make(seed=1)
    scores = logistic_baseline(matrix, labels, np.ones(len(labels)), seed=0)(test)
    assert scores.shape == (len(test),)
    assert ((scores > 0) & (scores < 1)).all()
    assert scores.mean() == pytest.approx(test_labels.mean(), abs=0.01)
    without = logistic_baseline(matrix[:, :3], labels, np.ones(len(labels)), seed=0)(test[:, :3])
    assert precision(scores, test_labels) > 1.3 * precision(without, test_labels) > 0.3


def test_drawing_rows_keeps_the_prior(monkeypatch):
    matrix, labels = make(40_000)
    test, _ = make(seed=1)
    ones = np.ones(len(labels))
    whole = logistic_baseline(matrix, labels, ones, seed=0)(test)
    monkeypatch.setattr(baselines, "FIT_ROWS", 6_000)
    drawn = logistic_baseline(matrix, labels, ones, seed=0)(test)
    assert drawn.mean() == pytest.approx(whole.mean(), rel=0.1)
    assert np.corrcoef(whole, drawn)[0, 1] > 0.99
    assert not np.array_equal(whole, drawn)
    # Legitimate rows that stand for ten already.
    kept = labels | (np.arange(len(labels)) % 10 == 0)
    weights = np.where(labels, 1.0, 10.0)[kept]
    weighted = logistic_baseline(matrix[kept], labels[kept], weights, seed=0)(test)
    assert weighted.mean() == pytest.approx(whole.mean(), rel=0.1)


def test_the_signal_is_the_most_important_input_and_noise_is_not():
    matrix, labels = make(30_000)
    model = {"signal": 0, "constant": 1, "noise": 2, "unknown": 4}
    columns = list(model.values())
    groups = {name: [at] for at, name in enumerate(model)}

    def predict(values):
        return values[:, 0]

    found = permutation_importances(
        predict, matrix[:, columns], labels, np.ones(30_000), groups, seed=0
    )
    assert found[0]["name"] == "signal"
    whole = precision(matrix[:, 0], labels)
    # Without its only input a model ranks at random: the fraud rate is left.
    assert found[0]["drop"] == pytest.approx(whole - labels.mean(), abs=0.03)
    assert found[0]["low"] <= found[0]["drop"] <= found[0]["high"]
    assert [each["drop"] for each in found[1:]] == [0, 0, 0]


def test_a_category_is_shuffled_as_one():
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.02
    kind = np.where(labels & (rng.random(20_000) < 0.7), 2, rng.integers(0, 3, 20_000))
    matrix = np.eye(3)[kind]

    def predict(values):
        # A row with no category or with two, which never occurs, would be scored lowest.
        return np.where(values.sum(axis=1) == 1, values[:, 2], -1.0)

    groups = {"transaction_type": [0, 1, 2]}
    (found,) = permutation_importances(predict, matrix, labels, np.ones(20_000), groups, seed=0)
    assert (found["name"], found["columns"]) == ("transaction_type", 3)
    assert found["drop"] == pytest.approx(precision(matrix[:, 2], labels) - 0.02, abs=0.01)


def test_rows_are_drawn_from_both_classes_and_stand_for_all(monkeypatch):
    monkeypatch.setattr(importance, "ROWS", 200)
    labels = np.arange(10_000) % 40 == 0
    known = np.where(labels, 1.0, 5.0)
    rows, weights = importance._draw(labels, known, np.random.default_rng(0))
    assert labels[rows].sum() == 100
    assert weights[labels[rows]].sum() == pytest.approx(labels.sum())
    assert weights.sum() == pytest.approx(known.sum())


def test_frauds_are_among_the_test_rows_however_few_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "TEST_SAMPLE_ROWS", 20)
    path = write_dataset(tmp_path, make_columns(3_000, fraud_rate=0.005))
    data = read_transactions(str(path))
    split = Split(slice(0, 1_000), slice(1_000, 2_000), slice(2_000, 3_000), cut_off=0)
    schema = choose_schema(data, split.train, ())
    features = Features(data, schema, 0, labels_after=0)
    rows = stages._test_rows(
        Parts(data, split, data.is_fraud, 0, data.is_labelled), features, seed=0
    )
    frauds = int(data.is_fraud[split.test].sum())
    assert (rows.labels.sum(), len(rows.labels)) == (frauds, frauds + 20)
    assert rows.weights.sum() == pytest.approx(1_000)
    found = permutation_importances(
        lambda values: values[:, schema.positions["amount"]],
        rows.matrix,
        rows.labels,
        rows.weights,
        grouped(schema),
        seed=0,
    )
    assert found[0]["name"] == "amount"


def test_columns_are_grouped_by_what_they_tell_of():
    attributes = (
        Attribute("channel", "category", ("app", "web")),
        Attribute("device_is_new", "boolean"),
        Attribute("device_is_known_for", "number"),
    )
    schema = FeatureSchema(("TRANSFER", "PAYMENT"), ("FR", "SN"), attributes)
    groups = grouped(schema)
    names = {
        group: [schema.names[column] for column in columns] for group, columns in groups.items()
    }
    assert {group: found for group, found in names.items() if found != [group]} == {
        "direction": ["direction_outgoing", "direction_incoming"],
        "transaction_type": ["transaction_type_TRANSFER", "transaction_type_PAYMENT"],
        "country": ["country_FR", "country_SN"],
        "attribute_channel": ["attribute_channel_is_app", "attribute_channel_is_web"],
    }
    assert names["attribute_device_is_new"] == ["attribute_device_is_new"]
    assert names["country_mismatch"] == ["country_mismatch"]
    assert sorted(column for columns in groups.values() for column in columns) == list(
        range(len(schema.names))
    )
