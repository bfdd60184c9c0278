"""A small real bundle: two ensembles fitted on made-up rows, exported as training does."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest
from threadpoolctl import threadpool_limits

from engine.features.catalogue import LABEL_DELAY
from engine.features.schema import FeatureSchema
from engine.fraud_bundle import SUPERVISED, UNSUPERVISED, write_bundle
from engine.policy import PiecewiseLinear, Policy
from engine.store import Store
from engine.trees import serialize

SCHEMA = FeatureSchema(("TRANSFER", "PAYMENT"), ("FR", "DE"))
FILL = np.zeros(len(SCHEMA.names))
ANOMALY_CURVE = PiecewiseLinear((0.3, 0.45, 0.8), (0.0, 0.5, 1.0))
POLICY = Policy(review=0.5, block=0.8)


@cache
def training_rows() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(2000, features) rows with unknown values among them, and what a large amount means."""
    rng = np.random.default_rng(0)
    rows = rng.lognormal(2.0, 1.5, size=(2000, len(SCHEMA.names)))
    labels = rows[:, 0] > 40.0
    rows[rng.random(rows.shape) < 0.05] = np.nan
    return rows, labels


@cache
def estimators(trees: int = 20) -> tuple[HistGradientBoostingClassifier, IsolationForest]:
    """The two scikit-learn estimators behind the bundle."""
    rows, labels = training_rows()
    boosting = HistGradientBoostingClassifier(max_iter=trees, early_stopping=False, random_state=0)
    # On a busy machine OpenMP's threads wait for each other longer than they work.
    with threadpool_limits(1):
        boosting.fit(rows, labels)
    forest = IsolationForest(n_estimators=trees, random_state=0).fit(np.nan_to_num(rows))
    return boosting, forest


@cache
def _checkpoints(trees: int) -> tuple[bytes, bytes]:
    boosting, forest = estimators(trees)
    return serialize(boosting), serialize(forest)


def bundle_files(trees: int = 20) -> dict[str, bytes]:
    """The files that training hands to `write_bundle`; the joblib one would not unpickle."""
    supervised, unsupervised = _checkpoints(trees)
    return {
        SUPERVISED: supervised,
        UNSUPERVISED: unsupervised,
        "supervised_model.joblib": b"not a pickle",
        "baseline.json": b"{}",
    }


def write_small_bundle(store: Store, prefix: str = "fraud/v1.0.0", **changes: Any) -> str:
    """Write the bundle; `changes` replace arguments of `write_bundle`. Its manifest's digest."""
    facts: dict[str, Any] = {
        "files": bundle_files(),
        "model": "fraud",
        "version": "1.0.0",
        "schema": SCHEMA,
        "label_delay": LABEL_DELAY,
        "policy": POLICY,
        "fill": FILL,
        "anomaly_calibration": ANOMALY_CURVE,
        "rule_set_sha256": "0" * 64,
        "training": {"rows": 2000},
        "libraries": {"treelite": "4.8.1"},
    }
    facts.update(changes)
    return write_bundle(store, prefix, **facts)
