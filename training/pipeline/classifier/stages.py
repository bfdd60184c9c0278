"""The stages of a classifier's training run, from a data set to a bundle and a report."""

import io
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from engine.classifier.bundle import MODEL, write_classifier_bundle
from engine.classifier.definition import Definition, read_definition
from engine.errors import InvalidDataset
from training.pipeline.classifier.champion import challenge, compared
from training.pipeline.classifier.export import check_export, export_forest, libraries
from training.pipeline.classifier.forest import absent_classes, fit_forest
from training.pipeline.classifier.importance import input_importances
from training.pipeline.classifier.metrics import Tested, confusion, figures, reliability
from training.pipeline.classifier.predict import Predict, Predicted, predict_rows, served_forest
from training.pipeline.classifier.rows import Codes, Matrix, Rows, read_rows
from training.pipeline.classifier.sizes import plan_fit_rows
from training.pipeline.classifier.split import copy_keys, copy_numbers, is_tested
from training.pipeline.memory import peak_memory_mb
from training.pipeline.progress import Progress
from training.pipeline.run_folder import BUNDLE, PREDICTIONS, RunFolder
from training.pipeline.spec import ClassifierSpec

LEAST_ROWS: Final = 50
"""To fit on; and a fifth of it to test on."""
# Where each stage ends, as a share of the whole run.
ENDS: Final = {
    "load": 0.15,
    "split": 0.2,
    "fit": 0.75,
    "export": 0.85,
    "evaluate": 0.97,
    "bundle": 1.0,
}


class Parts(NamedTuple):
    """The rows that are fitted on, and those that are tested on."""

    matrix: Matrix
    """With rows behind them for the classes that have none, see `fit_forest`."""
    labels: Codes
    train_rows: int
    """In the training part; those above may be a draw of them."""
    repeated: int
    """Of both parts, those that are like one before."""
    test: NDArray[np.int64]
    """Their numbers in the data set."""
    test_matrix: Matrix
    test_labels: Codes
    test_best: NDArray[np.float64] | None


class Judged(NamedTuple):
    """The figures of a version on the test part."""

    predicted: Predicted
    metrics: dict[str, Any]
    curves: dict[str, Any]
    champion_error: str | None


def train(spec: ClassifierSpec, folder: RunFolder) -> dict[str, Any]:
    """Train, evaluate and write `bundle/` and `predictions.parquet`; return the report.

    Raises:
        SentinelleError: with a message for the person who started the run.
    """
    progress = Progress(folder, ENDS)
    with progress.stage("load"):
        definition = read_definition(spec.definition)
        rows = read_rows(spec.dataset, definition, spec.sample, progress.within)
        folder.progress(rows=len(rows.labels))
        folder.log(f"load: {len(rows.labels):,} rows, {len(definition.classes)} classes")
    with progress.stage("split"):
        parts = _split(rows, definition, spec)
        del rows
        folder.log(
            f"split: {parts.train_rows:,} rows to train on, of which {len(parts.labels):,} are "
            f"fitted on, and {len(parts.test):,} to test on"
        )
    with progress.stage("fit"):
        model = fit_forest(
            parts.matrix,
            parts.labels,
            len(definition.classes),
            trees=_trees(definition, spec),
            seed=spec.seed,
            progress=progress.within,
        )
        folder.log("fit: {trees} trees with {leaves:,} leaves".format_map(_forest(model)))
    with progress.stage("export"):
        files = export_forest(model, definition)
        predict = served_forest(files[MODEL])
        difference = check_export(predict, model, parts.test_matrix, spec.seed)
        folder.log(f"export: largest difference from scikit-learn {difference:.1e}")
    with progress.stage("evaluate"):
        judged = _judge(parts, predict, definition, spec, progress)
        # scikit-learn's, which answers the same, six times as fast.
        importances = input_importances(
            model.predict_proba, parts.test_matrix, parts.test_labels, definition, spec.seed
        )
        folder.store.write(PREDICTIONS, _predictions(parts, judged.predicted, definition))
    with progress.stage("bundle"):
        described = {
            "metrics": judged.metrics,
            "data": _describe(parts, definition, spec),
            "export_difference": difference,
            "deployable": spec.sample is None,
        }
        manifest_sha256 = write_classifier_bundle(
            folder.store,
            BUNDLE,
            files,
            source=spec.definition,
            version=spec.version,
            training={**described, "seed": spec.seed, "forest": _forest(model)},
            libraries=libraries(),
        )
    return {
        "status": "succeeded",
        "kind": spec.kind,
        "run_id": spec.run_id,
        "model": spec.model,
        "version": spec.version,
        **described,
        "forest": _forest(model),
        "curves": judged.curves,
        "importances": importances,
        "champion_error": judged.champion_error,
        "timings": progress.timings,
        "peaks_mb": progress.peaks,
        "peak_memory_mb": peak_memory_mb(),
        "manifest_sha256": manifest_sha256,
    }


def _split(rows: Rows, definition: Definition, spec: ClassifierSpec) -> Parts:
    copies = copy_numbers(rows.keys)
    tested = is_tested(rows.keys + copy_keys(copies), spec.options.test)
    test, training = np.flatnonzero(tested), np.flatnonzero(~tested)
    if len(training) < LEAST_ROWS or len(test) < LEAST_ROWS // 5:
        raise InvalidDataset(
            f"There are {len(training):,} rows to train on and {len(test):,} to test on; "
            f"at least {LEAST_ROWS} and {LEAST_ROWS // 5} are needed. Import more rows."
        )
    fitted = _drawn(training, len(test), definition, spec)
    labels = rows.labels[fitted]
    if (labels == labels[0]).all():
        raise InvalidDataset(
            f"Every row to train on is {definition.labels[labels[0]]!r}: there is nothing to tell "
            "apart. Import rows of the other classes too."
        )
    absent = absent_classes(labels, len(definition.classes))
    return Parts(
        rows.matrix[np.concatenate([fitted, fitted[:1].repeat(len(absent))])],
        labels,
        len(training),
        int(np.count_nonzero(copies)),
        test,
        rows.matrix[test],
        rows.labels[test],
        None if rows.best is None else rows.best[test],
    )


def _drawn(
    training: NDArray[np.int64], tested: int, definition: Definition, spec: ClassifierSpec
) -> NDArray[np.int64]:
    """The rows to fit on, in order: all of the training part, or as many as may be."""
    options = spec.options
    count = min(options.fit_rows or len(training), len(training))
    if options.memory_limit_mb is not None:
        count = plan_fit_rows(
            count,
            rows=len(training) + tested,
            tested=tested,
            columns=len(definition.columns),
            classes=len(definition.classes),
            trees=_trees(definition, spec),
            limit_mb=options.memory_limit_mb,
        )
    if count == len(training):
        return training
    random = np.random.default_rng(spec.seed)
    return np.sort(random.choice(training, count, replace=False))


def _trees(definition: Definition, spec: ClassifierSpec) -> int:
    return spec.options.trees or definition.training.trees


def _judge(
    parts: Parts,
    predict: Predict,
    definition: Definition,
    spec: ClassifierSpec,
    progress: Progress,
) -> Judged:
    matrix, labels, classes = parts.test_matrix, parts.test_labels, len(definition.classes)
    predicted = predict_rows(
        predict, matrix, labels, classes, lambda done: progress.within(0.4 * done, "the test rows")
    )
    rival, error = challenge(
        spec.champion,
        definition,
        spec.dataset_fingerprint,
        matrix,
        labels,
        lambda done: progress.within(0.4 + 0.4 * done, "the champion on the same rows"),
    )
    progress.within(0.8, "figures")
    tested = Tested(labels, predicted, parts.test_best)
    most_frequent = int(np.bincount(parts.labels).argmax())
    metrics = {
        **figures(tested, definition.labels, most_frequent),
        "split": {"test": spec.options.test},
        **compared(predicted, rival, labels, definition.labels),
    }
    curves = {
        "confusion": {
            "labels": definition.labels,
            "counts": confusion(labels, predicted.label, classes).tolist(),
        },
        "reliability": reliability(tested),
    }
    return Judged(predicted, metrics, curves, error)


def _describe(parts: Parts, definition: Definition, spec: ClassifierSpec) -> dict[str, Any]:
    """What was trained on: rows, and rows by class, of the whole and of each part."""

    def counted(labels: Codes, rows: int) -> dict[str, Any]:
        counts = np.bincount(labels, minlength=len(definition.classes)).tolist()
        return {"rows": rows, "classes": dict(zip(definition.labels, counts, strict=True))}

    return {
        "dataset": Path(spec.dataset).parent.name,
        "fingerprint": spec.dataset_fingerprint,
        "sample": spec.sample,
        "rows": parts.train_rows + len(parts.test),
        "repeated_rows": parts.repeated,
        "fit_rows": len(parts.labels),
        "parts": {
            "train": counted(parts.labels, parts.train_rows),
            "test": counted(parts.test_labels, len(parts.test)),
        },
    }


def _forest(model: RandomForestClassifier) -> dict[str, Any]:
    """How large the forest became."""
    return {
        "trees": len(model.estimators_),
        "most_leaves": int(model.max_leaf_nodes),
        "rows_per_tree": int(model.max_samples),
        "leaves": sum(int(each.tree_.n_leaves) for each in model.estimators_),
        "depth": max(int(each.tree_.max_depth) for each in model.estimators_),
    }


def _predictions(parts: Parts, predicted: Predicted, definition: Definition) -> bytes:
    """`predictions.parquet`: of each row of the test part its number in the data set (from 0), its
    class, the one that was predicted and how sure the version is of that."""
    names = pa.array(definition.labels, pa.string())
    table = pa.table(
        {
            "row": parts.test,
            "label": names.take(pa.array(parts.test_labels)),
            "prediction": names.take(pa.array(predicted.label)),
            "confidence": predicted.confidence,
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
