"""The export check: it passes what scikit-learn scores alike, and refuses anything else."""

from typing import NamedTuple

import numpy as np
import pytest
import treelite

from engine.features.catalogue import CATALOGUE
from engine.features.schema import FeatureSchema
from engine.fraud_bundle import SUPERVISED, UNSUPERVISED
from engine.policy import PiecewiseLinear
from training.pipeline.calibrate import anomaly_scale
from training.pipeline.export import (
    CHECK_ROWS,
    ExportMismatch,
    check_export,
    check_rows,
    export_models,
)
from training.pipeline.fit import (
    FitPart,
    Supervised,
    Unsupervised,
    fit_supervised,
    fit_unsupervised,
)

SCHEMA = FeatureSchema(("PAYMENT", "TRANSFER"), ("BE", "FR"))


class Fitted(NamedTuple):
    supervised: Supervised
    unsupervised: Unsupervised
    anomaly: PiecewiseLinear
    matrix: np.ndarray

    def check(self, files: dict[str, bytes]) -> float:
        return check_export(
            files, self.supervised, self.unsupervised, self.anomaly, SCHEMA, self.matrix, 0
        )


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    rng = np.random.default_rng(0)
    matrix = rng.lognormal(2.0, 1.0, (6_000, len(SCHEMA.names)))
    matrix[:, ::3] = np.round(matrix[:, ::3])
    matrix[rng.random(matrix.shape) < 0.03] = np.nan
    labels = np.nan_to_num(matrix[:, 0] - matrix[:, 20]) + rng.normal(size=6_000) > 18
    train = FitPart(matrix[:4_000], labels[:4_000], np.ones(4_000))
    supervised = fit_supervised(
        train,
        FitPart(matrix[4_000:], labels[4_000:], np.ones(2_000)),
        seed=0,
        hyperparameters={"max_iter": 40},
        progress=lambda _: None,
    )
    unsupervised = fit_unsupervised(train, seed=0, hyperparameters={"n_estimators": 20})
    anomaly = anomaly_scale(unsupervised.raw_score(matrix[4_000:]))
    return Fitted(supervised, unsupervised, anomaly, matrix[4_000:])


def changed(checkpoint: bytes, field: str, change) -> bytes:
    """The checkpoint with one node of its first tree changed."""
    model = treelite.Model.deserialize_bytes(checkpoint)
    tree = model.get_tree_accessor(0)
    tree.set_field(field, change(tree, tree.get_field(field).copy()))
    return model.serialize_bytes()


def nudge_leaf(by: float):
    def change(tree, leaves):
        leaf = int(np.flatnonzero(tree.get_field("cleft") == -1)[0])
        leaves[leaf] += by
        return leaves

    return change


def nudge_threshold(tree, thresholds):
    thresholds[0] = np.nextafter(thresholds[0], -np.inf)
    return thresholds


def flip_default(tree, default_left):
    default_left[0] = not default_left[0]
    return default_left


def test_a_faithful_export_passes_far_below_the_tolerance(fitted):
    files = export_models(fitted.supervised, fitted.unsupervised)
    assert fitted.check(files) < 1e-7


def test_the_rows_hold_missing_unseen_and_threshold_values(fitted):
    rows = check_rows(
        fitted.matrix, SCHEMA, fitted.supervised.model, fitted.unsupervised.model, seed=0
    )
    assert rows.shape == (CHECK_ROWS, len(SCHEMA.names))
    assert np.isnan(rows).all(axis=1).any()
    one_hots = [SCHEMA.positions[f"country_{name}"] for name in SCHEMA.countries]
    assert (rows[:, one_hots] == 0).all(axis=1).sum() >= CHECK_ROWS // 4
    root = fitted.supervised.model._predictors[0][0].nodes[0]
    column = rows[:, root["feature_idx"]]
    assert (column == root["num_threshold"]).any()
    assert len(SCHEMA.names) > len(CATALOGUE)


@pytest.mark.parametrize("name", [SUPERVISED, UNSUPERVISED])
def test_a_changed_leaf_is_refused(fitted, name):
    files = export_models(fitted.supervised, fitted.unsupervised)
    files[name] = changed(files[name], "leaf_value", nudge_leaf(0.01))
    with pytest.raises(ExportMismatch, match=f"{name} does not score like"):
        fitted.check(files)


def test_a_leaf_changed_within_the_tolerance_is_let_through(fitted):
    files = export_models(fitted.supervised, fitted.unsupervised)
    files[SUPERVISED] = changed(files[SUPERVISED], "leaf_value", nudge_leaf(1e-7))
    assert 0 < fitted.check(files) <= 1e-6


@pytest.mark.parametrize(
    ("field", "change"),
    [("threshold", nudge_threshold), ("default_left", flip_default)],
    ids=["a threshold one step lower", "missing values to the other side"],
)
def test_what_only_special_values_show_is_refused(fitted, field, change):
    """Ordinary rows never lie on a threshold; that is why the check makes rows that do."""
    files = export_models(fitted.supervised, fitted.unsupervised)
    files[SUPERVISED] = changed(files[SUPERVISED], field, change)
    with pytest.raises(ExportMismatch, match="Nothing was exported"):
        fitted.check(files)
