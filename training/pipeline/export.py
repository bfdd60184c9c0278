"""From fitted estimators to the files that are served, checked before anything is written."""

import io
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import joblib
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest

from engine.errors import SentinelleError
from engine.features.kernel import UNITS
from engine.features.schema import FeatureSchema
from engine.fraud_bundle import SUPERVISED, UNSUPERVISED, write_bundle
from engine.policy import PiecewiseLinear, Policy
from engine.store import Store
from engine.trees import SupervisedModel, UnsupervisedModel, serialize
from training.pipeline.evaluate import Scores
from training.pipeline.fit import (
    FitPart,
    Supervised,
    Unsupervised,
    fill_missing,
    supervised_score,
)
from training.pipeline.run_folder import BUNDLE
from training.pipeline.spec import RunSpec, encode_options
from training.pipeline.table import Transactions

Matrix = NDArray[np.float64]

TOLERANCE = 1e-6
CHECK_ROWS = 10_000
# Rows that the quantiles of the training part are read from, evenly spaced over it.
BASELINE_ROWS = 200_000
LIBRARIES = ("numpy", "scikit-learn", "treelite", "numba", "joblib")


class ExportMismatch(SentinelleError):
    """The files to be served do not give scikit-learn's scores."""

    code = "EXPORT_MISMATCH"


class Training(NamedTuple):
    """What a bundle is made of, beside the model files."""

    spec: RunSpec
    schema: FeatureSchema
    supervised: Supervised
    unsupervised: Unsupervised
    anomaly: PiecewiseLinear
    policy: Policy
    label_delay: int
    """Microseconds."""
    rules_sha256: str
    metrics: dict[str, Any]
    data: dict[str, Any]
    export_difference: float


def export_models(supervised: Supervised, unsupervised: Unsupervised) -> dict[str, bytes]:
    """The model files of a bundle, by name."""
    return {
        SUPERVISED: serialize(supervised.model),
        UNSUPERVISED: serialize(unsupervised.model),
        "supervised_model.joblib": _joblib(supervised.model),
        "unsupervised_model.joblib": _joblib(unsupervised.model),
    }


def check_export(
    files: dict[str, bytes],
    supervised: Supervised,
    unsupervised: Unsupervised,
    anomaly: PiecewiseLinear,
    schema: FeatureSchema,
    matrix: Matrix,
    seed: int,
) -> float:
    """Score the served files and scikit-learn on the same rows; the largest difference.

    Args:
        files: with the two Treelite checkpoints, exactly as they will be served.
        matrix: rows that the models were not fitted on; see `check_rows` for what is made of them.

    Raises:
        ExportMismatch: a score differs by more than 1e-6.
    """
    rows = check_rows(matrix, schema, supervised.model, unsupervised.model, seed)
    features = rows.shape[1]
    forest = UnsupervisedModel(files[UNSUPERVISED], features, unsupervised.fill, anomaly)
    raw = -unsupervised.model.score_samples(fill_missing(rows, unsupervised.fill))
    differences = {
        SUPERVISED: np.abs(
            SupervisedModel(files[SUPERVISED], features).predict(rows)
            - supervised_score(supervised.model, rows)
        ),
        # Before the scale, which is the same code on both sides and multiplies differences.
        UNSUPERVISED: np.abs(forest.raw(rows) - raw),
    }
    for name, difference in differences.items():
        # Written so that NaN is refused too.
        if wrong := int(np.sum(~(difference <= TOLERANCE))):
            raise ExportMismatch(
                f"{name} does not score like the scikit-learn model it was made from: {wrong:,} of "
                f"{len(rows):,} rows differ by more than {TOLERANCE:g}, at most by "
                f"{np.max(difference):.3g}. Nothing was exported; please report this with the "
                "library versions."
            )
    return float(max(np.max(difference) for difference in differences.values()))


def check_rows(
    matrix: Matrix,
    schema: FeatureSchema,
    supervised: HistGradientBoostingClassifier,
    unsupervised: IsolationForest,
    seed: int,
) -> Matrix:
    """10,000 rows to compare an export on, drawn from `matrix`, a quarter each: as they are; with
    values missing; with categories that training never saw; with values on, and one step beside,
    thresholds at which the fitted trees split."""
    rng = np.random.default_rng(seed)
    rows = matrix[rng.integers(0, len(matrix), CHECK_ROWS)]
    quarter = CHECK_ROWS // 4
    missing = rows[quarter : 2 * quarter]
    missing[rng.random(missing.shape) < 0.1] = np.nan
    missing[0] = np.nan
    one_hots = [
        at
        for at, name in enumerate(schema.names)
        if name.startswith(("transaction_type_", "country_"))
    ]
    rows[2 * quarter : 3 * quarter, one_hots] = 0.0
    on_edges = rows[3 * quarter :]
    thresholds = np.concatenate([_boosting_splits(supervised), _forest_splits(unsupervised)])
    for _ in range(8):
        picked = thresholds[rng.integers(0, len(thresholds), len(on_edges))]
        step = rng.choice([-np.inf, 0.0, np.inf], len(on_edges), p=[0.25, 0.5, 0.25])
        values = np.where(step == 0, picked[:, 1], np.nextafter(picked[:, 1], step))
        on_edges[np.arange(len(on_edges)), picked[:, 0].astype(np.int64)] = values
    return rows


def write_run_bundle(
    store: Store,
    training: Training,
    files: dict[str, bytes],
    train: FitPart,
    scores: dict[str, NDArray[np.float64]],
) -> str:
    """Write `bundle/` in the run folder; the SHA-256 of its manifest.

    Everything that is served follows from the data set, the spec and the library versions, and the
    same run on the same machine writes it again byte for byte. The joblib files are equal in what
    they hold, not in their bytes: pickles keep memory that nobody set.
    """
    spec = training.spec
    summary = {
        "data": training.data,
        "metrics": training.metrics,
        "seed": spec.seed,
        "options": encode_options(spec.options),
        "rule_set": spec.rules.name,
        "deployable": spec.sample is None,
        "trees": int(training.supervised.model.n_iter_),
        "positive_weight": training.supervised.positive_weight,
        "supervised": _parameters(training.supervised.model),
        "unsupervised": _parameters(training.unsupervised.model),
        "export_difference": training.export_difference,
    }
    return write_bundle(
        store,
        BUNDLE,
        {**files, "baseline.json": baseline(training.schema.names, train, scores)},
        model=spec.model,
        version=spec.version,
        schema=training.schema,
        label_delay=training.label_delay,
        policy=training.policy,
        fill=training.unsupervised.fill,
        anomaly_calibration=training.anomaly,
        rule_set_sha256=training.rules_sha256,
        training=summary,
        libraries={name: version(name) for name in LIBRARIES},
    )


def baseline(
    names: tuple[str, ...], train: FitPart, scores: dict[str, NDArray[np.float64]]
) -> bytes:
    """`baseline.json`: percentiles of each feature over the training part, and of each score over
    validation, with the share of missing values; what later traffic is compared with."""
    sample = train.matrix[_as_drawn_evenly(train)]
    content = {
        "rows": len(sample),
        "features": {
            name: {
                "missing": float(np.isnan(sample[:, at]).mean()),
                "percentiles": quantiles(sample[:, at]),
            }
            for at, name in enumerate(names)
        },
        "scores": {name: {"percentiles": quantiles(values)} for name, values in scores.items()},
    }
    return msgspec.json.encode(content)


def quantiles(values: NDArray[np.float64]) -> list[float | None]:
    """The 101 percentiles of the known values, None throughout where no value is known."""
    known = values[~np.isnan(values)]
    if not len(known):
        return [None] * 101
    return [float(value) for value in np.quantile(known, np.linspace(0, 1, 101))]


def _as_drawn_evenly(train: FitPart) -> NDArray[np.int64]:
    """Rows, at most `BASELINE_ROWS`, in which frauds are as frequent as in the training part: they
    are evenly spaced along the sum of the weights."""
    upto = np.cumsum(train.weights)
    rows = min(BASELINE_ROWS, int(upto[-1] / train.weights.max()))
    places = (np.arange(rows) + 0.5) / rows * upto[-1]
    rows_at: NDArray[np.int64] = np.searchsorted(upto, places)
    return rows_at


def predictions_parquet(
    data: Transactions,
    test: NDArray[np.int64],
    scores: Scores,
    baselines: Mapping[str, NDArray[np.float64]],
) -> bytes:
    """`predictions.parquet`: rows of the test part with all that the report is computed from.

    The models' scores are given for every row, also where live would not have asked them because a
    rule blocks (there the risk is 1). Each of `baselines` is a column `NAME_score`.
    """
    types = data.text["transaction_type"]
    table = pa.table(
        {
            "transaction_id": data.transaction_id.take(pa.array(test)),
            "created_at": pa.array(data.created_at[test]).cast(pa.timestamp("us", "UTC")),
            "label": data.is_fraud[test],
            "supervised_score": scores.supervised,
            "unsupervised_score": scores.unsupervised,
            "risk_score": scores.risk,
            "amount": data.amount[test] / UNITS,
            "source_wallet_id": data.wallets.take(pa.array(data.source[test])),
            "destination_wallet_id": data.wallets.take(pa.array(data.destination[test])),
            "transaction_type": pa.array(types.names, pa.string()).take(
                pa.array(types.codes[test])
            ),
            "rule_blocked": scores.rule_blocked,
            "rule_score": scores.rule_score,
            **{f"{name}_score": values for name, values in baselines.items()},
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _boosting_splits(model: HistGradientBoostingClassifier) -> Matrix:
    """(splits, 2): feature and threshold of every split."""
    nodes = np.concatenate([tree.nodes for (tree,) in model._predictors])
    nodes = nodes[nodes["is_leaf"] == 0]
    splits = np.column_stack([nodes["feature_idx"], nodes["num_threshold"]])
    # Where only "missing or not" is told apart, the threshold is infinite.
    finite: Matrix = splits[np.isfinite(splits[:, 1])]
    return finite


def _forest_splits(model: IsolationForest) -> Matrix:
    """(splits, 2): feature and threshold of every split."""
    trees = [estimator.tree_ for estimator in model.estimators_]
    splits = [np.column_stack([tree.feature, tree.threshold])[tree.feature >= 0] for tree in trees]
    return np.concatenate(splits)


def _joblib(estimator: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer, compress=3)
    return buffer.getvalue()


def _parameters(estimator: Any) -> dict[str, Any]:
    return {
        name: value if isinstance(value, bool | int | float | str | None) else str(value)
        for name, value in sorted(estimator.get_params().items())
    }
