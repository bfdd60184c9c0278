"""The rows that models read: names, order and values, for one transaction and for many."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidBundle
from engine.features.catalogue import CATALOGUE
from engine.features.schema import FeatureSchema
from engine.transaction import country_code
from tests.engine.oracle import DAY, HOUR

SCHEMA = FeatureSchema(("TRANSFER", "CASH_OUT"), ("FR", "US"))
HISTORY = np.arange(len(CATALOGUE), dtype=np.float64) + 100
THURSDAY = 0  # the epoch


def one(**changes: object) -> dict[str, float]:
    fields = {
        "amount": 15_000, "created_at": THURSDAY, "currency": "PYC", "direction": "outgoing",
        "transaction_type": "TRANSFER", "country": country_code("FR"), "source_balance": 3.0,
        "history": HISTORY,
    }  # fmt: skip
    return dict(zip(SCHEMA.names, SCHEMA.assemble_one(**(fields | changes)).tolist(), strict=True))


def test_names_are_the_transactions_own_the_categories_and_the_model_inputs() -> None:
    assert SCHEMA.names[:13] == (
        "amount", "log_amount", "hour_of_day", "day_of_week", "currency_is_pyc",
        "direction_outgoing", "direction_incoming", "transaction_type_TRANSFER",
        "transaction_type_CASH_OUT", "country_FR", "country_US", "source_balance",
        "amount_to_balance",
    )  # fmt: skip
    assert SCHEMA.names[13:] == tuple(f.name for f in CATALOGUE if f.model_input)
    assert [SCHEMA.positions[name] for name in SCHEMA.names] == list(range(len(SCHEMA.names)))


def test_an_ordinary_transaction() -> None:
    values = one()
    own = [values[name] for name in SCHEMA.names[:13]]
    assert own == [1.5, math.log1p(1.5), 0, 3, 1, 1, 0, 1, 0, 1, 0, 3.0, 0.5]
    history = [100.0 + i for i, feature in enumerate(CATALOGUE) if feature.model_input]
    assert [values[name] for name in SCHEMA.names[13:]] == history


@pytest.mark.parametrize(
    ("created_at", "hour", "day"),
    [
        (3 * DAY + 23 * HOUR + HOUR - 1, 23, 6),
        (4 * DAY, 0, 0),
        (4 * DAY - 1, 23, 6),
        (-1, 23, 2),
        (1_769_169_600_000_000, 12, 4),
    ],
    ids=["end of a Sunday", "Monday 00:00", "1 µs before", "before 1970", "Fri 2026-01-23 12:00"],
)
def test_hour_and_day_are_of_utc(created_at: int, hour: int, day: int) -> None:
    values = one(created_at=created_at)
    assert (values["hour_of_day"], values["day_of_week"]) == (hour, day)


@pytest.mark.parametrize("amount", [0, -1, -(10**13)])
def test_the_logarithm_of_no_amount_is_zero(amount: int) -> None:
    values = one(amount=amount)
    assert values["log_amount"] == 0
    assert values["amount"] == amount / 10_000


@pytest.mark.parametrize("balance", [0.0, -5.0, math.nan])
def test_the_share_of_an_unusable_balance_is_unknown(balance: float) -> None:
    values = one(source_balance=balance)
    assert math.isnan(values["amount_to_balance"])
    np.testing.assert_equal(values["source_balance"], balance)


def test_other_categories_have_zeros_in_every_column() -> None:
    values = one(transaction_type="PAYMENT", country=country_code("DE"), currency="EUR")
    assert values["transaction_type_TRANSFER"] == values["transaction_type_CASH_OUT"] == 0
    assert values["country_FR"] == values["country_US"] == values["currency_is_pyc"] == 0
    assert one(country=-1)["country_FR"] == 0
    assert one(country=country_code("US"))["country_US"] == 1
    assert one(transaction_type="CASH_OUT")["transaction_type_CASH_OUT"] == 1


def test_direction() -> None:
    values = one(direction="incoming")
    assert (values["direction_outgoing"], values["direction_incoming"]) == (0, 1)


row_fields = st.fixed_dictionaries(
    {
        "amount": st.integers(-(10**13), 10**13),
        "created_at": st.integers(-(10**15), 4 * 10**15),
        "currency": st.sampled_from(("PYC", "EUR")),
        "direction": st.sampled_from(("outgoing", "incoming")),
        "transaction_type": st.sampled_from(("TRANSFER", "CASH_OUT", "OTHER")),
        "country": st.sampled_from((-1, country_code("FR"), country_code("US"), 675)),
        "source_balance": st.floats(-1e9, 1e9) | st.just(math.nan),
    }
)


@settings(max_examples=100, deadline=None)
@given(st.lists(row_fields, max_size=20))
def test_one_row_is_equal_to_the_same_row_of_a_matrix_in_every_bit(rows: list[dict]) -> None:
    history = np.random.default_rng(len(rows)).random((len(rows), len(CATALOGUE)))
    numbers = {"amount": np.int64, "created_at": np.int64, "country": np.int64}
    columns = {name: [row[name] for row in rows] for name in SCHEMA_COLUMNS}
    matrix = SCHEMA.assemble(
        **{name: np.array(columns[name], dtype=kind) for name, kind in numbers.items()},
        **{name: columns[name] for name in ("currency", "direction", "transaction_type")},
        source_balance=np.array(columns["source_balance"], dtype=np.float64),
        history=history,
    )
    assert matrix.shape == (len(rows), len(SCHEMA.names))
    for row, own_history, line in zip(rows, history, matrix, strict=True):
        assert SCHEMA.assemble_one(**row, history=own_history).tobytes() == line.tobytes()


SCHEMA_COLUMNS = (
    "amount", "created_at", "currency", "direction", "transaction_type", "country",
    "source_balance",
)  # fmt: skip


def test_a_schema_survives_the_journey_through_json_types() -> None:
    assert FeatureSchema.from_dict(SCHEMA.to_dict()) == SCHEMA


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"countries": None}, "countries is not a list"),
        ({"transaction_types": [1]}, "transaction_types is not a list"),
        ({"names": "amount"}, "names is not a list"),
        ({"countries": ["FR", "FR"]}, "countries holds a name twice"),
        ({"names": list(SCHEMA.names[:-1])}, "not those of this engine"),
        ({"names": list(reversed(SCHEMA.names))}, "not those of this engine"),
    ],
)
def test_a_malformed_schema_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InvalidBundle, match=message):
        FeatureSchema.from_dict(SCHEMA.to_dict() | change)
