"""From files to a classifier's data set: every row is in it or named."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidDataset, InvalidRequest
from tests.training.classifier.support import (
    INPUTS,
    PLANS,
    churn,
    churn_rows,
    import_churn,
    write_csv,
)
from training.pipeline.classifier.datasets import import_rows


def one_row(**changes: object) -> dict[str, list[object]]:
    row = {"age": 40, "balance": 1.5, "active": True, "plan": "paid", "outcome": "stays"}
    return {name: [value] for name, value in (row | changes).items()}


def test_a_data_set_has_the_columns_of_the_definition_in_its_order(tmp_path):
    columns = churn_rows(500)
    shuffled = {name: columns[name] for name in ("outcome", "plan", "age", "active", "balance")}
    result = import_churn(tmp_path, {"customer": range(500), **shuffled})
    table = pq.read_table(tmp_path / "data" / "data.parquet")
    assert table.column_names == [*INPUTS, "outcome"]
    assert table.to_pydict() == columns
    assert (result.rows, result.rejected, result.ignored_columns) == (500, 0, ("customer",))
    assert result.class_counts == {
        label: columns["outcome"].count(label) for label in churn().labels
    }
    assert json.loads((tmp_path / "data" / "summary.json").read_bytes())["rows"] == 500


def test_a_csv_and_a_parquet_file_of_the_same_rows_have_the_same_fingerprint(tmp_path):
    columns = churn_rows(300)
    first = import_churn(tmp_path, columns)
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    second = import_rows(churn(), [tmp_path / "rows.parquet"], tmp_path / "again")
    halves = []
    for at in (0, 150):
        half = {name: values[at : at + 150] for name, values in columns.items()}
        halves.append(write_csv(tmp_path / f"{at}.csv", half))
    third = import_rows(churn(), halves, tmp_path / "halves")
    assert first.fingerprint == second.fingerprint == third.fingerprint
    columns["age"][0] += 1
    other = import_rows(churn(), [write_csv(tmp_path / "b.csv", columns)], tmp_path / "other")
    assert other.fingerprint != first.fingerprint


def test_bad_rows_are_counted_and_the_first_are_named_with_line_and_column(tmp_path):
    columns = churn_rows(40)
    columns["age"][3] = 17
    columns["active"][5] = "perhaps"
    columns["plan"][5] = "Paid"
    columns["outcome"][7] = "gone"
    columns["outcome"][8] = "gone"
    columns["age"][9] = ""
    columns["balance"][11] = float("inf")
    with pytest.raises(InvalidDataset) as refusal:
        import_churn(tmp_path, columns)
    told = refusal.value.detail
    assert "6 bad rows, so nothing was imported" in told
    for line in (
        'rows.csv, line 5: age: not a whole number from 18 to 120, found "17"',
        "rows.csv, line 7: active: not true or false",
        'plan: not one of free, paid, it\'s "{big}", or so, found "Paid"',
        'rows.csv, line 9: outcome: not one of the 3 classes, found "gone"',
        "rows.csv, line 11: age: missing",
        'rows.csv, line 13: balance: not a number from -1000 to 1000000, found "inf"',
        "Classes that the definition does not have: gone (2)",
    ):
        assert line in told
    assert not (tmp_path / "data").exists()
    assert [*tmp_path.iterdir()] == [tmp_path / "rows.csv"]

    result = import_churn(tmp_path, columns, on_bad_rows="skip")
    assert (result.rows, result.rejected, result.unknown_classes) == (34, 6, {"gone": 2})
    with (tmp_path / "data" / "rejects.csv").open(newline="") as file:
        assert [row["line"] for row in csv.DictReader(file)] == ["5", "7", "9", "10", "11", "13"]


def test_missing_columns_are_named_at_once(tmp_path):
    columns = churn_rows(5)
    del columns["age"], columns["outcome"]
    with pytest.raises(InvalidDataset, match=r"columns missing: age, outcome\. Found: balance"):
        import_churn(tmp_path, columns)


def test_only_bad_rows_and_no_rows_import_nothing(tmp_path):
    with pytest.raises(InvalidDataset, match="nothing to import: all 1 rows are bad"):
        import_churn(tmp_path, one_row(age="old"), on_bad_rows="skip")
    with pytest.raises(InvalidDataset, match="nothing to import: no rows"):
        import_churn(tmp_path, {name: [] for name in one_row()})


@settings(max_examples=25, deadline=None)
@given(
    age=st.integers(10, 130) | st.sampled_from(["", "forty", "4_0", "40.0", "40.5", "nan", "-0"]),
    balance=st.floats(-2e3, 2e6) | st.sampled_from(["", "NaN", "1e3", "inf"]),
    active=st.sampled_from([True, False]),
    plan=st.sampled_from([*PLANS, "", "FREE", " paid"]),
)
def test_a_row_is_good_exactly_when_a_request_is_and_means_the_same(
    tmp_path_factory, age, balance, active, plan
):
    folder: Path = tmp_path_factory.mktemp("one")
    row = one_row(age=age, balance=balance, active=active, plan=plan)
    request = {
        "age": _number(age),
        "balance": _number(balance),
        "active": active,
        "plan": plan or None,
    }
    try:
        wanted = churn().complete(request)
    except InvalidRequest:
        with pytest.raises(InvalidDataset):
            import_rows(churn(), [write_csv(folder / "b.csv", row)], folder / "b")
        return
    import_rows(churn(), [write_csv(folder / "b.csv", row)], folder / "b")
    (found,) = pq.read_table(folder / "b" / "data.parquet").select(INPUTS).to_pylist()
    assert found == wanted


def _number(value: object) -> object:
    """What a request would have for a text of a file."""
    if value in ("", "nan", "NaN"):
        return None
    if isinstance(value, str):
        try:
            return float(value) if "_" not in value else value
        except ValueError:
            return value
    return value
