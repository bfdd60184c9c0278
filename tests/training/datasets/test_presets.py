"""The mappings that ship with Sentinelle."""

from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from tests.training.datasets.support import PAYSIM_HEADER, PAYSIM_ROWS, text


def test_reads_what_was_known_at_the_time(importing):
    summary = importing(text(*PAYSIM_ROWS, header=PAYSIM_HEADER), mapping="paysim")
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


def test_rows_are_numbered_through_all_files(importing):
    files = [text(row, header=PAYSIM_HEADER) for row in PAYSIM_ROWS]
    importing(*files, mapping="paysim")
    assert [row["transaction_id"] for row in importing.rows()] == [
        "paysim-1", "paysim-2", "paysim-3"
    ]  # fmt: skip


def test_starts_when_told(importing):
    start = datetime(2025, 6, 1, 12, tzinfo=UTC)
    summary = importing(text(*PAYSIM_ROWS, header=PAYSIM_HEADER), mapping="paysim", start=start)
    assert summary.first_at == start


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("1,PAYMENT", "0,PAYMENT", "created_at: not a number of hours from 1"),
        ("1,PAYMENT", "x,PAYMENT", "created_at: not a number of hours from 1"),
        ("1,PAYMENT", "1,GIFT", "transaction_type: a value that the mapping does not know"),
    ],
)
def test_bad_rows(importing, old, new, fault):
    rows = [PAYSIM_ROWS[0].replace(old, new), *PAYSIM_ROWS[1:]]
    assert fault in importing.refused(text(*rows, header=PAYSIM_HEADER), mapping="paysim")


@pytest.mark.parametrize("year", [1, 1969, 9999])
def test_starts_only_when_a_transaction_can_be(importing, year):
    start = datetime(year, 6, 1, tzinfo=UTC)
    content = text(*PAYSIM_ROWS, header=PAYSIM_HEADER)
    assert "1970 to 9998" in importing.refused(content, mapping="paysim", start=start)


def test_ends_when_a_transaction_can_be(importing):
    start = datetime(9998, 12, 31, tzinfo=UTC)
    content = text(*PAYSIM_ROWS, header=PAYSIM_HEADER)
    assert "hours from 1 to 24," in importing.refused(content, mapping="paysim", start=start)
    assert importing(content, mapping="paysim", start=start, skip=True).rows == 2
