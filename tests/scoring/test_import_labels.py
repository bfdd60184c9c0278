"""`manage.py import_labels`: what it reads, what it records, what it says."""

import gzip
from datetime import UTC, date, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from pyarrow import parquet

from scoring import label_import
from scoring.label_files import LabelRow
from scoring.models import ConfirmedFraud, Label
from tests.scoring.conftest import Api
from tests.scoring.requests import request

HEADER = "transaction_id,label,known_at,source,note"
KNOWN = datetime(2026, 2, 1, tzinfo=UTC)


def csv_file(folder: Path, *lines: str, header: str = HEADER, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def import_labels(*arguments: Any) -> str:
    output = StringIO()
    call_command("import_labels", *map(str, arguments), stdout=output)
    return output.getvalue()


def refused(*arguments: Any) -> str:
    with pytest.raises(CommandError) as refusal:
        import_labels(*arguments)
    return str(refusal.value)


def kept(*columns: str) -> list[Any]:
    return list(Label.objects.order_by("id").values_list("transaction_id", "verdict", *columns))


pytestmark = pytest.mark.django_db(transaction=True)


class TestReading:
    def test_csv(self, tmp_path: Path) -> None:
        path = csv_file(
            tmp_path,
            't1,fraud,2026-02-01T00:00:00Z,Chargeback,"Called, twice\nand wrote"',
            "t2,Legitimate,2026-02-01 02:00:00+02:00,,",
            "",
            "t3, FRAUD ,2026-02-01,analyst,",
        )
        assert "3 labels recorded." in import_labels(path)
        assert kept("known_at", "source", "note") == [
            ("t1", "fraud", KNOWN, "chargeback", "Called, twice\nand wrote"),
            ("t2", "legitimate", KNOWN, "", ""),
            ("t3", "fraud", KNOWN, "analyst", ""),
        ]

    @pytest.mark.parametrize(("written", "verdict"), [
        ("true", "fraud"), ("1", "fraud"), ("1.0", "fraud"), ("Yes", "fraud"), ("t", "fraud"),
        ("False", "legitimate"), ("0", "legitimate"), ("no", "legitimate"),
    ])  # fmt: skip
    def test_is_fraud(self, tmp_path: Path, written: str, verdict: str) -> None:
        header = "known_at,is_fraud,transaction_id"
        import_labels(csv_file(tmp_path, f"2026-02-01,{written},t1", header=header))
        assert kept() == [("t1", verdict)]

    def test_gzip_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        path = tmp_path / "labels.csv.gz"
        path.write_bytes(gzip.compress(f"{HEADER}\r\né,fraud,2026-02-01,,\r\n".encode("utf-8-sig")))
        import_labels(path)
        assert kept() == [("é", "fraud")]

    @pytest.mark.parametrize("known", [
        pa.array([KNOWN, KNOWN], pa.timestamp("ns", "UTC")),
        pa.array([KNOWN.replace(tzinfo=None)] * 2, pa.timestamp("ms")),
        pa.array([KNOWN, KNOWN], pa.timestamp("us", "Europe/Paris")),
        pa.array([date(2026, 2, 1)] * 2),
        pa.array(["2026-02-01T00:00:00Z", "2026-02-01"]),
    ])  # fmt: skip
    def test_parquet(self, tmp_path: Path, known: pa.Array) -> None:
        path = tmp_path / "labels.parquet"
        columns = {"transaction_id": ["t1", "t2"], "is_fraud": [True, False], "known_at": known}
        parquet.write_table(pa.table(columns), path)
        import_labels(path, "--source", "chargeback")
        assert kept("known_at", "source") == [
            ("t1", "fraud", KNOWN, "chargeback"), ("t2", "legitimate", KNOWN, "chargeback"),
        ]  # fmt: skip

    def test_parquet_with_missing_values(self, tmp_path: Path) -> None:
        path = tmp_path / "labels.parquet"
        rows = {
            "transaction_id": ["t1", None, "t3"],
            "is_fraud": [1.0, 0.0, None],
            "known_at": pa.array([KNOWN] * 3),
            "note": [None, "x", "y"],
        }
        parquet.write_table(pa.table(rows), path)
        message = refused(path)
        assert "labels.parquet, line 2: transaction_id: is required" in message
        assert "labels.parquet, line 3: is_fraud: expected fraud or legitimate" in message
        assert kept() == []

    def test_several_files_in_their_order(self, tmp_path: Path) -> None:
        first = csv_file(tmp_path, "t1,fraud,2026-02-01,,", name="b.csv")
        second = csv_file(tmp_path, "t1,legitimate,2026-02-02,,", name="a.csv")
        assert "2 labels recorded" in import_labels(first, second)
        assert kept() == [("t1", "fraud"), ("t1", "legitimate")]


@pytest.mark.parametrize(("content", "message"), [
    (b"", "columns missing: transaction_id, known_at, label or is_fraud"),
    (b"transaction_id,known_at\n", "columns missing: label or is_fraud. Found: transaction_id,"),
    (b"transaction_id,known_at,label,is_fraud\n", "both label and is_fraud"),
    (b"transaction_id,known_at,label,label\n", "a column twice"),
    (HEADER.encode() + b'\nt1,fraud,2026-02-01,,"never closed\n', "line 2: unexpected end"),
    (b"PAR1 and nothing more", "can't be read"),
    (b"\x1f\x8b and nothing more", "labels.csv"),
    (gzip.compress(HEADER.encode() * 1_000)[:-20], "labels.csv can't be read"),
])  # fmt: skip
def test_files_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    for choice in ("stop", "skip"):
        assert message in refused(path, "--on-bad-rows", choice)
    assert kept() == []


def test_file_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.csv") == "none.csv: No such file or directory."
    assert refused(tmp_path) == f"{tmp_path.name}: Is a directory."


@pytest.mark.parametrize(("row", "fault"), [
    (",fraud,2026-02-01,,", "transaction_id: is required"),
    ("t" * 65 + ",fraud,2026-02-01,,", "transaction_id: expected a string of 1 to 64"),
    ("t1,maybe,2026-02-01,,", "label: expected fraud or legitimate, true or false, 1 or 0"),
    ("t1,,2026-02-01,,", "label: expected fraud or legitimate"),
    ("t1,fraud,soon,,", "known_at: expected an RFC 3339 date and time"),
    ("t1,fraud,,,", "known_at: is required"),
    ("t1,fraud,1969-12-31,,", "known_at: expected"),
    ("t1,fraud,2999-01-01,,", "known_at: later than"),
    (f"t1,fraud,2026-02-01,{'x' * 33},", "source: expected a string of 1 to 32"),
    (f"t1,fraud,2026-02-01,,{'x' * 1001}", "note: expected a string of at most 1000"),
    ("t1,fraud,2026-02-01", "wrong number of fields"),
    ("t1,fraud,2026-02-01,,,", "wrong number of fields"),
    ("t1,maybe,1900-01-01,,", "known_at: expected an RFC 3339 date and time in the years 1970 to "),
])  # fmt: skip
class TestBadRows:
    def test_stop_names_them_and_records_nothing(
        self, tmp_path: Path, row: str, fault: str
    ) -> None:
        message = refused(csv_file(tmp_path, "good,fraud,2026-02-01,,", row))
        assert message.startswith("1 bad row, so nothing was imported.\n")
        assert f"labels.csv, line 3: {fault}" in message
        assert "--on-bad-rows skip" in message
        assert kept() == []

    def test_skip_records_the_others(self, tmp_path: Path, row: str, fault: str) -> None:
        path = csv_file(tmp_path, "a,fraud,2026-02-01,,", row, "b,fraud,2026-02-01,,")
        output = import_labels(path, "--on-bad-rows", "skip")
        assert "2 labels recorded." in output
        assert "1 row left out" in output
        assert f"labels.csv, line 3: {fault}" in output
        assert [name for name, _ in kept()] == ["a", "b"]


def test_several_faults_of_a_row_are_named_together(tmp_path: Path) -> None:
    message = refused(csv_file(tmp_path, ",maybe,soon,,"))
    for name in ("transaction_id", "known_at", "label"):
        assert f"{name}: " in message.split("line 2: ")[1].splitlines()[0]


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(HEADER.encode() + b"\n\xff1,fraud,2026-02-01,,\n")
    assert "line 2: transaction_id: expected" in refused(path)


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    rows = ["t1,maybe,2026-02-01,,"] * 30 + ["t1,fraud,,,"] * 20
    message = refused(csv_file(tmp_path, *rows))
    assert "50 bad rows" in message
    assert "… and 40 more" in message
    assert "30  label: expected" in message
    assert "20  known_at: is required" in message


def test_what_is_kept_of_bad_rows_and_unknown_transactions_stays_small(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(label_import, "_FAULTS", 5)
    bad = (f"t1,fraud,{'9' * at}," for at in range(1, 1_001))
    faulty = [LabelRow("x.csv", at, None, fault) for at, fault in enumerate(bad)]
    rows = [f"x{at % 1_300},fraud,2026-02-01,,{at}" for at in range(2_500)]
    result = label_import.labels_import(
        [csv_file(tmp_path, *rows, *["x1,maybe,2026-02-01,,"] * 1_200)],
        stated_by="test",
        clock=lambda: datetime(2026, 6, 1, tzinfo=UTC),
        progress=lambda *_: None,
        on_bad_rows="skip",
    )
    assert result.unknown == 2_500
    assert list(result.first_unknown) == [f"x{at}" for at in range(11)]
    assert (result.bad_rows.count, len(result.bad_rows.first)) == (1_200, 10)
    result.bad_rows.add(faulty)
    assert (result.bad_rows.count, len(result.bad_rows.faults)) == (2_200, 6)
    assert "996  something else" in str(result.bad_rows)


def test_unknown_columns_stop_it_or_are_left_out(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "t1,fraud,2026-02-01,,,5", header=f"{HEADER},amount")
    assert "Unknown columns: amount." in refused(path)
    assert kept() == []
    assert "Columns left out: amount." in import_labels(path, "--on-bad-rows", "skip")
    assert kept() == [("t1", "fraud")]


def test_known_and_unknown_transactions(api: Api, tmp_path: Path) -> None:
    api.score(request(transaction_id="t1", created_at="2026-01-23T12:00:00Z"))
    rows = [f"x{at},fraud,2026-02-01,," for at in range(12)]
    output = import_labels(csv_file(tmp_path, "t1,fraud,2026-02-01,,", *rows))
    assert "13 labels recorded." in output
    assert "12 labels of transactions never seen here" in output
    assert "x0, x1, " in output
    assert "x10" not in output
    assert ConfirmedFraud.objects.filter(attempt__transaction_id="t1").count() == 2


def test_label_known_before_its_transaction_is_a_bad_row(api: Api, tmp_path: Path) -> None:
    api.score(request(transaction_id="t1", created_at="2026-01-23T12:00:00Z"))
    path = csv_file(tmp_path, "t0,fraud,2026-01-23,,", "t1,fraud,2026-01-23,,")
    assert "line 3: known_at: before the transaction was made" in refused(path)
    assert kept() == []
    import_labels(path, "--on-bad-rows", "skip")
    assert kept() == [("t0", "fraud")]


def test_transaction_scored_after_the_check_stops_it_where_it_is(
    api: Api, tmp_path: Path, monkeypatch: Any
) -> None:
    rows = [f"t{at},fraud,2026-01-23,," for at in range(1_500)]
    record = label_import.labels_record

    def score_meanwhile(*args: Any, **kwargs: Any) -> Any:
        receipt = record(*args, **kwargs)
        api.score(request(transaction_id="t1400", created_at="2026-01-23T12:00:00Z"))
        return receipt

    monkeypatch.setattr(label_import, "labels_record", score_meanwhile)
    message = refused(csv_file(tmp_path, *rows))
    assert message.startswith("1 bad row, so only 1,000 labels were imported.")
    assert Label.objects.count() == 1_000


@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_transaction_scored_at_the_last_moment_makes_a_bad_row(
    api: Api, tmp_path: Path, monkeypatch: Any, choice: str
) -> None:
    record = label_import.labels_record

    def score_first(*args: Any, **kwargs: Any) -> Any:
        api.score(request(transaction_id="t1", created_at="2026-01-23T12:00:00Z"))
        return record(*args, **kwargs)

    monkeypatch.setattr(label_import, "labels_record", score_first)
    path = csv_file(tmp_path, "t0,fraud,2026-01-23,,", "t1,fraud,2026-01-23,,")
    if choice == "stop":
        assert "1 bad row, so nothing was imported" in refused(path)
        assert kept() == []
    else:
        assert "1 row left out" in import_labels(path, "--on-bad-rows", "skip")
        assert kept() == [("t0", "fraud")]


def test_same_file_again_and_grown(tmp_path: Path) -> None:
    rows = [f"t{at},fraud,2026-02-01,," for at in range(2_500)]
    assert "2,500 labels recorded." in import_labels(csv_file(tmp_path, *rows))
    grown = csv_file(tmp_path, *rows, "new,fraud,2026-02-01,,")
    assert "1 label recorded, 2,500 had been received before." in import_labels(grown)
    assert Label.objects.count() == 2_501


def test_who_ran_it_is_kept(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("scoring.management.commands.import_labels.system_user", lambda: "ana")
    import_labels(csv_file(tmp_path, "t1,fraud,2026-02-01,,"))
    assert Label.objects.get().stated_by == "ana"


def test_progress(tmp_path: Path) -> None:
    rows = [f"t{at},fraud,2026-02-01,," for at in range(2_500)]
    told: list[tuple[str, float]] = []
    label_import.labels_import(
        [csv_file(tmp_path, *rows), csv_file(tmp_path, *rows, name="b.csv")],
        stated_by="test",
        clock=lambda: datetime(2026, 6, 1, tzinfo=UTC),
        progress=lambda step, share: told.append((step, share)),
    )
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert list(dict.fromkeys(step for step, _ in told)) == [
        "checking labels.csv", "checking b.csv", "recording labels.csv", "recording b.csv",
    ]  # fmt: skip


def test_database_that_does_not_answer_says_what_to_do(tmp_path: Path, monkeypatch: Any) -> None:
    def busy(*_args: Any, **_kwargs: Any) -> None:
        raise OperationalError("canceling statement due to lock timeout")

    monkeypatch.setattr(label_import, "labels_record", busy)
    message = refused(csv_file(tmp_path, "t1,fraud,2026-02-01,,"))
    assert "lock timeout" in message
    assert "run the same command again" in message


def test_help_teaches(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        call_command("import_labels", "--help")
    text = capsys.readouterr().out
    for word in ("transaction_id", "is_fraud", "known_at", "chargebacks.csv", "the last one"):
        assert word in text
