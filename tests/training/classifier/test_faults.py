"""Data that a classifier can't be trained on, or only just."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.classifier.bundle import load_classifier
from engine.errors import InvalidDataset
from engine.store import LocalStore
from tests.training.classifier.support import (
    CHURN,
    INPUTS,
    churn,
    churn_rows,
    import_churn,
    run_here,
    run_program,
    write_spec,
)
from training.pipeline.classifier.forest import fit_forest
from training.pipeline.classifier.sizes import MEASURED, expected_mb, plan_fit_rows


def trained(tmp_path, columns: dict[str, list[Any]], **changes: Any) -> dict[str, Any]:
    """The report of a run on these rows, with few trees."""
    imported = import_churn(tmp_path, columns)
    changes = {"options": {"trees": 5}} | changes
    return run_here(write_spec(tmp_path / "run", imported.path, **changes))


def failure(tmp_path, columns: dict[str, list[Any]], **changes: Any) -> str:
    report = trained(tmp_path, columns, **changes)
    assert report["status"] == "failed", report
    assert not (tmp_path / "run" / "bundle" / "manifest.json").exists()
    assert not (tmp_path / "run" / "predictions.parquet").exists()
    return report["error"]


def without(columns: dict[str, list[Any]], label: str) -> dict[str, list[Any]]:
    kept = [at for at, each in enumerate(columns["outcome"]) if each != label]
    return {name: [values[at] for at in kept] for name, values in columns.items()}


def test_a_class_without_a_row_is_known_and_never_predicted(tmp_path):
    report = trained(tmp_path, without(churn_rows(600), "leaves"))
    assert report["status"] == "succeeded", report
    assert report["metrics"]["per_class"]["leaves"] == {
        "rows": 0,
        "precision": None,
        "recall": None,
        "f1": None,
    }
    assert report["data"]["parts"]["train"]["classes"]["leaves"] == 0
    bundle = load_classifier(LocalStore(tmp_path / "run"), "bundle", report["manifest_sha256"])
    row = churn().encode({"age": 80, "balance": 0, "active": True, "plan": "free"})
    assert bundle.probabilities(row.reshape(1, -1))[0, churn().labels.index("leaves")] == 0


def test_a_class_without_a_row_takes_no_memory_for_the_others():
    matrix = np.random.default_rng(0).random((20_000, 50), dtype=np.float32)
    labels = (matrix[:, 0] > 0.5).astype(np.int32)
    tracemalloc.start()
    model = fit_forest(matrix, labels[:-1], 3, trees=1, seed=0, progress=lambda _done, _told: None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.n_classes_ == 3
    assert peak < matrix.nbytes


def test_one_class_only_is_refused(tmp_path):
    columns = churn_rows(300)
    columns["outcome"] = ["stays"] * 300
    assert "Every row to train on is 'stays'" in failure(tmp_path, columns)


def test_an_input_that_is_always_the_same_matters_nothing(tmp_path):
    columns = churn_rows(400)
    columns["balance"] = [1.0] * 400
    report = trained(tmp_path, columns)
    drops = {entry["name"]: entry["drop"] for entry in report["importances"]}
    assert drops["balance"] == 0


def test_of_few_possible_inputs_the_figures_are_those_of_rows_to_come(tmp_path):
    # 80 different inputs, and the class that each mostly has: kept together, its rows would be in
    # one part, and those of the other classes in the other one.
    random = np.random.default_rng(0)
    age = random.integers(18, 98, 2_000)
    usual = np.where(age % 40 < 20, 0, 1)
    outcome = np.where(random.random(2_000) < 0.9, usual, 1 - usual)
    columns = {
        "age": age.tolist(),
        "balance": [1.0] * 2_000,
        "active": [True] * 2_000,
        "plan": ["free"] * 2_000,
        "outcome": [churn().labels[code] for code in outcome],
    }
    report = trained(tmp_path, columns)
    assert report["metrics"]["accuracy"] == pytest.approx(0.9, abs=0.06)
    different = len(set(zip(age.tolist(), outcome.tolist(), strict=True)))
    assert report["data"]["repeated_rows"] == 2_000 - different


def test_too_few_rows_are_refused(tmp_path):
    told = failure(tmp_path, churn_rows(30))
    assert "at least 50 and 10 are needed" in told


def test_a_sample_is_the_first_rows_and_not_deployable(tmp_path):
    report = trained(tmp_path, churn_rows(900), sample=400)
    assert (report["data"]["rows"], report["deployable"]) == (400, False)


def test_fit_rows_bounds_what_is_fitted_on_and_not_what_is_tested(tmp_path):
    options = {"trees": 3, "fit_rows": 1_000}
    report = trained(tmp_path, churn_rows(3_000), options=options)
    assert report["data"]["fit_rows"] == 1_000
    assert report["data"]["parts"]["train"]["rows"] > 2_000
    assert report["data"]["parts"]["test"]["rows"] == report["metrics"]["rows"] > 500


def test_the_best_possible_is_the_mean_over_the_test_rows(tmp_path):
    columns = churn_rows(500)
    columns["chance"] = [0.5 + (age % 5) / 10 for age in columns["age"]]
    definition = CHURN.replace(
        "[inputs.age]", '[training]\nbest_possible = "chance"\n\n[inputs.age]'
    )
    table = {name: columns[name] for name in (*INPUTS, "outcome", "chance")}
    pq.write_table(pa.table(table), tmp_path / "data.parquet")
    folder = write_spec(tmp_path / "run", f"{tmp_path}/data.parquet", definition)
    report = run_here(folder)
    rows = pq.read_table(folder / "predictions.parquet")["row"].to_pylist()
    wanted = sum(columns["chance"][row] for row in rows) / len(rows)
    assert report["metrics"]["best_possible_accuracy"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"age": None}, "it has no column age"),
        ({"age": [40.0] * 99 + [None]}, "age is of type double and not int64"),
        ({"balance": [1.0] * 99 + [None]}, "balance is missing in 1 rows"),
        ({"balance": [1.0] * 99 + [float("nan")]}, "balance is nan in a row, not a number"),
        ({"age": [40] * 99 + [17]}, "age is 17 in a row, not a whole number"),
        ({"plan": ["free"] * 99 + ["gold"]}, "plan is 'gold' in some rows"),
        ({"outcome": ["stays"] * 99 + ["gone"]}, "outcome is 'gone' in some rows"),
    ],
    ids=["missing", "type", "null", "nan", "range", "category", "class"],
)
def test_a_data_set_of_another_definition_is_refused(tmp_path, change, told):
    columns = {k: v for k, v in (churn_rows(100) | change).items() if v is not None}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    report = run_here(write_spec(tmp_path / "run", f"{tmp_path}/data.parquet"))
    assert (report["status"], report["stage"]) == ("failed", "load")
    assert f"does not fit the definition of churn: {told}" in report["error"]
    assert "import the file again" in report["error"]


def test_a_data_set_that_is_gone_or_damaged_is_named(tmp_path):
    report = run_here(write_spec(tmp_path / "gone", f"{tmp_path}/data.parquet"))
    assert "The data set is not there" in report["error"]
    (tmp_path / "data.parquet").write_bytes(b"PAR1 and no more")
    report = run_here(write_spec(tmp_path / "damaged", f"{tmp_path}/data.parquet"))
    assert "The data set can't be read" in report["error"]


def wide_rows(tmp_path, rows: int) -> tuple[str, str]:
    """A data set, and its definition, with a category of 200 values."""
    values = [f"v{number}" for number in range(200)]
    definition = (
        'name = "wide"\ntarget = "outcome"\n\n'
        f'[inputs.kind]\ntype = "category"\nvalues = {json.dumps(values)}\n\n'
        '[inputs.size]\ntype = "number"\nminimum = 0\nmaximum = 1e9\n\n'
        "[classes.yes]\n\n[classes.no]\n"
    )
    columns = {
        "kind": (values * (rows // 200 + 1))[:rows],
        "size": [float(row) for row in range(rows)],
        "outcome": ["yes", "no", "no"] * (rows // 3) + ["yes"] * (rows % 3),
    }
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    return f"{tmp_path}/data.parquet", definition


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        # 80 MB of rows beside the program's 190: as much again to fit on is too much.
        (100_000, "Training on 100,000 rows of 201 columns needs about"),
        # 480 MB of rows.
        (600_000, "more than its --memory-limit of 300 MB"),
    ],
    ids=["planned", "stopped"],
)
def test_a_run_keeps_to_its_memory_limit_or_says_what_it_needs(tmp_path, rows, told):
    dataset, definition = wide_rows(tmp_path, rows)
    options = {"trees": 2, "memory_limit_mb": 300}
    report = run_program(write_spec(tmp_path / "run", dataset, definition, options=options))
    assert told in report["error"]
    assert report["stage"] in ("load", "split")
    assert not (tmp_path / "run" / "bundle").exists()


def test_a_run_with_a_memory_limit_fits_on_fewer_rows():
    size = {"rows": 1_000_000, "tested": 200_000, "columns": 16, "classes": 12, "trees": 100}
    planned = [plan_fit_rows(800_000, **size, limit_mb=limit) for limit in (520, 600, 4_000)]
    assert 1_000 < planned[0] < planned[1] < planned[2] == 800_000
    with pytest.raises(InvalidDataset, match=r"needs about \d+ MB of memory, and --memory-limit"):
        plan_fit_rows(800_000, **size, limit_mb=300)


@pytest.mark.parametrize(("rows", "_seconds", "peak_mb"), MEASURED)
def test_the_memory_that_is_expected_is_about_what_was_measured(rows, _seconds, peak_mb):
    assert expected_mb(rows, columns=16, classes=12, trees=100) == pytest.approx(peak_mb, rel=0.12)
