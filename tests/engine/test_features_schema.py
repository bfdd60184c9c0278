"""The rows that models read: names, order and values, for one transaction and for many."""

import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidBundle, InvalidRequest
from engine.features.catalogue import CATALOGUE, FEATURE_INDEX, RATIOS
from engine.features.schema import INPUTS, Attribute, FeatureSchema
from engine.transaction import country_code
from tests.engine.oracle import DAY, HOUR

SCHEMA = FeatureSchema(("TRANSFER", "CASH_OUT"), ("FR", "US"))
HISTORY = np.arange(len(CATALOGUE), dtype=np.float64) + 100
THURSDAY = 0  # the epoch
AGE = Attribute("age", "number")
CONTACTLESS = Attribute("contactless", "boolean")
MCC = Attribute("mcc", "category", ("5411", "6011"))
ATTRIBUTES = (AGE, MCC, CONTACTLESS)


def one(schema: FeatureSchema = SCHEMA, **changes: object) -> dict[str, float]:
    fields = {
        "amount": 15_000, "created_at": THURSDAY, "currency": "PYC", "direction": "outgoing",
        "transaction_type": "TRANSFER", "country": country_code("FR"), "source_balance": 3.0,
        "history": HISTORY,
    }  # fmt: skip
    return dict(zip(schema.names, schema.assemble_one(**(fields | changes)).tolist(), strict=True))


def test_names_are_the_transactions_own_the_categories_and_the_model_inputs() -> None:
    assert SCHEMA.names[:13] == (
        "amount", "log_amount", "hour_of_day", "day_of_week", "currency_is_pyc",
        "direction_outgoing", "direction_incoming", "transaction_type_TRANSFER",
        "transaction_type_CASH_OUT", "country_FR", "country_US", "source_balance",
        "amount_to_balance",
    )  # fmt: skip
    historical = tuple(f.name for f in CATALOGUE if f.model_input)
    assert SCHEMA.names[13:] == (*historical, *RATIOS)
    assert [SCHEMA.positions[name] for name in SCHEMA.names] == list(range(len(SCHEMA.names)))


def test_an_ordinary_transaction() -> None:
    values = one()
    own = [values[name] for name in SCHEMA.names[:13]]
    assert own == [1.5, math.log1p(1.5), 0, 3, 1, 1, 0, 1, 0, 1, 0, 3.0, 0.5]
    assert [values[f.name] for f in CATALOGUE if f.model_input] == [
        100.0 + i for i, feature in enumerate(CATALOGUE) if feature.model_input
    ]
    assert [values[name] for name in RATIOS] == [
        1.5 / (100 + FEATURE_INDEX[mean]) for mean in RATIOS.values()
    ]


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


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("mean", [0.0, -2.0, math.nan])
def test_a_ratio_to_what_is_not_above_zero_is_unknown(ratio: str, mean: float) -> None:
    history = HISTORY.copy()
    history[FEATURE_INDEX[RATIOS[ratio]]] = mean
    assert math.isnan(one(history=history)[ratio])


def test_attributes_come_last_and_a_category_has_a_column_for_each_value() -> None:
    schema = FeatureSchema(("TRANSFER",), ("FR",), ATTRIBUTES)
    assert schema.names[-4:] == (
        "attribute_age", "attribute_mcc_is_5411", "attribute_mcc_is_6011", "attribute_contactless",
    )  # fmt: skip
    assert schema.names[:-4] == FeatureSchema(("TRANSFER",), ("FR",)).names


@pytest.mark.parametrize(
    ("sent", "columns"),
    [
        ({"age": 34.5, "mcc": "6011", "contactless": True}, [34.5, 0, 1, 1]),
        ({"age": 0, "mcc": "5411", "contactless": False}, [0, 1, 0, 0]),
        ({"mcc": "7995", "other": "ignored"}, [math.nan, 0, 0, math.nan]),
        ({"age": None, "mcc": None, "contactless": None}, [math.nan, 0, 0, math.nan]),
        ({}, [math.nan, 0, 0, math.nan]),
        (None, [math.nan, 0, 0, math.nan]),
    ],
)
def test_attributes_as_sent(sent: dict[str, Any] | None, columns: list[float]) -> None:
    schema = FeatureSchema(("TRANSFER",), ("FR",), ATTRIBUTES)
    np.testing.assert_array_equal([*one(schema, attributes=sent).values()][-4:], columns)


@pytest.mark.parametrize(
    ("attribute", "expected", "wrong"),
    [
        (AGE, "a number", ["34", True]),
        (CONTACTLESS, "true or false", [1, 0.0, "true"]),
        (MCC, "a string", [5411, 5411.0, False]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_attribute_of_another_kind_is_refused(
    attribute: Attribute, expected: str, wrong: list[object]
) -> None:
    schema = FeatureSchema(("TRANSFER",), ("FR",), ATTRIBUTES)
    for value in wrong:
        with pytest.raises(InvalidRequest) as caught:
            one(schema, attributes={attribute.name: value})
        (fault,) = caught.value.errors
        assert fault.field == f"transaction.attributes.{attribute.name}"
        assert fault.message == f"this version expects {expected}"


def test_every_attribute_of_another_kind_is_named() -> None:
    schema = FeatureSchema(("TRANSFER",), ("FR",), ATTRIBUTES)
    with pytest.raises(InvalidRequest) as caught:
        one(schema, attributes={"age": "x", "mcc": 1.0, "contactless": True, "other": []})
    assert [fault.field for fault in caught.value.errors] == [
        "transaction.attributes.age",
        "transaction.attributes.mcc",
    ]


def test_a_model_can_do_without_balances() -> None:
    schema = FeatureSchema(("TRANSFER",), ("FR",), without=frozenset({"balances"}))
    whole = FeatureSchema(("TRANSFER",), ("FR",))
    left_out = {"source_balance", "amount_to_balance"}
    assert schema.names == tuple(name for name in whole.names if name not in left_out)
    values = one(whole)
    assert one(schema) == {name: values[name] for name in schema.names}


def test_a_model_can_do_without_labels() -> None:
    schema = FeatureSchema(("TRANSFER",), ("FR",), without=frozenset({"labels"}))
    whole = FeatureSchema(("TRANSFER",), ("FR",))
    left_out = {
        f"{kind}_{window}"
        for kind in ("dst_fraud_count", "dst_fraud_ratio", "src_fraud_count")
        for window in ("1d", "7d", "30d")
    }
    assert left_out < set(whole.names)
    assert schema.names == tuple(name for name in whole.names if name not in left_out)
    values = one(whole)
    assert one(schema) == {name: values[name] for name in schema.names}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureSchema((), (), without=frozenset({"money"})), "without money"),
        (lambda: FeatureSchema((), (), inputs=("nothing",)), "there is no feature nothing"),
        (lambda: FeatureSchema((), (), inputs=("tx_last_10min",)), "no feature tx_last_10min"),
        (lambda: FeatureSchema((), (), (AGE, AGE)), "two inputs have the name attribute_age"),
        (
            lambda: FeatureSchema(
                (), (), (Attribute("a", "category", ("x",)), Attribute("a_is_x", "number"))
            ),
            "the name attribute_a_is_x",
        ),
        (lambda: FeatureSchema(("A", "A"), ()), "the name transaction_type_A"),
        (lambda: Attribute("Age", "number"), "'Age' can't be the name"),
        (lambda: Attribute("age", "text"), "no kind 'text'"),  # type: ignore[arg-type]
        (lambda: Attribute("age", "number", ("1",)), "a number has no categories"),
    ],
)
def test_a_schema_that_could_not_be_served_is_not_made(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class Text(NamedTuple):
    """Text by its distinct values, some of which no row has."""

    codes: np.ndarray
    names: tuple[str, ...]


def coded(values: Iterable[str | None]) -> Text:
    values = list(values)
    names = ("unused", *dict.fromkeys(v for v in values if v is not None))
    codes = [-1 if value is None else names.index(value) for value in values]
    return Text(np.array(codes, dtype=np.int32), names)


row_fields = st.fixed_dictionaries(
    {
        "amount": st.integers(-(10**13), 10**13),
        "created_at": st.integers(-(10**15), 4 * 10**15),
        "currency": st.sampled_from(("PYC", "EUR")),
        "direction": st.sampled_from(("outgoing", "incoming")),
        "transaction_type": st.sampled_from(("TRANSFER", "CASH_OUT", "OTHER")),
        "country": st.sampled_from((-1, country_code("FR"), country_code("US"), 675)),
        "source_balance": st.floats(-1e9, 1e9) | st.just(math.nan),
        "attributes": st.fixed_dictionaries(
            {
                "age": st.none() | st.floats(-1e15, 1e15),
                "mcc": st.none() | st.sampled_from(("5411", "6011", "7995")),
                "contactless": st.none() | st.booleans(),
                "unread": st.just("x"),
            }
        ),
    }
)
TEXTS = ("currency", "direction", "transaction_type")
schemas = st.builds(
    FeatureSchema,
    st.sampled_from(((), ("TRANSFER", "CASH_OUT"))),
    st.sampled_from(((), ("US", "FR"))),
    st.lists(st.sampled_from((*ATTRIBUTES, Attribute("none", "category"))), unique=True).map(tuple),
    st.sets(st.sampled_from(("labels", "balances"))).map(frozenset),
    st.sets(st.sampled_from(INPUTS)).map(tuple) | st.just(INPUTS),
)


def columns_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows as `assemble` takes them, text row by row."""
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in (*TEXTS, "country")}
    for name, kind in (("amount", int), ("created_at", int), ("source_balance", float)):
        columns[name] = np.array([row[name] for row in rows], dtype=kind)
    columns["country"] = np.array(columns["country"], dtype=np.int64)
    columns["attributes"] = {
        "age": np.array([row["attributes"]["age"] for row in rows], dtype=np.float64),
        "mcc": [row["attributes"]["mcc"] for row in rows],
        "contactless": np.array([row["attributes"]["contactless"] for row in rows], np.float64),
    }
    return columns


@settings(max_examples=100, deadline=None)
@given(st.lists(row_fields, max_size=20), schemas)
def test_one_row_is_equal_to_the_same_row_of_a_matrix_in_every_bit(
    rows: list[dict[str, Any]], schema: FeatureSchema
) -> None:
    history = np.random.default_rng(len(rows)).normal(size=(len(rows), len(CATALOGUE)))
    columns = columns_of(rows)
    by_row = schema.assemble(**columns, history=history)
    columns |= {name: coded(columns[name]) for name in TEXTS}
    columns["attributes"]["mcc"] = coded(columns["attributes"]["mcc"])
    by_value = schema.assemble(**columns, history=history)
    assert by_row.shape == by_value.shape == (len(rows), len(schema.names))
    assert by_row.tobytes() == by_value.tobytes()
    for row, own_history, line in zip(rows, history, by_row, strict=True):
        assert schema.assemble_one(**row, history=own_history).tobytes() == line.tobytes()


def test_a_column_of_another_length_is_refused() -> None:
    schema = FeatureSchema(("TRANSFER",), ("FR",), ATTRIBUTES)
    row = {
        "amount": 1, "created_at": 1, "country": 1, "source_balance": 1.0, "currency": "PYC",
        "direction": "outgoing", "transaction_type": "TRANSFER",
        "attributes": {"age": 1.0, "mcc": "5411", "contactless": True},
    }  # fmt: skip
    columns = {**columns_of([row] * 3), "history": np.ones((3, len(CATALOGUE)))}
    assert schema.assemble(**columns).shape == (3, len(schema.names))
    for name in columns.keys() - {"attributes"}:
        with pytest.raises(ValueError, match="differ in length"):
            schema.assemble(**columns | {name: columns[name][:2]})
    for name, column in columns["attributes"].items():
        with pytest.raises(ValueError, match="differ in length"):
            schema.assemble(**columns | {"attributes": {name: column[:2]}})
    with pytest.raises(ValueError, match="the history has"):
        schema.assemble(**columns | {"history": np.ones((3, len(CATALOGUE) - 1))})


def test_attributes_that_a_data_set_does_not_have_are_unknown() -> None:
    schema = FeatureSchema((), (), ATTRIBUTES)
    row = {
        "amount": 1, "created_at": 1, "country": 1, "source_balance": 1.0, "currency": "PYC",
        "direction": "outgoing", "transaction_type": "TRANSFER", "attributes": {},
    }  # fmt: skip
    columns = columns_of([row | {"attributes": {"age": 1, "mcc": "", "contactless": 1}}])
    del columns["attributes"]
    (line,) = schema.assemble(**columns, history=HISTORY[np.newaxis])
    assert line.tobytes() == schema.assemble_one(**row, history=HISTORY).tobytes()


@given(schemas)
def test_a_schema_survives_the_journey_through_json(schema: FeatureSchema) -> None:
    assert FeatureSchema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_a_schema_of_fewer_features_is_read_as_it_was() -> None:
    older = FeatureSchema(("TRANSFER",), (), inputs=INPUTS[5:9])
    read = FeatureSchema.from_dict(older.to_dict())
    assert read.names == older.names
    values = one(read)
    assert [values[name] for name in INPUTS[5:9]] == [one()[name] for name in INPUTS[5:9]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"countries": None}, r"Expected `array`, got `null` - at `\$.countries`"),
        ({"transaction_types": [1]}, r"Expected `str`, got `int` - at `\$.transaction_types"),
        ({"names": "amount"}, r"Expected `array`, got `str` - at `\$.names`"),
        ({"countries": ["FR", "FR"]}, "two inputs have the name country_FR"),
        ({"names": list(SCHEMA.names[1:])}, "not those of this engine"),
        ({"names": list(reversed(SCHEMA.names))}, "not those of this engine"),
        ({"names": [*SCHEMA.names, "unheard_of"]}, "not those of this engine: unheard_of"),
        ({"names": [*SCHEMA.names, "attribute_age"]}, "not those of this engine: attribute_age"),
        ({"attributes": [{"name": "age", "kind": "number"}]}, "not those of this engine"),
        ({"attributes": [{"name": "Age", "kind": "number"}]}, "can't be the name"),
        ({"attributes": [{"name": "age"}]}, "missing required field `kind`"),
        ({"without": ["money"]}, "without money"),
        ({"without": ["balances"]}, "not those of this engine"),
    ],
)
def test_a_malformed_schema_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InvalidBundle, match=message):
        FeatureSchema.from_dict(SCHEMA.to_dict() | change)
