"""The conformance of both models, against scikit-learn and with what must be refused."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier

from engine.errors import InvalidBundle
from engine.fraud_bundle import SUPERVISED, UNSUPERVISED
from engine.trees import SupervisedModel, UnsupervisedModel, serialize
from tests.engine.bundles import ANOMALY_CURVE, FILL, SCHEMA, bundle_files, estimators

COUNT = len(SCHEMA.names)
Model = SupervisedModel | UnsupervisedModel


def load(name: str, fill: NDArray[np.float64] = FILL) -> Model:
    data = bundle_files()[name]
    if name == SUPERVISED:
        return SupervisedModel(data, COUNT)
    return UnsupervisedModel(data, COUNT, fill, ANOMALY_CURVE)


@pytest.fixture(params=[SUPERVISED, UNSUPERVISED])
def model(request: pytest.FixtureRequest) -> Model:
    return load(request.param)


def probes() -> NDArray[np.float64]:
    """10,000 rows: ordinary, unknown, extreme, and equal to the trees' own thresholds."""
    rng = np.random.default_rng(1)
    rows = rng.lognormal(2.0, 1.5, size=(10_000, COUNT))
    rows[rng.random(rows.shape) < 0.1] = np.nan
    rows[rng.random(rows.shape) < 0.01] = 0.0
    rows[rng.random(rows.shape) < 0.01] = 1e15
    boosting, forest = estimators()
    for trees in boosting._predictors:
        nodes = trees[0].nodes[trees[0].nodes["is_leaf"] == 0]
        at = rng.integers(0, len(rows), len(nodes))
        rows[at, nodes["feature_idx"]] = nodes["num_threshold"]
    for tree in forest.estimators_:
        split = tree.tree_.feature >= 0
        at = rng.integers(0, len(rows), split.sum())
        rows[at, tree.tree_.feature[split]] = tree.tree_.threshold[split]
    return rows


def test_supervised_scores_are_those_of_scikit_learn() -> None:
    rows = probes()
    expected = estimators()[0].predict_proba(rows)[:, 1]
    assert np.abs(load(SUPERVISED).predict(rows) - expected).max() < 1e-12


def test_unsupervised_scores_are_those_of_scikit_learn() -> None:
    rows = probes()
    fill = np.arange(COUNT, dtype=np.float64)
    unsupervised = load(UNSUPERVISED, fill)
    assert isinstance(unsupervised, UnsupervisedModel)
    expected = -estimators()[1].score_samples(np.where(np.isnan(rows), fill, rows))
    assert np.abs(unsupervised.raw(rows) - expected).max() < 1e-8
    assert np.array_equal(unsupervised.predict(rows), ANOMALY_CURVE(unsupervised.raw(rows)))


def test_scores_are_in_the_unit_interval_and_vary(model: Model) -> None:
    scores = model.predict(probes())
    assert scores.shape == (10_000,)
    assert scores.min() >= 0.0
    assert scores.max() <= 1.0
    assert len(np.unique(scores)) > 100


def test_one_row_scores_as_it_does_among_others(model: Model) -> None:
    rows = probes()[:200]
    assert [model.predict_one(row) for row in rows] == model.predict(rows).tolist()


def test_a_row_is_not_changed_by_scoring(model: Model) -> None:
    row = np.full(COUNT, np.nan)
    model.predict_one(row)
    assert np.isnan(row).all()


def test_suspicious_rows_score_higher() -> None:
    large = np.full((1, COUNT), 10.0)
    large[0, 0] = 1_000.0
    small = np.full((1, COUNT), 10.0)
    supervised = load(SUPERVISED)
    assert supervised.predict(large) > 0.8 > 0.2 > supervised.predict(small)
    odd = np.full((1, COUNT), 1e9)
    assert load(UNSUPERVISED).predict(odd) > load(UNSUPERVISED).predict(small)


def test_rows_of_another_width_get_no_score(model: Model) -> None:
    for width in (COUNT - 1, COUNT + 1, 1, 0):
        with pytest.raises(ValueError, match="expected rows"):
            model.predict(np.zeros((3, width)))
    with pytest.raises(ValueError, match="expected rows"):
        model.predict(np.zeros(COUNT))


@pytest.mark.parametrize("cut", [0, 3, 1000, -7])
@pytest.mark.parametrize("name", [SUPERVISED, UNSUPERVISED])
def test_a_broken_checkpoint_is_refused(name: str, cut: int) -> None:
    data = bundle_files()[name][:cut]
    with pytest.raises(InvalidBundle, match="not a Treelite checkpoint"):
        SupervisedModel(data, COUNT)


def test_a_checkpoint_for_other_features_is_refused() -> None:
    data = bundle_files()[SUPERVISED]
    for features in (COUNT - 1, COUNT + 1):
        with pytest.raises(InvalidBundle, match="does not score"):
            SupervisedModel(data, features)


def test_a_checkpoint_with_several_classes_is_refused() -> None:
    rows = np.random.default_rng(0).random((60, 3))
    many = GradientBoostingClassifier(n_estimators=2).fit(rows, np.arange(60) % 3)
    with pytest.raises(InvalidBundle, match="does not score"):
        SupervisedModel(serialize(many), 3)


@pytest.mark.parametrize("fill", [FILL[:-1], np.full(COUNT, np.nan), np.full(COUNT, np.inf)])
def test_fill_values_are_finite_and_one_a_feature(fill: NDArray[np.float64]) -> None:
    with pytest.raises(InvalidBundle, match="finite fill values"):
        load(UNSUPERVISED, fill)
