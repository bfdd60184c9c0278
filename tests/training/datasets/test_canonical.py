"""What the canonical columns become."""

import random
import shutil
from datetime import UTC, datetime

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.transaction import Transaction, amount_to_units
from tests.training.datasets.support import GOOD, HEADER, line, text


def test_a_row_becomes_what_it_says(importing):
    header = HEADER + ",country,status,direction,source_balance,account_age_minutes,city"
    row = line(1, amount="12.34565", created_at="2026-01-01T12:00:00.123456+02:00")
    summary = importing(text(row + ",fr,success,Outgoing,10.5,7,Orléans", header=header))
    (stored,) = importing.rows()
    assert stored["transaction_id"] == "t1"
    assert stored["created_at"] == datetime(2026, 1, 1, 10, 0, 0, 123456)
    assert stored["amount"] == amount_to_units(12.34565) == 123456
    assert (stored["country"], stored["status"]) == ("FR", "SUCCESS")
    assert (stored["direction"], stored["city"]) == ("outgoing", "Orléans")
    assert (stored["source_balance"], stored["account_age_minutes"]) == (10.5, 7.0)
    assert stored["is_fraud"] is False
    assert stored["user_status"] is None
    assert summary.rows == 1
    assert summary.first_at == datetime(2026, 1, 1, 10, 0, 0, 123456, tzinfo=UTC)
    assert "user_status" not in summary.columns


def test_times_are_those_of_a_live_request(importing):
    written = [
        "2026-01-31T12:00:00Z",
        "2026-01-31t12:00:00.5z",
        "2026-01-31 12:00:00.123456",
        "2026-01-31T12:00:00-00:00",
        "2026-01-31T00:30:00+05:30",
        "2026-01-31T12:00:00-23:59",
        "9998-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00Z",
    ]
    importing(text(*(line(n, created_at=moment) for n, moment in enumerate(written))))
    stored = {row["transaction_id"]: row["created_at"] for row in importing.rows()}
    for number, moment in enumerate(written):
        live = msgspec.convert({**GOOD, "amount": 1, "created_at": moment}, Transaction)
        assert stored[f"t{number}"].replace(tzinfo=UTC) == live.created_at


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31)),
        ("2026-01-31 12:30", datetime(2026, 1, 31, 12, 30)),
        ("2026-01-31 12:30:00+02", datetime(2026, 1, 31, 10, 30)),
    ],
)
def test_times_as_databases_write_them(importing, written, moment):
    importing(text(line(1, created_at=written)))
    assert importing.rows()[0]["created_at"] == moment


def test_amounts_are_those_of_a_live_request(importing):
    chance = random.Random(1)
    written = [f"{chance.uniform(-1e5, 1e5):.{chance.randrange(7)}f}" for _ in range(500)]
    written += ["1.00015", "1.00005", "0.00005", "-2.5", "1e3", "1e9", "-1000000000"]
    importing(text(*(line(n, amount=amount) for n, amount in enumerate(written))))
    stored = {row["transaction_id"]: row["amount"] for row in importing.rows()}
    assert [stored[f"t{n}"] for n in range(len(written))] == [
        amount_to_units(float(amount)) for amount in written
    ]


def test_sorted_by_time_then_by_the_order_of_the_files(importing):
    late, early = "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"
    first = text(line(1, created_at=late), line(2, created_at=early), line(3, created_at=late))
    second = text(line(4, created_at=early), line(5, created_at=late))
    importing(first, second)
    assert [r["transaction_id"] for r in importing.rows()] == ["t2", "t4", "t1", "t3", "t5"]


def test_the_order_within_one_time_survives_many_rows(importing):
    chance = random.Random(3)
    days = [chance.randrange(1, 4) for _ in range(150_000)]
    importing(text(*(line(n, created_at=f"2026-01-0{d}T00:00:00Z") for n, d in enumerate(days))))
    ids = pq.read_table(importing.target / "data.parquet")["transaction_id"].to_pylist()
    assert ids == [f"t{n}" for n in sorted(range(len(days)), key=days.__getitem__)]


@pytest.mark.parametrize("written", ["true", "TRUE", "1", "1.0", "t", "yes"])
def test_reads_every_usual_true(importing, written):
    assert importing(text(line(1, is_fraud=written))).frauds == 1


def test_quotes_commas_and_byte_order_mark(importing):
    quoted = line(2, source_wallet_id='"w,""x"""')
    importing(b"\xef\xbb\xbf" + text('"t1"' + line(1)[2:], quoted))
    assert [row["source_wallet_id"] for row in importing.rows()] == ["w1", 'w,"x"']


def test_line_ends_of_every_system_and_blank_lines(importing):
    bad = line(3, amount="x")
    content = f"{HEADER}\r\n\r\n{line(1)}\r\n{line(2)}\n\n{bad}\n{line(4)}".encode()
    assert importing(content, skip=True).rows == 3
    assert importing.rejects()[0]["line"] == "6"


def test_lines_that_end_in_several_carriage_returns(importing):
    rows = [line(1), "", line(2, source_wallet_id='"w,x"'), line(3, amount="x")]
    content = text(*rows).replace(b"\n", b"\r\r\n")
    assert importing(content, skip=True).rows == 2
    assert importing.rejects()[0]["line"] == "5"


def test_parquet_with_typed_columns(importing, tmp_path):
    frame = pd.DataFrame([GOOD, {**GOOD, "transaction_id": "t2"}])
    frame["created_at"] = pd.to_datetime(frame["created_at"])
    frame["amount"] = [0.1 + 0.2, 5.0]
    frame["is_fraud"] = [True, False]
    frame["source_balance"] = [float("nan"), 3.5]
    path = tmp_path / "typed.parquet"
    frame.to_parquet(path)
    importing(path)
    first, second = importing.rows()
    assert (first["amount"], first["source_balance"]) == (3000, None)
    assert (second["amount"], second["source_balance"]) == (50000, 3.5)
    assert first["created_at"] == datetime(2026, 1, 1, 10)


@pytest.mark.parametrize(
    "name",
    ["dt=2026-01-01/p.parquet", "country=FR/p.parquet", "w*.parquet", "[w]?.parquet", "a'.p"],
)
def test_the_name_of_a_parquet_file_is_only_a_name(importing, tmp_path, name):
    for number, other in enumerate(["w1.parquet", name], start=1):
        path = tmp_path / other
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist([{**GOOD, "transaction_id": f"t{number}"}]), path)
    importing(path)
    (stored,) = importing.rows()
    assert (stored["transaction_id"], stored["country"]) == ("t2", None)


@pytest.mark.parametrize("folder", ["country=FR", "w*", "[x]", "it's"])
def test_so_is_that_of_the_folder_of_data_sets(importing, tmp_path, folder):
    importing.target = tmp_path / folder / "set"
    assert importing(text(line(1), line(2))).rows == 2
    assert [row["country"] for row in importing.rows()] == [None, None]


def test_a_reserved_column_name(importing, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{**GOOD, "File_Row_Number": 1}]), path)
    assert "may not be called File_Row_Number" in importing.refused(path, skip=True)


def test_an_imported_data_set_is_not_taken_for_a_file(importing, tmp_path):
    importing(text(line(1)))
    copy = tmp_path / "copy.parquet"
    shutil.move(importing.target / "data.parquet", copy)
    importing.again()
    assert "already" in importing.refused(copy)
