"""A classifier's training through its program: what it reports, and that it is so."""

from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sk

from engine.classifier.bundle import ClassifierBundle, load_classifier
from engine.store import LocalStore
from tests.training.classifier.support import (
    INPUTS,
    churn,
    churn_rows,
    import_churn,
    run_program,
    write_spec,
)

ROWS = 3_000
OPTIONS = {"trees": 20}


class Run(NamedTuple):
    folder: Path
    report: dict[str, Any]
    bundle: ClassifierBundle
    rows: list[dict[str, Any]]
    """The test part: inputs and class."""
    predictions: dict[str, list[Any]]


def loaded(folder: Path, report: dict[str, Any]) -> ClassifierBundle:
    return load_classifier(LocalStore(folder), "bundle", report["manifest_sha256"])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    place = tmp_path_factory.mktemp("churn")
    imported = import_churn(place, churn_rows(ROWS))
    folder = write_spec(
        place / "run",
        imported.path,
        dataset_fingerprint=imported.fingerprint,
        options=OPTIONS,
    )
    report = run_program(folder)
    assert report["status"] == "succeeded", report
    predictions = pq.read_table(folder / "predictions.parquet").to_pydict()
    rows = pq.read_table(imported.path).take(predictions["row"]).to_pylist()
    return Run(folder, report, loaded(folder, report), rows, predictions)


def test_the_bundle_answers_what_the_predictions_say(run):
    assert [row["outcome"] for row in run.rows] == run.predictions["label"]
    for row, prediction, confidence in zip(
        run.rows[:50], run.predictions["prediction"], run.predictions["confidence"], strict=False
    ):
        answer = run.bundle.predict({name: row[name] for name in INPUTS})
        assert (answer["prediction"], answer["confidence"]) == (prediction, confidence)


def test_the_joblib_files_are_the_model_and_its_columns(run):
    model = joblib.load(run.folder / "bundle" / "model.joblib")
    columns = joblib.load(run.folder / "bundle" / "model_columns.joblib")
    assert columns == churn().columns
    assert model.n_jobs is None
    encoded = np.array([churn().encode(row) for row in run.rows])
    np.testing.assert_allclose(
        model.predict_proba(encoded.astype(np.float32)),
        run.bundle.probabilities(encoded),
        atol=1e-9,
    )
    assert run.report["export_difference"] <= 1e-9


def test_the_figures_are_scikit_learns(run):
    labels, predicted = run.predictions["label"], run.predictions["prediction"]
    found, names = run.report["metrics"], churn().labels
    encoded = np.array([churn().encode(row) for row in run.rows])
    probabilities = run.bundle.probabilities(encoded)
    actual = np.array([names.index(label) for label in labels])
    wanted = {
        "rows": len(labels),
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "macro_f1": sk.f1_score(labels, predicted, average="macro"),
        "log_loss": sk.log_loss(actual, probabilities, labels=range(3)),
        "top_3_accuracy": 1.0,
        "most_frequent_accuracy": labels.count("stays") / len(labels),
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    precision, recall, f1, rows = sk.precision_recall_fscore_support(
        labels, predicted, labels=names
    )
    for at, name in enumerate(names):
        assert found["per_class"][name] == pytest.approx(
            {"rows": rows[at], "precision": precision[at], "recall": recall[at], "f1": f1[at]}
        )
    assert run.report["curves"]["confusion"] == {
        "labels": names,
        "counts": sk.confusion_matrix(labels, predicted, labels=names).tolist(),
    }
