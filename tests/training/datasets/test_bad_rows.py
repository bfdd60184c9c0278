"""Rows that are left out: each is named and counted, and nothing is lost."""

import random
from collections import deque

import pytest

from tests.training.datasets.support import HEADER, line, text
from training.pipeline import csv_lines


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
def test_each_fault_is_named_and_counted(importing, changes, fault):
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
def test_optional_columns_are_checked_too(importing, column, value):
    content = text(line(1) + f",{value}", line(2) + ",", header=f"{HEADER},{column}")
    assert f"line 2: {column}: not " in importing.refused(content)
    assert f'found "{value[:40]}"' in importing.refused(content)


def test_all_faults_of_a_row_are_named(importing):
    summary = importing(text(line(1), line(2, amount="x", is_fraud="y")), skip=True)
    assert summary.rejected == 1
    assert len(summary.reject_counts) == 2
    assert summary.reject_samples[0].content == line(2, amount="x", is_fraud="y")


def test_later_rows_with_the_same_id_are_rejected(importing):
    bad = line(1, amount="x")
    content = [text(bad, line(1), line(2)), text(line(3), line(1), line(2), line(2))]
    summary = importing(*content, skip=True)
    assert summary.reject_counts["transaction_id: repeated"] == 3
    assert sorted(row["transaction_id"] for row in importing.rows()) == ["t1", "t2", "t3"]
    repeated = [(r["file"], r["line"], r["reason"]) for r in importing.rejects()[1:]]
    assert repeated[0] == ("f1.csv", "3", "transaction_id: repeated, first in f0.csv, line 3")
    assert [place[:2] for place in repeated[1:]] == [("f1.csv", "4"), ("f1.csv", "5")]


def test_ragged_rows(importing):
    content = text(line(1), "a,b,c", line(2), line(3) + ",more", line(4))
    detail = importing.refused(content)
    assert "line 3: wrong number of fields: 3 instead of 8" in detail
    assert "line 5: wrong number of fields: 9 instead of 8" in detail
    assert importing(content, skip=True).rows == 3


def test_text_that_is_not_utf8(importing):
    content = text(line(1), line(2)) + line(3, source_wallet_id="é").encode("latin-1")
    assert "line 4: not UTF-8 text" in importing.refused(content)
    assert importing(content, skip=True).rows == 2
    assert "\\xe9" in importing.rejects()[0]["content"]


def test_nul_characters(importing):
    content = text(line(1), line(2, source_wallet_id="w\0"))
    assert "line 3: a NUL character" in importing.refused(content)


@pytest.mark.parametrize("wallet", ["w\rx", '"w\rx"', "\r"])
def test_carriage_returns_within_a_line(importing, wallet):
    content = text(line(1), line(2, source_wallet_id=wallet), line(3))
    detail = importing.refused(content)
    assert "f0.csv, line 3: a carriage return within the line" in detail
    assert importing(content, skip=True).rows == 2
    assert [reject["line"] for reject in importing.rejects()] == ["3"]
    assert importing.rejects()[0]["content"] == line(2, source_wallet_id=wallet)


def test_a_quote_never_closed_costs_one_line(importing, monkeypatch):
    monkeypatch.setattr(csv_lines, "BLOCK_BYTES", 700)
    lines = [line(n) for n in range(500)]
    lines[100] = line(100, source_wallet_id='"w')
    lines[499] = line(499, source_wallet_id='"w')
    summary = importing(text(*lines), skip=True)
    assert (summary.rows, summary.rejected) == (498, 2)
    assert [r["line"] for r in importing.rejects()] == ["102", "501"]


def test_line_numbers_survive_line_breaks_within_quotes(importing, monkeypatch):
    monkeypatch.setattr(csv_lines, "BLOCK_BYTES", 100)
    header = HEADER + ",notes"
    lines = [line(1) + ',"two\nlines"', line(2) + ",", line(3, amount="x") + ","]
    summary = importing(text(*lines, header=header), skip=True)
    assert summary.ignored_columns == ("notes",)
    assert (summary.rows, importing.rejects()[0]["line"]) == (2, "5")


def test_quoted_rows_cost_the_same_in_a_block_of_any_size(importing, monkeypatch):
    class Counted(deque):
        looked_at = 0

        def __iter__(self):
            for item in super().__iter__():
                Counted.looked_at += 1
                yield item

    monkeypatch.setattr(csv_lines, "deque", Counted)
    importing(text(*(line(n, currency='"PYC"') for n in range(1_000))))
    assert Counted.looked_at <= 2_000


def test_nothing_is_lost_whatever_the_lines_are(importing, monkeypatch):
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


def test_when_every_row_is_bad_nothing_is_imported(importing):
    assert "all 2 rows are bad" in importing.refused(
        text(line(1, amount="x"), line(2, amount="y")), skip=True
    )


def test_many_bad_rows_are_all_kept_and_a_few_shown(importing):
    content = text(line(0), *(line(n, amount="x") for n in range(1, 12_001)), "ragged")
    detail = importing.refused(content)
    assert "12,001 bad rows" in detail
    assert "and 11,991 more" in detail
    summary = importing(content, skip=True)
    assert len(summary.reject_samples) == 10
    assert len(importing.rejects()) == 12_001


@pytest.mark.parametrize("bad", [line(2, transaction_id="x" * 5_000), "x" * 5_000])
def test_of_a_long_row_the_beginning_is_kept(importing, bad):
    summary = importing(text(line(1), bad), skip=True)
    assert importing.rejects()[0]["content"] == bad[:1_000]
    assert summary.reject_samples[0].content == bad[:1_000]
