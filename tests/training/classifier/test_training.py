"""A classifier's training through its program: what it reports, and that it is so."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import binom, binomtest
from sklearn import metrics as sk

from engine.classifier.bundle import ClassifierBundle, load_classifier
from engine.store import LocalStore
from tests.training.classifier.support import (
    CHURN,
    INPUTS,
    ROOT,
    churn,
    churn_rows,
    import_churn,
    run_here,
    run_program,
    write_spec,
)
from training.pipeline.classifier.metrics import accuracy_difference

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
        "most_frequent_accuracy": labels.count("stays") / len(labels),
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert found["top_3_accuracy"] is None  # Of three classes it would be 1.
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


def test_the_accuracys_interval_and_the_calibration_follow_from_the_predictions(run):
    right = np.array(run.predictions["label"]) == np.array(run.predictions["prediction"])
    found = run.report["metrics"]
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    assert found["accuracy_interval"] == pytest.approx([interval.low, interval.high])

    confidence = np.array(run.predictions["confidence"])
    error, rows = 0.0, 0
    for low in np.arange(10) / 10:
        inside = (confidence >= low) & (confidence < low + 0.1 + (low == 0.9))
        if inside.any():
            drawn = run.report["curves"]["reliability"][rows]
            assert drawn["rows"] == inside.sum()
            assert drawn["accuracy"] == pytest.approx(right[inside].mean())
            error += abs(right[inside].sum() - confidence[inside].sum()) / len(right)
            rows += 1
    assert len(run.report["curves"]["reliability"]) == rows
    assert found["expected_calibration_error"] == pytest.approx(error)


def test_what_decides_is_important_and_all_inputs_are_told(run):
    found = {entry["name"]: entry for entry in run.report["importances"]}
    assert {*found} == {*INPUTS}
    assert found["plan"]["columns"] == 3
    assert all(entry["low"] <= entry["drop"] <= entry["high"] for entry in found.values())
    assert found["age"]["low"] > 0.05
    assert [*found] == sorted(found, key=lambda name: -found[name]["drop"])


def test_the_report_says_what_it_was_trained_on_and_what_it_took(run):
    report = run.report
    assert (report["kind"], report["model"], report["version"]) == ("classifier", "churn", "1.0.0")
    assert report["deployable"] is True
    assert report["metrics"]["best_possible_accuracy"] is None
    assert report["metrics"]["split"] == {"test": 0.2}
    assert report["champion_error"] is None
    data = report["data"]
    assert data["parts"]["train"]["rows"] + data["parts"]["test"]["rows"] == data["rows"] == ROWS
    assert data["parts"]["test"]["classes"] == {
        label: run.predictions["label"].count(label) for label in churn().labels
    }
    stages = ["load", "split", "fit", "export", "evaluate", "bundle"]
    assert [*report["timings"]] == [*report["peaks_mb"]] == stages
    assert json.loads((run.folder / "progress.json").read_bytes())["fraction"] == 1.0
    told = run.bundle.manifest.training
    assert told["metrics"] == report["metrics"]
    assert told["data"]["fingerprint"] == data["fingerprint"]


def test_the_same_run_gives_the_same_bytes_on_any_number_of_cores(run, tmp_path):
    spec = json.loads((run.folder / "spec.json").read_bytes())
    again = write_spec(tmp_path / "again", **spec)
    # Memory that nobody set has other content too.
    report = run_program(
        again, prefix=["taskset", "-c", "0"], PYTHONHASHSEED="7", MALLOC_PERTURB_="165"
    )
    assert report["manifest_sha256"] == run.report["manifest_sha256"]
    assert (again / "predictions.parquet").read_bytes() == (
        run.folder / "predictions.parquet"
    ).read_bytes()


def test_the_program_loads_neither_pandas_nor_what_only_fraud_needs(run, tmp_path):
    spec = json.loads((run.folder / "spec.json").read_bytes())
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    program = (
        "import sys; from training.pipeline.job import main; status = main([sys.argv[1]]);"
        "print([name for name in ('pandas', 'numba', 'duckdb', 'django') if name in sys.modules]);"
        "sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def champion_of(run: Run, **changes: str) -> dict[str, str]:
    digest = run.report["manifest_sha256"]
    champion = {"version": "1.0.0", "location": f"{run.folder}/bundle", "manifest_sha256": digest}
    return champion | changes


def test_the_champion_is_compared_on_the_same_rows(run, tmp_path):
    spec = json.loads((run.folder / "spec.json").read_bytes())
    same = {"dataset_fingerprint": spec["dataset_fingerprint"], "champion": champion_of(run)}
    options = {"trees": 1}
    folder = write_spec(tmp_path / "run", spec["dataset"], options=options, seed=1, **same)
    report = run_here(folder)
    found = report["metrics"]
    assert found["champion"] == {
        "version": "1.0.0",
        "split": {"test": 0.2},
        "same_dataset": True,
        "same_scores": False,
    }
    theirs = np.array(run.predictions["prediction"]) == np.array(run.predictions["label"])
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    assert table["row"] == run.predictions["row"]
    ours = np.array(table["prediction"]) == np.array(table["label"])
    assert found["baselines"]["champion"]["accuracy"] == pytest.approx(theirs.mean())
    difference = found["differences"]["champion"]["accuracy"]
    assert difference["difference"] == pytest.approx(ours.mean() - theirs.mean())
    # The same by drawing rows, as the bootstrap is written.
    random = np.random.default_rng(0)
    gaps = ours.astype(float) - theirs
    drawn = [gaps[random.integers(0, len(gaps), len(gaps))].mean() for _ in range(4_000)]
    assert difference["interval"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.004)


def test_a_version_that_is_the_champion_again_is_told_to_be_it(run, tmp_path):
    spec = json.loads((run.folder / "spec.json").read_bytes())
    folder = write_spec(
        tmp_path / "run", spec["dataset"], options=OPTIONS, champion=champion_of(run)
    )
    found = run_here(folder)["metrics"]
    assert found["champion"]["same_scores"] is True
    assert found["champion"]["same_dataset"] is False
    difference = found["differences"]["champion"]["accuracy"]
    low, high = difference["interval"]
    assert difference["difference"] == 0.0
    assert -0.01 < low == -high < 0


@pytest.mark.parametrize("rows", [50, 2_000])
@pytest.mark.parametrize("worse", [0, 1, 5, 20])
def test_a_version_is_better_where_an_exact_test_says_so_too(rows, worse):
    # McNemar's (with mid-p): of the rows that only one is right in, a coin decides which.
    for better in range(worse, min(rows - worse, 60)):
        ours, theirs = np.zeros(rows, bool), np.zeros(rows, bool)
        ours[:better], theirs[better : better + worse] = True, True
        low, _ = accuracy_difference(ours, theirs)["interval"]
        exact = binomtest(better, better + worse).pvalue if better else 1.0
        if low > 0:
            assert exact - binom.pmf(better, better + worse, 0.5) < 0.05
        else:
            assert exact > 0.03


def test_a_champion_that_can_not_be_compared_with_is_reported_and_stops_nothing(run, tmp_path):
    spec = json.loads((run.folder / "spec.json").read_bytes())
    other = CHURN.replace("maximum = 120", "maximum = 121")
    cases = {
        "another": (other, champion_of(run), "it reads other inputs, or tells other classes"),
        "gone": (CHURN, champion_of(run, location=f"{tmp_path}/gone"), "has no manifest"),
    }
    for name, (definition, champion, told) in cases.items():
        folder = write_spec(
            tmp_path / name, spec["dataset"], definition, options={"trees": 1}, champion=champion
        )
        report = run_here(folder)
        assert (report["status"], report["metrics"]["champion"]) == ("succeeded", None)
        assert told in report["champion_error"]
