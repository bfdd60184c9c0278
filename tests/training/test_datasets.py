"""Importing files: what is read, what is refused, and that nothing is lost or half-imported."""

import csv
import gzip
import random
import shutil
import subprocess
import sys
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.core.management import CommandError, call_command

from engine.errors import InvalidDataset
from engine.transaction import Transaction, amount_to_units
from training.models import Dataset
from training.pipeline import csv_lines
from training.pipeline.datasets import import_files
from training.pipeline.presets import load_preset, parse_preset, preset_names
from training.pipeline.simulate import simulate

HEADER = (
    "transaction_id,created_at,amount,currency,source_wallet_id,destination_wallet_id,"
    "transaction_type,is_fraud"
)
GOOD = {
    "transaction_id": "t1",
    "created_at": "2026-01-01T10:00:00Z",
    "amount": "12.5",
    "currency": "PYC",
    "source_wallet_id": "w1",
    "destination_wallet_id": "w2",
    "transaction_type": "PAYMENT",
    "is_fraud": "false",
}
PAYSIM_HEADER = (
    "step,type,amount,nameOrig,oldbalanceOrg,newbalanceOrig,nameDest,oldbalanceDest,"
    "newbalanceDest,isFraud,isFlaggedFraud"
)


def line(number, **changes):
    """One row as text; values are written as they are."""
    return ",".join({**GOOD, "transaction_id": f"t{number}", **changes}.values())


def text(*lines, header=HEADER):
    return ("\n".join([header, *lines]) + "\n").encode()


@pytest.fixture
def importing(tmp_path):
    """Import bytes (or files) as a new data set; returns the summary."""

    class Importing:
        target = tmp_path / "data" / "set"

        def __call__(self, *contents, skip=False, preset="canonical", **options):
            files = []
            for number, content in enumerate(contents):
                if isinstance(content, Path):
                    files.append(content)
                else:
                    files.append(tmp_path / f"f{number}.csv")
                    files[-1].write_bytes(content)
            return import_files(files, self.target, preset, "skip" if skip else "stop", **options)

        def refused(self, *contents, **options):
            """The detail of the refusal; nothing may be left behind."""
            with pytest.raises(InvalidDataset) as caught:
                self(*contents, **options)
            assert not self.target.parent.exists() or not list(self.target.parent.iterdir())
            return caught.value.detail

        def rows(self):
            return pq.read_table(self.target / "data.parquet").to_pylist()

        def rejects(self):
            with (self.target / "rejects.csv").open(newline="") as file:
                return list(csv.DictReader(file))

        def again(self):
            shutil.rmtree(self.target)

    return Importing()


class TestCanonical:
    def test_a_row_becomes_what_it_says(self, importing):
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

    def test_times_are_those_of_a_live_request(self, importing):
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
    def test_times_as_databases_write_them(self, importing, written, moment):
        importing(text(line(1, created_at=written)))
        assert importing.rows()[0]["created_at"] == moment

    def test_amounts_are_those_of_a_live_request(self, importing):
        chance = random.Random(1)
        written = [f"{chance.uniform(-1e5, 1e5):.{chance.randrange(7)}f}" for _ in range(500)]
        written += ["1.00015", "1.00005", "0.00005", "-2.5", "1e3", "1e9", "-1000000000"]
        importing(text(*(line(n, amount=amount) for n, amount in enumerate(written))))
        stored = {row["transaction_id"]: row["amount"] for row in importing.rows()}
        assert [stored[f"t{n}"] for n in range(len(written))] == [
            amount_to_units(float(amount)) for amount in written
        ]

    def test_sorted_by_time_then_by_the_order_of_the_files(self, importing):
        late, early = "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"
        first = text(line(1, created_at=late), line(2, created_at=early), line(3, created_at=late))
        second = text(line(4, created_at=early), line(5, created_at=late))
        importing(first, second)
        assert [r["transaction_id"] for r in importing.rows()] == ["t2", "t4", "t1", "t3", "t5"]

    def test_the_order_within_one_time_survives_many_rows(self, importing):
        chance = random.Random(3)
        days = [chance.randrange(1, 4) for _ in range(150_000)]
        importing(
            text(*(line(n, created_at=f"2026-01-0{d}T00:00:00Z") for n, d in enumerate(days)))
        )
        ids = pq.read_table(importing.target / "data.parquet")["transaction_id"].to_pylist()
        assert ids == [f"t{n}" for n in sorted(range(len(days)), key=days.__getitem__)]

    @pytest.mark.parametrize("written", ["true", "TRUE", "1", "1.0", "t", "yes"])
    def test_reads_every_usual_true(self, importing, written):
        assert importing(text(line(1, is_fraud=written))).frauds == 1

    def test_quotes_commas_and_byte_order_mark(self, importing):
        quoted = line(2, source_wallet_id='"w,""x"""')
        importing(b"\xef\xbb\xbf" + text('"t1"' + line(1)[2:], quoted))
        assert [row["source_wallet_id"] for row in importing.rows()] == ["w1", 'w,"x"']

    def test_line_ends_of_every_system_and_blank_lines(self, importing):
        bad = line(3, amount="x")
        content = f"{HEADER}\r\n\r\n{line(1)}\r\n{line(2)}\n\n{bad}\n{line(4)}".encode()
        assert importing(content, skip=True).rows == 3
        assert importing.rejects()[0]["line"] == "6"

    def test_lines_that_end_in_several_carriage_returns(self, importing):
        rows = [line(1), "", line(2, source_wallet_id='"w,x"'), line(3, amount="x")]
        content = text(*rows).replace(b"\n", b"\r\r\n")
        assert importing(content, skip=True).rows == 2
        assert importing.rejects()[0]["line"] == "5"

    def test_parquet_with_typed_columns(self, importing, tmp_path):
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
    def test_the_name_of_a_parquet_file_is_only_a_name(self, importing, tmp_path, name):
        for number, other in enumerate(["w1.parquet", name], start=1):
            path = tmp_path / other
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist([{**GOOD, "transaction_id": f"t{number}"}]), path)
        importing(path)
        (stored,) = importing.rows()
        assert (stored["transaction_id"], stored["country"]) == ("t2", None)

    @pytest.mark.parametrize("folder", ["country=FR", "w*", "[x]", "it's"])
    def test_so_is_that_of_the_folder_of_data_sets(self, importing, tmp_path, folder):
        importing.target = tmp_path / folder / "set"
        assert importing(text(line(1), line(2))).rows == 2
        assert [row["country"] for row in importing.rows()] == [None, None]

    def test_a_reserved_column_name(self, importing, tmp_path):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_pylist([{**GOOD, "File_Row_Number": 1}]), path)
        assert "may not be called File_Row_Number" in importing.refused(path, skip=True)

    def test_an_imported_data_set_is_not_taken_for_a_file(self, importing, tmp_path):
        importing(text(line(1)))
        copy = tmp_path / "copy.parquet"
        shutil.move(importing.target / "data.parquet", copy)
        importing.again()
        assert "already" in importing.refused(copy)


class TestBadRows:
    @pytest.mark.parametrize(
        ("changes", "fault"),
        [
            ({"transaction_id": ""}, "transaction_id: missing"),
            ({"transaction_id": "x" * 65}, "transaction_id: not at most 64 characters"),
            ({"source_wallet_id": ""}, "source_wallet_id: missing"),
            ({"destination_wallet_id": "w\x01"}, "destination_wallet_id: not at most 64"),
            ({"amount": ""}, "amount: missing"),
            ({"amount": "ten"}, "amount: not a finite number"),
            ({"amount": "NaN"}, "amount: not a finite number"),
            ({"amount": "inf"}, "amount: not a finite number"),
            ({"amount": "-Infinity"}, "amount: not a finite number"),
            ({"amount": "1e400"}, "amount: not a finite number"),
            ({"amount": "1000000000.01"}, "amount: not a finite number from -1e9 to 1e9"),
            ({"created_at": ""}, "created_at: missing"),
            ({"created_at": "yesterday"}, "created_at: not a date and time"),
            ({"created_at": "2026-02-30T00:00:00Z"}, "created_at: not a date and time"),
            ({"created_at": "infinity"}, "created_at: not a date and time"),
            ({"created_at": "1969-12-31T23:59:59Z"}, "created_at: not a date and time"),
            ({"created_at": "epoch"}, "created_at: not a date and time"),
            ({"created_at": "2026/01/31 10:00:00"}, "created_at: not a date and time"),
            ({"created_at": "2026-01-31T24:00:00Z"}, "created_at: not a date and time"),
            ({"created_at": "2026-01-31 (BC)"}, "created_at: not a date and time"),
            ({"created_at": "9999-01-01T00:00:00Z"}, "created_at: not a date and time"),
            ({"amount": "1_0"}, "amount: not a finite number"),
            ({"source_wallet_id": "   "}, "source_wallet_id: missing"),
            ({"transaction_id": "\u3000"}, "transaction_id: missing"),
            ({"currency": "EURO"}, "currency: not 3 letters"),
            ({"transaction_type": "x" * 33}, "transaction_type: not at most 32"),
            ({"is_fraud": "maybe"}, "is_fraud: not true or false"),
            ({"is_fraud": ""}, "is_fraud: missing"),
        ],
    )
    def test_each_fault_is_named_and_counted(self, importing, changes, fault):
        content = text(line(1), line(2, **changes), line(3))
        detail = importing.refused(content)
        assert "1 bad row" in detail
        assert f"f0.csv, line 3: {fault}" in detail
        summary = importing(content, skip=True)
        assert (summary.rows, summary.rejected) == (2, 1)
        (counted,) = summary.reject_counts
        assert counted.startswith(fault)
        (reject,) = importing.rejects()
        assert (reject["file"], reject["line"]) == ("f0.csv", "3")
        assert reject["reason"].startswith(fault)

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("status", "DONE"),
            ("direction", "up"),
            ("country", "FRA"),
            ("source_balance", "inf"),
            ("account_age_minutes", "-1"),
            ("user_risk_level", "x" * 33),
        ],
    )
    def test_optional_columns_are_checked_too(self, importing, column, value):
        content = text(line(1) + f",{value}", line(2) + ",", header=f"{HEADER},{column}")
        assert f"line 2: {column}: not " in importing.refused(content)
        assert f'found "{value[:40]}"' in importing.refused(content)

    def test_all_faults_of_a_row_are_named(self, importing):
        summary = importing(text(line(1), line(2, amount="x", is_fraud="y")), skip=True)
        assert summary.rejected == 1
        assert len(summary.reject_counts) == 2
        assert summary.reject_samples[0].content == line(2, amount="x", is_fraud="y")

    def test_later_rows_with_the_same_id_are_rejected(self, importing):
        bad = line(1, amount="x")
        content = [text(bad, line(1), line(2)), text(line(3), line(1), line(2), line(2))]
        summary = importing(*content, skip=True)
        assert summary.reject_counts["transaction_id: repeated"] == 3
        assert sorted(row["transaction_id"] for row in importing.rows()) == ["t1", "t2", "t3"]
        repeated = [(r["file"], r["line"], r["reason"]) for r in importing.rejects()[1:]]
        assert repeated[0] == ("f1.csv", "3", "transaction_id: repeated, first in f0.csv, line 3")
        assert [place[:2] for place in repeated[1:]] == [("f1.csv", "4"), ("f1.csv", "5")]

    def test_ragged_rows(self, importing):
        content = text(line(1), "a,b,c", line(2), line(3) + ",more", line(4))
        detail = importing.refused(content)
        assert "line 3: wrong number of fields: 3 instead of 8" in detail
        assert "line 5: wrong number of fields: 9 instead of 8" in detail
        assert importing(content, skip=True).rows == 3

    def test_text_that_is_not_utf8(self, importing):
        content = text(line(1), line(2)) + line(3, source_wallet_id="é").encode("latin-1")
        assert "line 4: not UTF-8 text" in importing.refused(content)
        assert importing(content, skip=True).rows == 2
        assert "\\xe9" in importing.rejects()[0]["content"]

    def test_nul_characters(self, importing):
        content = text(line(1), line(2, source_wallet_id="w\0"))
        assert "line 3: a NUL character" in importing.refused(content)

    @pytest.mark.parametrize("wallet", ["w\rx", '"w\rx"', "\r"])
    def test_carriage_returns_within_a_line(self, importing, wallet):
        content = text(line(1), line(2, source_wallet_id=wallet), line(3))
        detail = importing.refused(content)
        assert "f0.csv, line 3: a carriage return within the line" in detail
        assert importing(content, skip=True).rows == 2
        assert [reject["line"] for reject in importing.rejects()] == ["3"]
        assert importing.rejects()[0]["content"] == line(2, source_wallet_id=wallet)

    def test_a_quote_never_closed_costs_one_line(self, importing, monkeypatch):
        monkeypatch.setattr(csv_lines, "BLOCK_BYTES", 700)
        lines = [line(n) for n in range(500)]
        lines[100] = line(100, source_wallet_id='"w')
        lines[499] = line(499, source_wallet_id='"w')
        summary = importing(text(*lines), skip=True)
        assert (summary.rows, summary.rejected) == (498, 2)
        assert [r["line"] for r in importing.rejects()] == ["102", "501"]

    def test_line_numbers_survive_line_breaks_within_quotes(self, importing, monkeypatch):
        monkeypatch.setattr(csv_lines, "BLOCK_BYTES", 100)
        header = HEADER + ",notes"
        lines = [line(1) + ',"two\nlines"', line(2) + ",", line(3, amount="x") + ","]
        summary = importing(text(*lines, header=header), skip=True)
        assert summary.ignored_columns == ("notes",)
        assert (summary.rows, importing.rejects()[0]["line"]) == (2, "5")

    def test_quoted_rows_cost_the_same_in_a_block_of_any_size(self, importing, monkeypatch):
        class Counted(deque):
            looked_at = 0

            def __iter__(self):
                for item in super().__iter__():
                    Counted.looked_at += 1
                    yield item

        monkeypatch.setattr(csv_lines, "deque", Counted)
        importing(text(*(line(n, currency='"PYC"') for n in range(1_000))))
        assert Counted.looked_at <= 2_000

    def test_nothing_is_lost_whatever_the_lines_are(self, importing, monkeypatch):
        """Every line of a mangled file is a row or a reject, whatever the block size."""
        chance = random.Random(7)
        lines = []
        for number in range(400):
            content = line(number)
            fate = chance.randrange(6)
            if fate == 0:
                cut = chance.randrange(1, len(content))
                content = content[:cut] + chance.choice([",", "\0", "x\x80"]) + content[cut:]
            elif fate == 1:
                content = content.replace("w1", '"w1"')
            lines.append(content)
        found = []
        for size in (64, 1000, 4 * 2**20):
            monkeypatch.setattr(csv_lines, "BLOCK_BYTES", size)
            summary = importing(text(*lines), skip=True)
            assert summary.rows + summary.rejected == 400
            found.append((summary.fingerprint, summary.reject_counts))
            importing.again()
        assert found[0] == found[1] == found[2]

    def test_when_every_row_is_bad_nothing_is_imported(self, importing):
        assert "all 2 rows are bad" in importing.refused(
            text(line(1, amount="x"), line(2, amount="y")), skip=True
        )

    def test_many_bad_rows_are_all_kept_and_a_few_shown(self, importing):
        content = text(line(0), *(line(n, amount="x") for n in range(1, 12_001)), "ragged")
        detail = importing.refused(content)
        assert "12,001 bad rows" in detail
        assert "and 11,991 more" in detail
        summary = importing(content, skip=True)
        assert len(summary.reject_samples) == 10
        assert len(importing.rejects()) == 12_001

    @pytest.mark.parametrize("bad", [line(2, transaction_id="x" * 5_000), "x" * 5_000])
    def test_of_a_long_row_the_beginning_is_kept(self, importing, bad):
        summary = importing(text(line(1), bad), skip=True)
        assert importing.rejects()[0]["content"] == bad[:1_000]
        assert summary.reject_samples[0].content == bad[:1_000]


class TestBadFiles:
    def test_missing_columns(self, importing):
        detail = importing.refused(b"transaction_id,montant\nt1,5\n")
        assert "columns missing: created_at, amount" in detail
        assert "Found: transaction_id, montant" in detail

    def test_unknown_columns_stop_or_are_left_out(self, importing):
        content = text(line(1) + ",x", header=HEADER + ",contry")
        assert "unknown columns: contry" in importing.refused(content)
        assert importing(content, skip=True).ignored_columns == ("contry",)

    def test_a_column_twice(self, importing):
        assert "column twice: amount" in importing.refused(
            text(line(1) + ",1", header=HEADER + ",amount")
        )

    def test_another_separator_is_recognisable(self, importing):
        assert "columns missing" in importing.refused(text(header=HEADER.replace(",", ";")))

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "f0.csv is empty"),
            (b"\n\n", "f0.csv is empty"),
            (gzip.compress(b""), "f0.csv is empty"),
            (text(), "a header and no rows"),
            (text(line(1)).decode().encode("utf-16"), "UTF-16"),
            (b"\xe9\xe8,a\n1,2\n", "not a CSV header in UTF-8"),
            (gzip.compress(text(*map(line, range(2000))))[:-600], "truncated"),
            (gzip.compress(text(line(1)))[:-5], "truncated"),
            (gzip.compress(text(line(1)))[:-8] + b"\0" * 8, "damaged gzip"),
            (b"\x1f\x8b not gzip at all", "damaged gzip"),
            (b"PAR1 not parquet at all", "not a readable Parquet file"),
        ],
    )
    @pytest.mark.parametrize("skip", [False, True])
    def test_files_that_cannot_be_read(self, importing, content, said, skip):
        assert said in importing.refused(content, skip=skip)

    def test_missing_file_and_folder(self, importing, tmp_path):
        assert "No such file" in importing.refused(tmp_path / "none.csv")
        assert "is a folder" in importing.refused(tmp_path)

    def test_one_bad_file_of_several_imports_nothing(self, importing):
        good = text(line(1))
        assert "truncated" in importing.refused(good, gzip.compress(text(line(2)))[:-5], skip=True)

    def test_a_data_set_is_never_overwritten(self, importing):
        importing(text(line(1)))
        with pytest.raises(InvalidDataset, match="exists already"):
            importing(text(line(2)))
        assert importing.rows()[0]["transaction_id"] == "t1"

    @pytest.mark.parametrize(
        "failure",
        [
            OSError(28, "No space left on device"),
            duckdb.IOException("No space left on device\n\nLINE 1: COPY"),
            duckdb.OutOfMemoryException("No space left on device\nPossible solutions: none"),
        ],
    )
    @pytest.mark.parametrize("step", ["staging.write_sorted", "datasets._connected"])
    def test_a_failing_disk_is_a_clear_refusal(self, importing, monkeypatch, step, failure):
        def fail(*_):
            raise failure

        monkeypatch.setattr(f"training.pipeline.{step}", fail)
        detail = importing.refused(text(line(1)))
        assert f"Importing into {importing.target} failed" in detail
        assert "No space left on device" in detail
        assert "\n" not in detail

    def test_a_file_that_may_not_be_read(self, importing, tmp_path, monkeypatch):
        open_path = Path.open

        def refuse(path, *args, **options):
            if path.name == "mine.csv":
                raise PermissionError(13, "Permission denied", str(path))
            return open_path(path, *args, **options)

        path = tmp_path / "mine.csv"
        path.write_bytes(text(line(1)))
        monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root
        assert "mine.csv can't be read: Permission denied." in importing.refused(path)

    def test_a_folder_that_cannot_be_made(self, importing, tmp_path):
        (tmp_path / "file").touch()
        importing.target = tmp_path / "file" / "data" / "set"
        assert "failed, and nothing was imported: Not a directory." in importing.refused(
            text(line(1))
        )

    def test_an_interruption_leaves_nothing(self, importing):
        def interrupt(step, _fraction):
            if step == "sorting":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            importing(text(line(1)), progress=interrupt)
        assert list(importing.target.parent.iterdir()) == []

    def test_what_a_killed_import_left_goes_with_the_next(self, importing, tmp_path):
        path = tmp_path / "mine.csv"
        path.write_bytes(text(line(1)))
        program = (
            "import os, sys, pathlib\n"
            "from training.pipeline.datasets import import_files\n"
            "path, target = map(pathlib.Path, sys.argv[1:])\n"
            "import_files([path], target, 'canonical', progress=lambda *_: os._exit(9))"
        )
        arguments = [sys.executable, "-c", program, str(path), str(importing.target)]
        assert subprocess.run(arguments).returncode == 9
        (left,) = importing.target.parent.iterdir()
        assert left.name.startswith(".importing-")
        importing(path)
        assert list(importing.target.parent.iterdir()) == [importing.target]

    def test_an_import_at_work_is_left_alone_by_another(self, importing, tmp_path):
        def import_another(step, _fraction):
            if step == "sorting":
                path = tmp_path / "f0.csv"
                import_files([path], importing.target.with_name("other"), "canonical")

        importing(text(line(1)), progress=import_another)
        names = sorted(path.name for path in importing.target.parent.iterdir())
        assert names == ["other", "set"]


class TestFingerprint:
    LINES = [line(n, created_at=f"2026-01-01T00:00:{n % 60:02}Z") for n in range(300)]

    def test_is_of_the_content_not_of_the_files(self, importing, tmp_path):
        whole = importing(text(*self.LINES))
        importing.again()
        parts = importing(text(*self.LINES[:100]), gzip.compress(text(*self.LINES[100:])))
        importing.again()
        spelt = importing(text(*(row.replace("12.5", '"12.50"') for row in self.LINES)))
        importing.again()
        path = tmp_path / "same.parquet"
        names = HEADER.split(",")
        rows = [dict(zip(names, row.split(","), strict=True)) for row in self.LINES]
        pq.write_table(pa.Table.from_pylist(rows), path)
        parquet = importing(path)
        prints = {s.fingerprint for s in (whole, parts, spelt, parquet)}
        assert prints == {whole.fingerprint}

    @pytest.mark.parametrize("change", ["value", "order", "row", "null"])
    def test_tells_contents_apart(self, importing, change):
        one = importing(text(*self.LINES)).fingerprint
        importing.again()
        changed = list(self.LINES)
        if change == "value":
            changed[7] = line(7, amount="12.51", created_at="2026-01-01T00:00:07Z")
        elif change == "order":  # two rows of the same second
            changed[7], changed[67] = changed[67], changed[7]
        elif change == "row":
            changed.pop()
        header = HEADER
        if change == "null":
            header, changed = HEADER + ",city", [row + ",Lyon" for row in changed]
        assert importing(text(*changed, header=header)).fingerprint != one


class TestPaySim:
    ROWS = (
        "1,PAYMENT,9839.64,C1,170136.0,160296.36,M1,0.0,0.0,0,0",
        "1,CASH_IN,100.00,C2,0.0,100.0,C3,0.0,0.0,0,0",
        "26,TRANSFER,181.0,C4,181.0,0.0,C5,0.0,0.0,1,0",
    )

    def test_reads_what_was_known_at_the_time(self, importing):
        summary = importing(text(*self.ROWS, header=PAYSIM_HEADER), preset="paysim")
        first, second, third = importing.rows()
        assert first["transaction_id"] == "paysim-1"
        assert first["created_at"] == datetime(2026, 1, 1)
        assert third["created_at"] == datetime(2026, 1, 2, 1)
        assert (first["amount"], first["source_balance"]) == (98_396_400, 170_136.0)
        assert (first["source_wallet_id"], first["destination_wallet_id"]) == ("C1", "M1")
        assert (first["direction"], second["direction"]) == ("outgoing", "incoming")
        assert [row["transaction_type"] for row in importing.rows()] == [
            "PAYMENT", "CASH_IN", "TRANSFER"
        ]  # fmt: skip
        assert third["is_fraud"] is True
        assert summary.ignored_columns == ()
        stored = set(pq.read_schema(importing.target / "data.parquet").names)
        assert not [name for name in stored if "new" in name.lower() or "flag" in name.lower()]

    def test_rows_are_numbered_through_all_files(self, importing):
        files = [text(row, header=PAYSIM_HEADER) for row in self.ROWS]
        importing(*files, preset="paysim")
        assert [row["transaction_id"] for row in importing.rows()] == [
            "paysim-1", "paysim-2", "paysim-3"
        ]  # fmt: skip

    def test_starts_when_told(self, importing):
        start = datetime(2025, 6, 1, 12, tzinfo=UTC)
        summary = importing(text(*self.ROWS, header=PAYSIM_HEADER), preset="paysim", start=start)
        assert summary.first_at == start

    @pytest.mark.parametrize(
        ("old", "new", "fault"),
        [
            ("1,PAYMENT", "0,PAYMENT", "created_at: not a number of hours from 1"),
            ("1,PAYMENT", "x,PAYMENT", "created_at: not a number of hours from 1"),
            ("1,PAYMENT", "1,GIFT", "transaction_type: a value that the preset does not know"),
        ],
    )
    def test_bad_rows(self, importing, old, new, fault):
        rows = [self.ROWS[0].replace(old, new), *self.ROWS[1:]]
        assert fault in importing.refused(text(*rows, header=PAYSIM_HEADER), preset="paysim")

    @pytest.mark.parametrize("year", [1, 1969, 9999])
    def test_starts_only_when_a_transaction_can_be(self, importing, year):
        start = datetime(year, 6, 1, tzinfo=UTC)
        content = text(*self.ROWS, header=PAYSIM_HEADER)
        assert "1970 to 9998" in importing.refused(content, preset="paysim", start=start)

    def test_ends_when_a_transaction_can_be(self, importing):
        start = datetime(9998, 12, 31, tzinfo=UTC)
        content = text(*self.ROWS, header=PAYSIM_HEADER)
        assert "hours from 1 to 24," in importing.refused(content, preset="paysim", start=start)
        assert importing(content, preset="paysim", start=start, skip=True).rows == 2


class TestPresets:
    def test_there_are_two(self):
        assert preset_names() == ("canonical", "paysim")
        assert load_preset("paysim").required == ("step", "amount", "nameOrig", "nameDest", "type", "isFraud")  # fmt: skip  # noqa: E501

    def test_unknown_one(self, importing):
        assert "there are: canonical, paysim" in importing.refused(text(line(1)), preset="swift")

    def test_canonical_has_no_start(self, importing):
        start = datetime(2026, 1, 1, tzinfo=UTC)
        assert "no start" in importing.refused(text(line(1)), start=start)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"amount": {}}, "amount: give exactly one"),
            ({"amount": {"column": "a", "constant": "1"}}, "amount: give exactly one"),
            ({"amount": {"colum": "a"}}, "colum"),
            ({"iban": {"column": "a"}}, "iban"),
            ({"created_at": {"column": "t", "unit": "days"}}, "unit"),
        ],
    )
    def test_a_faulty_one_is_refused(self, changes, said):
        columns = {name: {"column": name} for name in HEADER.split(",")}
        with pytest.raises(InvalidDataset, match=said):
            parse_preset("mine", {"columns": {**columns, **changes}})

    def test_a_required_column_must_be_mapped(self):
        with pytest.raises(InvalidDataset, match="is_fraud"):
            parse_preset("mine", {"columns": {"amount": {"column": "amount"}}})


@pytest.mark.django_db
class TestCommand:
    @pytest.fixture(autouse=True)
    def _folder(self, settings, tmp_path):
        settings.DATA_DIR = str(tmp_path / "home")

    def test_imports_what_the_simulator_writes(self, tmp_path, capsys):
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

    def test_reports_what_was_left_out(self, tmp_path, capsys):
        path = tmp_path / "f.csv"
        path.write_bytes(text(line(1), line(2, amount="x"), "ragged"))
        call_command("import_dataset", "some", str(path), "--on-bad-rows", "skip")
        said = capsys.readouterr().out
        assert "2 rows were left out" in said
        assert "amount: not a finite number" in said
        assert "wrong number of fields" in said
        assert Path(next(word for word in said.split() if word.endswith("rejects.csv"))).exists()

    def test_a_refusal_leaves_no_data_set(self, tmp_path):
        path = tmp_path / "f.csv"
        path.write_bytes(text(line(1), line(2, amount="x")))
        with pytest.raises(CommandError, match=r"f\.csv, line 3: amount: not a finite number"):
            call_command("import_dataset", "some", str(path))
        assert not Dataset.objects.exists()
        assert list((tmp_path / "home").iterdir()) == []

    def test_a_start_for_counted_hours(self, tmp_path):
        path = tmp_path / "p.csv"
        path.write_bytes(text(*TestPaySim.ROWS, header=PAYSIM_HEADER))
        call_command(
            "import_dataset", "p", str(path), "--preset", "paysim", "--start", "2025-05-01"
        )
        assert Dataset.objects.get().first_at == datetime(2025, 5, 1, tzinfo=UTC)
