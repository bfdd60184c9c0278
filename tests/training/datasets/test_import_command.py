"""`manage.py import_dataset`."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from django.core.management import CommandError, call_command

from tests.training.datasets.support import PAYSIM_HEADER, PAYSIM_ROWS, line, text
from training.management.commands.import_dataset import Command
from training.models import Dataset
from training.pipeline.presets import load_preset
from training.pipeline.simulate import simulate

POSITIVE = 'is_fraud = { column = "is_fraud", positive = ["stolen"] }'
CARD = Path(__file__).parents[1] / "data" / "card.toml"
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


def test_tells_which_labels_it_took_for_false(tmp_path, capsys):
    path = tmp_path / "f.csv"
    path.write_bytes(text(line(1, is_fraud="stolen"), line(2, is_fraud="fine")))
    mapping = tmp_path / "m.toml"
    columns = load_preset("canonical").text
    mapping.write_text(columns.replace('is_fraud = { column = "is_fraud" }', POSITIVE))
    call_command("import_dataset", "some", str(path), "--mapping", str(mapping))
    said = capsys.readouterr().out
    assert "is_fraud: taken for false, not being in positive: “fine” (1)." in said


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


def test_a_mapping_of_ones_own(tmp_path, capsys):
    path = tmp_path / "cards.csv"
    path.write_text(
        "trans_num,trans_date_trans_time,cc_num,merchant,category,amt,is_fraud,age\n"
        "a,2026-01-01 10:00:00,4000,shop,food,12.5,0,40\n"
    )
    mapping = tmp_path / "card.toml"
    mapping.write_text(
        CARD.read_text() + '[attributes]\nage = { column = "age", kind = "number" }\n'
    )
    call_command("import_dataset", "cards", str(path), "--mapping", str(mapping))
    dataset = Dataset.objects.get()
    assert (dataset.preset, dataset.rows) == ("mapping file", 1)
    assert dataset.summary["mapping"] == mapping.read_text()
    assert dataset.summary["label_delay"] == "7d"
    assert dataset.summary["attributes"] == {"age": "number"}
    assert "Attributes: age." in capsys.readouterr().out


def test_a_faulty_mapping_imports_nothing(tmp_path):
    path = tmp_path / "cards.csv"
    path.write_bytes(text(line(1)))
    mapping = tmp_path / "mine.toml"
    mapping.write_text('[columns]\namount = { colum = "amt" }\n')
    with pytest.raises(CommandError, match=r"columns\.amount\.colum: not a key here") as told:
        call_command("import_dataset", "cards", str(path), "--mapping", str(mapping))
    assert "columns.is_fraud: missing" in str(told.value)
    assert not Dataset.objects.exists()


def test_lists_the_presets(capsys):
    with pytest.raises(SystemExit) as ended:
        Command().create_parser("manage.py", "import_dataset").parse_args(["--preset"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out.splitlines()
    assert [entry.split()[0] for entry in listed] == ["canonical", "credit-card", "paysim"]
    assert "Sparkov" in listed[1]


def test_a_preset_and_a_mapping_exclude_each_other(tmp_path):
    with pytest.raises(CommandError, match="not allowed with"):
        call_command(
            "import_dataset", "x", "f.csv", "--preset", "paysim", "--mapping", str(tmp_path / "m")
        )


def test_the_memory_limit_bounds_the_database(tmp_path, monkeypatch):
    path = tmp_path / "f.csv"
    path.write_bytes(text(line(1)))
    limits = []
    connect = duckdb.connect

    def connected(*args):
        connection = connect(*args)
        limits.append(connection)
        return connection

    monkeypatch.setattr("training.pipeline.staging.create_tables", refuse_after(limits))
    monkeypatch.setattr(duckdb, "connect", connected)
    with pytest.raises(CommandError, match="limit is 800"):
        call_command("import_dataset", "some", str(path), "--memory-limit", "800MB")


def refuse_after(limits):
    def refuse(*_):
        limit = limits[-1].execute("SELECT current_setting('memory_limit')").fetchone()
        raise OSError(f"limit is {limit[0]}")

    return refuse


def test_a_size_that_is_none_is_refused(tmp_path):
    with pytest.raises(CommandError, match="'much' is not a size such as 6GB"):
        call_command("import_dataset", "some", str(tmp_path), "--memory-limit", "much")
