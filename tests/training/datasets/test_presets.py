"""The mappings that ship with Sentinelle."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.training.datasets.support import HEADER, PAYSIM_HEADER, PAYSIM_ROWS, line, text
from training.pipeline import presets
from training.pipeline.mapping import read_mapping
from training.pipeline.presets import load_preset, preset_names


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


def test_there_are_three():
    assert preset_names() == ("canonical", "credit-card", "paysim")
    assert load_preset("paysim").required == (
        "step", "amount", "nameOrig", "nameDest", "type", "isFraud"
    )  # fmt: skip


def test_unknown_one(importing):
    detail = importing.refused(text(line(1)), mapping="swift")
    assert "there are: canonical, credit-card, paysim" in detail


def test_canonical_has_no_start(importing):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert "no start" in importing.refused(text(line(1)), start=start)


def test_canonical_knows_when_labels_were_known(importing):
    importing(text(line(1) + ",2026-01-09", header=HEADER + ",label_known_at"))
    assert importing.rows()[0]["label_known_at"] == datetime(2026, 1, 9)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_read_as_a_mapping_file_is_the_same(name):
    path = Path(presets.__file__).with_name(f"{name}.toml")
    assert read_mapping(path).sources == load_preset(name).sources


SPARKOV = {
    "": "0", "trans_date_trans_time": "2019-01-01 00:00:18", "cc_num": "2703186189652095",
    "merchant": '"fraud_Rippin, Kub and Mann"', "category": "misc_net", "amt": "4.97",
    "first": "Jennifer", "last": "Banks", "gender": "F", "street": "561 Perry Cove",
    "city": "Moravian Falls", "state": "NC", "zip": "28654", "lat": "36.0788",
    "long": "-81.1781", "city_pop": "3495", "job": '"Psychologist, counselling"',
    "dob": "1988-03-09", "trans_num": "0b242abb623afc578575680df30655b9",
    "unix_time": "1325376018", "merch_lat": "36.011293", "merch_long": "-82.048315",
    "is_fraud": "0",
}  # fmt: skip


@pytest.mark.parametrize("left_out", ["", "Unnamed: 0", None])
def test_card_payments_with_or_without_the_number_of_the_row(importing, left_out):
    cells = {name or left_out: cell for name, cell in SPARKOV.items()}
    cells.pop(None, None)
    summary = importing(
        text(",".join(cells.values()), header=",".join(cells)), mapping="credit-card"
    )
    (stored,) = importing.rows()
    assert stored == {
        **dict.fromkeys(stored),
        "transaction_id": "0b242abb623afc578575680df30655b9",
        "created_at": datetime(2019, 1, 1, 0, 0, 18),
        "amount": 49_700,
        "currency": "USD",
        "source_wallet_id": "card-2703186189652095",
        "destination_wallet_id": "merchant-fraud_Rippin, Kub and Mann",
        "transaction_type": "MISC_NET",
        "country": "US",
        "city": "Moravian Falls",
        "is_fraud": False,
        "attribute_city_population": 3495.0,
    }
    assert summary.attributes == {"city_population": "number"}
    assert summary.ignored_columns == ()
