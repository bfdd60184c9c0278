"""The pipeline from a data set to a bundle, through its program and its run folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.features.catalogue import LABEL_DELAY
from engine.features.replay import NEVER, replay, visible_at_once
from engine.fraud_bundle import load_bundle
from engine.store import LocalStore
from tests.training.pipeline_support import (
    QUICK,
    failure,
    make_columns,
    run_here,
    write_dataset,
    write_spec,
)
from training.pipeline.table import read_transactions

ROWS = 20_000
ROOT = Path(__file__).resolve().parents[2]


class Finished(NamedTuple):
    folder: Path
    report: dict[str, Any]
    dataset: Path

    def predictions(self) -> dict[str, np.ndarray]:
        table = pq.read_table(self.folder / "predictions.parquet")
        return {name: table.column(name).to_numpy() for name in table.column_names}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), make_columns(ROWS))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, dataset) -> Finished:
    """One run by the program itself, in its own process."""
    folder = write_spec(tmp_path_factory.mktemp("runs") / "run-1", dataset)
    command = [sys.executable, "-m", "training.pipeline.job", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, timeout=180, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return Finished(folder, json.loads((folder / "report.json").read_text()), dataset)


def test_a_run_leaves_everything_its_folder_promises(finished):
    names = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*.*")}
    bundle = "manifest.json supervised.treelite unsupervised.treelite supervised_model.joblib "
    bundle += "unsupervised_model.joblib feature_schema.json thresholds.json baseline.json"
    assert names >= {f"bundle/{name}" for name in bundle.split()}
    assert names >= {"claim.json", "progress.json", "predictions.parquet", "log/000001.txt"}
    progress = json.loads((finished.folder / "progress.json").read_text())
    assert (progress["stage"], progress["fraction"], progress["rows"]) == ("done", 1.0, ROWS)
    log = "".join(path.read_text() for path in sorted((finished.folder / "log").iterdir()))
    for stage in finished.report["timings"]:
        assert f"{stage}: done" in log


def test_the_report_counts_the_parts_and_the_gap_between_them(finished):
    data = finished.report["data"]
    parts = data["parts"]
    times = pq.read_table(finished.dataset).column("created_at").to_numpy()
    assert data["rows"] == ROWS
    assert data["label_delay"] == "7d"
    assert data["cut_off"] == parts["test"]["first_at"]
    cut_off = times[ROWS - parts["test"]["rows"]]
    known = int((times < cut_off - np.timedelta64(7, "D")).sum())
    assert parts["train"]["rows"] + parts["validation"]["rows"] == known
    assert parts["test"]["rows"] == pytest.approx(0.15 * ROWS, rel=0.01)
    assert parts["train"]["rows"] == pytest.approx(0.7 / 0.85 * known, rel=0.01)
    assert parts["train"]["last_at"] <= parts["validation"]["first_at"]
    assert finished.report["deployable"] is True
    assert finished.report["peak_memory_mb"] > 50


def test_metrics_are_those_of_the_predictions(finished):
    from sklearn.metrics import average_precision_score, roc_auc_score

    predictions, metrics = finished.predictions(), finished.report["metrics"]
    label, risk = predictions["label"], predictions["risk_score"]
    assert metrics["pr_auc"] == pytest.approx(average_precision_score(label, risk))
    assert metrics["supervised"]["roc_auc"] == pytest.approx(
        roc_auc_score(label, predictions["supervised_score"])
    )
    for name in ("block", "review"):
        selected = risk >= finished.report["thresholds"][name]
        assert metrics[name]["alerts"] == selected.sum() > 0
        assert metrics[name]["precision"] == pytest.approx(label[selected].mean())
        assert metrics[name]["recall"] == pytest.approx(label[selected].sum() / label.sum())
    assert metrics["fraud_rate"] == pytest.approx(label.mean())
    assert metrics["supervised"]["pr_auc"] > 20 * metrics["fraud_rate"]


def test_thresholds_keep_to_their_budgets_on_validation(finished):
    thresholds = finished.report["thresholds"]
    assert 0 < thresholds["review"] < thresholds["block"] <= 1
    assert 0 < thresholds["blocked"] <= 0.001 * thresholds["rows"]
    alerts = thresholds["blocked"] + thresholds["reviewed"]
    assert 0.008 * thresholds["rows"] < alerts <= 0.01 * thresholds["rows"]


def test_the_bundle_loads_and_reproduces_the_predictions(finished):
    store = LocalStore(finished.folder)
    bundle = load_bundle(store, "bundle", finished.report["manifest_sha256"])
    data = read_transactions(str(finished.dataset))
    known_from = np.searchsorted(data.created_at, data.created_at + LABEL_DELAY, side="right")
    history = replay(
        data.created_at,
        data.amount,
        data.source,
        data.destination,
        data.country_codes,
        failed_visible_from=visible_at_once(data.failed),
        fraud_visible_from=np.where(data.is_fraud, known_from, NEVER),
    )
    predictions = finished.predictions()
    first = len(data) - len(predictions["label"])
    rows = slice(first, None)
    matrix = bundle.schema.assemble(
        amount=data.amount[rows],
        created_at=data.created_at[rows],
        currency=data.text["currency"].values(rows),
        direction=data.text["direction"].values(rows),
        transaction_type=data.text["transaction_type"].values(rows),
        country=data.country_codes[rows],
        source_balance=data.numbers["source_balance"][rows],
        history=history[rows],
    )
    supervised = bundle.supervised.predict(matrix)
    unsupervised = bundle.unsupervised.predict(matrix)
    assert np.abs(supervised - predictions["supervised_score"]).max() < 1e-6
    assert np.abs(unsupervised - predictions["unsupervised_score"]).max() < 1e-6
    # Without a boost the risk is the weighted sum: no row can be below it.
    assert (
        predictions["risk_score"] >= bundle.policy.risk(0, supervised, unsupervised) - 1e-6
    ).all()
    assert bundle.policy.block == finished.report["thresholds"]["block"]


def test_the_estimators_load_and_hold_nothing_of_the_job(finished):
    estimator = joblib.load(finished.folder / "bundle" / "supervised_model.joblib")
    assert estimator.get_params()["scoring"] == "average_precision"
    assert estimator.n_iter_ == 1 + int(np.argmax(finished.report["learning_curve"][1:]))
    forest = joblib.load(finished.folder / "bundle" / "unsupervised_model.joblib")
    assert len(forest.estimators_) == 20


def test_the_baseline_describes_the_training_part(finished):
    baseline = json.loads((finished.folder / "bundle" / "baseline.json").read_text())
    amount = pq.read_table(finished.dataset).column("amount").to_numpy() / 10_000
    train = amount[: finished.report["data"]["parts"]["train"]["rows"]]
    assert baseline["features"]["amount"]["percentiles"][50] == pytest.approx(np.median(train))
    assert 0.05 < baseline["features"]["source_balance"]["missing"] < 0.15
    assert len(baseline["scores"]["risk_score"]["percentiles"]) == 101


def same_served_files(ours: Path, theirs: Path) -> bool:
    """Whether two run folders hold the same version, but for the bytes of the pickles."""
    names = [path.name for path in (ours / "bundle").iterdir()]
    served = [name for name in names if not name.endswith(".joblib") and name != "manifest.json"]
    assert len(served) == 5
    return all(
        (ours / "bundle" / name).read_bytes() == (theirs / "bundle" / name).read_bytes()
        for name in served
    )


def test_the_same_run_again_gives_the_same_version(finished, tmp_path):
    again = run_here(write_spec(tmp_path / "again", finished.dataset))
    assert again["metrics"] == finished.report["metrics"]
    assert again["learning_curve"] == finished.report["learning_curve"]
    assert same_served_files(tmp_path / "again", finished.folder)


def test_another_seed_gives_another_forest(finished, tmp_path):
    other = run_here(write_spec(tmp_path / "other", finished.dataset, seed=1))
    assert not same_served_files(tmp_path / "other", finished.folder)
    assert other["metrics"]["unsupervised"] != finished.report["metrics"]["unsupervised"]


def what_was_fitted(folder: Path) -> dict[str, Any]:
    """All of a bundle that was fitted or tuned: the models' files, the policy, the scale."""
    bundle = folder / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    kept = ("feature_schema", "policy", "anomaly")
    files = ("supervised.treelite", "unsupervised.treelite", "thresholds.json", "baseline.json")
    return {name: manifest[name] for name in kept} | {
        name: (bundle / name).read_bytes() for name in files
    }


def test_what_happens_after_validation_can_not_change_the_version(finished, tmp_path):
    """Labels, amounts and payees of the gap and the test part: none may reach a model."""
    columns = make_columns(ROWS)
    parts = finished.report["data"]["parts"]
    first = parts["train"]["rows"] + parts["validation"]["rows"]
    rng = np.random.default_rng(1)
    for name in ("is_fraud", "amount", "country"):
        columns[name][first:] = rng.permutation(columns[name][first:])
    columns["destination_wallet_id"][first:] = ["elsewhere"] * (ROWS - first)
    changed = run_here(write_spec(tmp_path / "run", write_dataset(tmp_path / "data", columns)))
    assert changed["thresholds"] == finished.report["thresholds"]
    assert changed["metrics"] != finished.report["metrics"]
    assert what_was_fitted(tmp_path / "run") == what_was_fitted(finished.folder)


def learns_only_what_was_known(tmp_path: Path, columns: dict[str, Any], cut_off: str) -> None:
    """Train twice, the second time with every label turned round that was known after the cut-off,
    and expect the same version; a third time with one that was known must give another."""
    frozen = np.datetime64(cut_off)
    delay = np.timedelta64(7, "D")
    created_at = np.asarray(columns["created_at"]).astype("datetime64[us]")
    known_at = columns.get("label_known_at", created_at + delay)
    late = known_at > frozen
    assert 0.1 < late.mean() < 0.9
    options = {"hyperparameters": QUICK, "cut_off": f"{cut_off}Z"}

    def train(name: str, labels: np.ndarray) -> dict[str, Any]:
        dataset = write_dataset(tmp_path / name, columns | {"is_fraud": labels})
        report = run_here(write_spec(tmp_path / f"run-{name}", dataset, options=options))
        assert report["status"] == "succeeded", report["error"]
        return what_was_fitted(tmp_path / f"run-{name}")

    labels = columns["is_fraud"]
    known = train("first", labels)
    assert train("later-labels-flipped", np.where(late, ~labels, labels)) == known
    used = np.flatnonzero(labels & ~late & (created_at + delay <= frozen))
    one_less = labels.copy()
    one_less[used[: len(used) // 2]] = False
    assert train("known-labels-changed", one_less) != known


def test_no_label_known_after_the_cut_off_changes_a_byte_of_what_is_fitted(tmp_path):
    learns_only_what_was_known(tmp_path, make_columns(ROWS), "2026-02-15T00:00:00")


def test_no_label_known_late_changes_a_byte_when_the_data_set_says_when(tmp_path):
    """Here labels arrive after 0 to 30 days: in the middle of train some are not known in time."""
    columns = make_columns(ROWS)
    created_at = np.asarray(columns["created_at"]).astype("datetime64[us]")
    waited = np.random.default_rng(4).integers(0, 30 * 86_400, ROWS).astype("timedelta64[s]")
    columns["label_known_at"] = created_at + waited
    learns_only_what_was_known(tmp_path, columns, "2026-02-10T00:00:00")


def test_a_column_known_only_afterwards_can_not_enter(finished, tmp_path):
    columns = make_columns(ROWS)
    columns["newbalanceOrig"] = columns["is_fraud"].astype(float)
    columns["fraud_kind"] = np.where(columns["is_fraud"], "mule", None)
    run_here(write_spec(tmp_path / "run", write_dataset(tmp_path / "data", columns)))
    assert same_served_files(tmp_path / "run", finished.folder)


def test_shuffled_labels_can_not_be_learnt(tmp_path):
    columns = make_columns(ROWS)
    columns["is_fraud"] = np.random.default_rng(2).permutation(columns["is_fraud"])
    dataset = write_dataset(tmp_path / "data", columns)
    metrics = run_here(write_spec(tmp_path / "run", dataset))["metrics"]
    assert metrics["supervised"]["pr_auc"] < 3 * metrics["fraud_rate"]
    assert 0.35 < metrics["supervised"]["roc_auc"] < 0.65


@pytest.fixture(scope="module")
def chosen(tmp_path_factory, finished) -> Finished:
    """A run with costs, attributes, periods, fewer rows to fit on, a search, and the first run's
    version as champion; a tenth of the data set's labels says when it was known."""
    columns = make_columns(ROWS)
    rng = np.random.default_rng(6)
    created_at = np.asarray(columns["created_at"]).astype("datetime64[us]")
    known_at = created_at + rng.integers(0, 10 * 86_400, ROWS).astype("timedelta64[s]")
    columns["label_known_at"] = pa.array(known_at, mask=rng.random(ROWS) < 0.9)
    columns["attribute_device_age"] = rng.exponential(100, ROWS)
    columns["attribute_trusted"] = pa.array(rng.random(ROWS) < 0.5, mask=rng.random(ROWS) < 0.1)
    columns["attribute_channel"] = np.array(["web", "app", None], object)[rng.integers(0, 3, ROWS)]
    options = {
        "hyperparameters": {**QUICK, "supervised": {"max_iter": 15}},
        "without": ["balances"],
        "label_delay_us": 3 * 86_400_000_000,
        "cut_off": "2026-02-16T00:00:00Z",
        "periods": {
            "train_from": "2026-01-05T00:00:00Z",
            "train_until": "2026-02-01T00:00:00Z",
            "validate_until": "2026-02-13T00:00:00Z",
            "test_until": "2026-02-27T00:00:00Z",
        },
        "costs": {"review": 2.0, "block_legitimate": 30.0},
        "search": {"configurations": 2, "minutes": 10},
        "fit_rows": 2_000,
    }
    champion = {
        "version": "1.0.0",
        "location": str(finished.folder / "bundle"),
        "manifest_sha256": finished.report["manifest_sha256"],
    }
    dataset = write_dataset(tmp_path_factory.mktemp("data"), columns)
    folder = tmp_path_factory.mktemp("runs") / "run-2"
    report = run_here(write_spec(folder, dataset, options=options, champion=champion))
    assert report["status"] == "succeeded", report.get("traceback")
    return Finished(folder, report, dataset)


def test_options_decide_what_is_trained_on(chosen):
    data = chosen.report["data"]
    parts = {
        name: (part["first_at"][:10], part["last_at"][:10]) for name, part in data["parts"].items()
    }
    assert parts == {
        "train": ("2026-01-05", "2026-01-31"),
        "validation": ("2026-02-01", "2026-02-12"),
        "test": ("2026-02-16", "2026-02-26"),
    }
    sampling = chosen.report["sampling"]
    assert sampling["fit_rows"] == 2_000 + data["parts"]["train"]["frauds"]
    legitimate = data["parts"]["train"]["rows"] - data["parts"]["train"]["frauds"]
    assert sampling["fit_rate"] == pytest.approx(2_000 / legitimate)
    bundle = load_bundle(LocalStore(chosen.folder), "bundle", chosen.report["manifest_sha256"])
    assert bundle.label_delay == 3 * 86_400_000_000
    names = set(bundle.schema.names)
    assert names >= {"attribute_device_age", "attribute_trusted", "attribute_channel_is_web"}
    assert not names & {"source_balance", "amount_to_balance"}
    search = chosen.report["search"]
    assert [trial["number"] for trial in search["trials"]] == [0, 1]


def test_costs_set_the_thresholds_and_the_saving_is_reported(chosen):
    policy, thresholds = chosen.report["policy"], chosen.report["thresholds"]
    assert policy["calibrated"]
    assert policy["saving_per_1000"] > 0
    assert 0 < thresholds["review"] <= thresholds["block"] <= 1
    assert chosen.report["metrics"]["costs"] == {"review": 2.0, "block_legitimate": 30.0}


def test_it_is_judged_beside_a_logistic_regression_and_the_champion(chosen):
    metrics = chosen.report["metrics"]
    assert chosen.report["champion_error"] is None
    assert metrics["champion"]["version"] == "1.0.0"
    assert metrics["champion"]["fitted_until"] < "2026-02-14"
    assert {"rules", "logistic", "champion"} <= metrics["differences"].keys()
    names = {each["name"] for each in chosen.report["importances"]}
    assert {"amount", "attribute_channel", "transaction_type"} <= names


def test_each_stage_tells_its_time_and_its_peak(chosen):
    assert chosen.report["timings"].keys() == chosen.report["peaks_mb"].keys()
    assert max(chosen.report["peaks_mb"].values()) <= chosen.report["peak_memory_mb"]
    assert min(chosen.report["peaks_mb"].values()) > 50


def test_a_champion_that_can_not_be_loaded_is_told_and_not_fatal(finished, tmp_path):
    champion = {"version": "0.9.0", "location": str(tmp_path / "gone"), "manifest_sha256": "0" * 64}
    options = {"hyperparameters": {**QUICK, "supervised": {"max_iter": 5}}}
    folder = write_spec(tmp_path / "run", finished.dataset, options=options, champion=champion)
    report = run_here(folder)
    assert report["status"] == "succeeded"
    assert "v0.9.0 can't be compared with" in report["champion_error"]
    assert "champion" not in report["metrics"]["differences"]


def test_a_sample_is_the_most_recent_rows_and_not_deployable(finished, tmp_path):
    report = run_here(write_spec(tmp_path / "run", finished.dataset, sample=9_000))
    assert report["deployable"] is False
    assert report["data"]["rows"] == 9_000
    assert report["data"]["last_at"] == finished.report["data"]["last_at"]
    ids = pq.read_table(tmp_path / "run" / "predictions.parquet").column("transaction_id")
    assert ids[-1].as_py() == f"t{ROWS - 1}"


def test_a_data_set_with_required_columns_only_trains(tmp_path):
    columns = make_columns(6_000, fraud_rate=0.03)
    for name in ("direction", "country", "status", "source_balance", "source_wallet_status"):
        del columns[name]
    del columns["account_age_minutes"]
    report = run_here(
        write_spec(tmp_path / "run", write_dataset(tmp_path / "data", columns), rules="")
    )
    assert report["status"] == "succeeded", report
    assert report["metrics"]["rules"]["alerts"] == 0
    baseline = json.loads((tmp_path / "run" / "bundle" / "baseline.json").read_text())
    assert baseline["features"]["source_balance"]["missing"] == 1.0


def test_no_fraud_at_all_is_refused_by_name(tmp_path):
    report = failure(tmp_path, make_columns(3_000, fraud_rate=0.0))
    assert report["stage"] == "split"
    assert "no fraud: none of its 3,000 rows" in report["error"]


def test_an_empty_data_set_is_refused(tmp_path):
    columns = {name: values[:0] for name, values in make_columns(300).items()}
    assert failure(tmp_path, columns)["error"] == "The data set has no rows."


def test_too_few_rows_are_refused_with_both_numbers(tmp_path):
    report = failure(tmp_path, make_columns(120, fraud_rate=0.2))
    assert "too small: 120 rows" in report["error"]
    assert "500 train rows" in report["error"]


@pytest.mark.parametrize(
    ("part", "rows", "needed"), [("train", slice(0, 1_820), 20), ("test", slice(2_540, 3_000), 5)]
)
@pytest.mark.parametrize(("label", "what"), [(False, "frauds"), (True, "legitimate rows")])
def test_a_part_with_one_class_is_named_with_counts(tmp_path, part, rows, needed, label, what):
    columns = make_columns(3_000, fraud_rate=0.1)
    columns["is_fraud"][rows] = label
    report = failure(tmp_path, columns)
    assert report["stage"] == "split"
    assert f"the {part} part (2026-" in report["error"]
    assert f"has 0 {what} of the {needed} needed" in report["error"]
    assert report["error"].count("part (") == 1


def test_one_timestamp_for_all_rows_is_refused(tmp_path):
    columns = make_columns(3_000, fraud_rate=0.1)
    columns["created_at"] = [columns["created_at"][0].as_py()] * 3_000
    assert "3 distinct times" in failure(tmp_path, columns)["error"]


def test_a_missing_column_is_named(tmp_path):
    columns = make_columns(3_000)
    del columns["destination_wallet_id"]
    report = failure(tmp_path, columns)
    assert (report["stage"], "destination_wallet_id" in report["error"]) == ("load", True)


def test_missing_values_of_a_required_column_are_counted(tmp_path):
    columns = make_columns(3_000)
    columns["currency"] = [None, None, *["PYC"] * 2_998]
    assert "2 rows of the data set have no currency" in failure(tmp_path, columns)["error"]


def test_a_missing_data_set_is_named(tmp_path):
    report = run_here(write_spec(tmp_path / "run", tmp_path / "nowhere.parquet"))
    assert (report["stage"], "nowhere.parquet" in report["error"]) == ("load", True)


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    (tmp_path / "data.parquet").write_bytes(b"amount,currency\n1,EUR\n")
    report = run_here(write_spec(tmp_path / "run", tmp_path / "data.parquet"))
    assert "can't be read" in report["error"]


def test_the_log_tells_the_parts_before_anything_is_fitted(tmp_path):
    columns = make_columns(3_000, fraud_rate=0.05)
    columns["label_known_at"] = columns["created_at"]
    options = {
        "hyperparameters": {"supervised": {"depth": 3}},
        "periods": {
            "train_until": "2026-02-01T00:00:00Z",
            "validate_until": "2026-02-14T00:00:00Z",
        },
    }
    failure(tmp_path, columns, options=options)
    log = "".join(path.read_text() for path in sorted((tmp_path / "run" / "log").iterdir()))
    (told,) = [line for line in log.splitlines() if "split: train" in line]
    # A label delay (7 days) before the end that was asked for.
    assert re.search(r"train 2026-01-01T\S+ to 2026-01-31T\S+ \([\d,]+ rows\)", told)
    assert re.search(r"validation 2026-02-01T\S+ to 2026-02-06T\S+ \(", told)
    assert re.search(r"test 2026-02-21T\S+ to 2026-03-01T\S+ \(", told)
    assert told.endswith("labels known until 2026-02-14T00:00:00Z count")


def test_a_broken_rule_set_is_refused_with_the_rule(finished, tmp_path):
    rules = '[[rule]]\nid = "R1"\nreason = "A"\ninputs = ["amount"]\n'
    rules += 'branch = [{ when = "amount > \'x\'", then = "BLOCK" }]'
    report = run_here(write_spec(tmp_path / "run", finished.dataset, rules=rules))
    assert (report["status"], report["stage"]) == ("failed", "load")
    assert "R1" in report["error"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hyperparameters": {"supervised": {"depth": 3}}}, "unknown depth"),
        ({"hyperparameters": {"supervised": {"max_iter": 301}}}, "at most 300"),
        ({"budgets": {"block": 0.02, "review": 0.01}}, "budgets: 0 < block < review < 1"),
        ({"budgets": {"blocked": 0.02}}, "unknown field `blocked`"),
        ({"split": [0.8, 0.2, 0.2]}, "split: three positive shares"),
        ({"label_delay_us": -1}, "label_delay_us"),
        ({"without": ["rules"]}, "without"),
        ({"without": ["labels", "labels"]}, "without: a group is named twice"),
        ({"costs": {"review": 0.0, "block_legitimate": 1.0}}, "costs.review"),
        ({"search": {"configurations": 1}}, "search.configurations"),
        (
            {"periods": {"train_until": "2026-03-01T00:00:00Z", "validate_until": "2026-02-01"}},
            "periods.validate_until",
        ),
        (
            {
                "periods": {
                    "train_until": "2026-03-01T00:00:00Z",
                    "validate_until": "2026-02-01T00:00:00Z",
                }
            },
            "train_from < train_until < validate_until < test_until",
        ),
        ({"fit_rows": 10}, "fit_rows"),
    ],
)
def test_faulty_options_are_refused_naming_the_field(finished, tmp_path, changes, named):
    report = run_here(write_spec(tmp_path / "run", finished.dataset, options=changes))
    assert (report["status"], named in report["error"]) == ("failed", True), report["error"]


@pytest.mark.parametrize(
    ("changes", "named"), [({"sample": 0}, "$.sample"), ({"seed": "one"}, "$.seed")]
)
def test_a_faulty_spec_is_refused_naming_the_field(finished, tmp_path, changes, named):
    report = run_here(write_spec(tmp_path / "run", finished.dataset, **changes))
    assert (report["status"], named in report["error"]) == ("failed", True), report["error"]
