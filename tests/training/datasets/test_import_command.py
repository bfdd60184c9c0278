"""`manage.py import_dataset`."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from django.core.management import CommandError, call_command

from tests.training.datasets.support import PAYSIM_HEADER, PAYSIM_ROWS, line, text
from training.models import Dataset
from training.pipeline.simulate import simulate

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _folder(settings, tmp_path):
    settings.DATA_DIR = str(tmp_path / "home")


def test_imports_what_the_simulator_writes(tmp_path, capsys):
    path = tmp_path / "demo.csv.gz"
    made = simulate(path, 20_000, seed=2)
    call_command("import_dataset", "demo", str(path))
    dataset = Dataset.objects.get(name="demo")
    assert (dataset.rows, dataset.frauds, dataset.rejected) == (20_000, made.frauds, 0)
    assert "20,000 transactions from 2026-01-01" in capsys.readouterr().out
    stored = Path(tmp_path / "home" / dataset.location / "data.parquet")
    with duckdb.connect() as connection:
        read = connection.execute(
            "SELECT count(*) FROM read_parquet(?) AS a JOIN read_csv(?) AS b "
            "USING (transaction_id) WHERE a.amount = round(b.amount * 10000)::BIGINT "
            "AND epoch_ms(a.created_at) = epoch_ms(b.created_at::TIMESTAMP) "
            "AND a.fraud_kind IS NOT DISTINCT FROM b.fraud_kind "
            "AND a.source_balance = b.source_balance",
            [str(stored), str(path)],
        ).fetchone()
    assert read == (20_000,)


def test_reports_what_was_left_out(tmp_path, capsys):
    path = tmp_path / "f.csv"
    path.write_bytes(text(line(1), line(2, amount="x"), "ragged"))
    call_command("import_dataset", "some", str(path), "--on-bad-rows", "skip")
    said = capsys.readouterr().out
    assert "2 rows were left out" in said
    assert "amount: not a finite number" in said
    assert "wrong number of fields" in said
    assert Path(next(word for word in said.split() if word.endswith("rejects.csv"))).exists()


def test_a_refusal_leaves_no_data_set(tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(text(line(1), line(2, amount="x")))
    with pytest.raises(CommandError, match=r"f\.csv, line 3: amount: not a finite number"):
        call_command("import_dataset", "some", str(path))
    assert not Dataset.objects.exists()
    assert list((tmp_path / "home").iterdir()) == []


def test_a_start_for_counted_hours(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(text(*PAYSIM_ROWS, header=PAYSIM_HEADER))
    call_command("import_dataset", "p", str(path), "--preset", "paysim", "--start", "2025-05-01")
    assert Dataset.objects.get().first_at == datetime(2025, 5, 1, tzinfo=UTC)
