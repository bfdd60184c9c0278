import contextlib
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from engine.transaction import (
    MAX_BATCH,
    ScoreRequest,
    amount_to_units,
    country_code,
    decode_score_request,
    decode_score_requests,
    wallet_code,
)
from tests.engine.requests import EXAMPLE, MISSING, body, request

REQUIRED = (
    "transaction_id",
    "amount",
    "currency",
    "source_wallet_id",
    "destination_wallet_id",
    "transaction_type",
    "created_at",
)
TEXTS = {
    "transaction.transaction_id": 64,
    "transaction.source_wallet_id": 64,
    "transaction.destination_wallet_id": 64,
    "transaction.initiator_user_id": 64,
    "transaction.transaction_type": 32,
    "transaction.city": 128,
    "context.source_wallet.status": 32,
    "context.destination_wallet.status": 32,
    "context.user.status": 32,
    "context.user.risk_level": 32,
}
CODES = {"transaction.currency": 3, "transaction.country": 2}
NUMBERS = {
    "transaction.amount": 1e9,
    "context.source_wallet.balance": 1e15,
    "context.source_wallet.account_age_minutes": 1e12,
}
OTHERS = ("transaction.direction", "transaction.created_at")
OBJECTS = (
    "transaction",
    "context",
    "context.source_wallet",
    "context.destination_wallet",
    "context.user",
    "features",
    "features.historical",
    "features.transactional",
    "transaction.features",
    "transaction.features.historical",
)
FEATURES = ("features", "transaction.features")


def faults(raw: bytes) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        decode_score_request(raw)
    assert caught.value.errors
    return {fault.field: fault.message for fault in caught.value.errors}


def faulty_fields(changes: dict[str, Any]) -> set[str]:
    return set(faults(body(changes)))


def with_literal(path: str, literal: str) -> bytes:
    """The example with raw JSON text at `path`, valid or not."""
    return body({path: "@@"}).replace(b'"@@"', literal.encode())


def cases() -> list[tuple[str, Any]]:
    """Every field with every wrong value that JSON itself can say."""
    wrong = [(f"transaction.{name}", MISSING) for name in REQUIRED]
    wrong += [(f"transaction.{name}", None) for name in REQUIRED]
    wrong += [(path, value) for path in TEXTS for value in ("", 1, True, [], {}, "a\0b", "a\nb")]
    wrong += [(path, "x" * (length + 1)) for path, length in TEXTS.items()]
    wrong += [(path, "active\n") for path in TEXTS]
    wrong += [
        (path, value)
        for path, length in CODES.items()
        for value in ("", "X" * (length - 1), "X" * (length + 1), "1" * length, "É" * length, 7)
    ]
    wrong += [(path, value) for path in NUMBERS for value in ("1", True, [], {}, "NaN", 10**30)]
    wrong += [(path, limit * 1.001) for path, limit in NUMBERS.items()]
    wrong += [("transaction.amount", -1.001e9), ("context.source_wallet.balance", -1.001e15)]
    wrong += [("context.source_wallet.account_age_minutes", -1)]
    wrong += [("transaction.direction", v) for v in ("", "OUTGOING", "sideways", 1, [], {})]
    wrong += [
        ("transaction.created_at", value)
        for value in ("", "yesterday", "2026-01-23", 1769169600, "2026-02-30T00:00:00Z", [], {},
                      "1969-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00Z",
                      "2026-01-23T12:00:00+25:00")
    ]  # fmt: skip
    wrong += [(path, value) for path in OBJECTS for value in ([], "x", 1, True)]
    return wrong


def test_the_example_of_the_contract_is_decoded() -> None:
    decoded = request()
    assert decoded.transaction.amount_units == 400_000
    assert decoded.transaction.created_at == datetime(2026, 1, 23, 12, tzinfo=UTC)
    assert decoded.source_wallet.balance == 1000.0
    assert decoded.destination_wallet.status == "active"
    assert decoded.user.risk_level == "low"
    assert decoded.sent_features() == {}


@pytest.mark.parametrize(("path", "value"), cases(), ids=lambda v: repr(v)[:40])
def test_each_wrong_value_is_refused_at_its_field(path: str, value: Any) -> None:
    assert faulty_fields({path: value}) == {path}


@pytest.mark.parametrize("path", [*TEXTS, *CODES, *NUMBERS, *OTHERS])
@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5000])
def test_numbers_that_are_none_are_refused_at_their_field(path: str, literal: str) -> None:
    assert set(faults(with_literal(path, literal))) == {path}


@pytest.mark.parametrize("name", ["transaction", "context.user", "features.historical"])
def test_every_fault_is_named_at_once(name: str) -> None:
    found = faulty_fields(
        {
            "transaction.amount": "x",
            "transaction.currency": MISSING,
            "transaction.country": "FRA",
            "transaction.created_at": "1969-12-31T23:59:59Z",
            "context.source_wallet.balance": "much",
            "context.user": 3,
            "features.historical.avg_amount_30d": "x",
            "transaction.features.transactional.amount": {},
        }
    )
    assert found == {
        "transaction.amount",
        "transaction.currency",
        "transaction.country",
        "transaction.created_at",
        "context.source_wallet.balance",
        "context.user",
        "features.historical.avg_amount_30d",
        "transaction.features.transactional.amount",
    }


@given(st.sets(st.sampled_from([*TEXTS, *CODES, *NUMBERS, *OTHERS]), min_size=1))
def test_any_combination_of_faulty_fields_is_named(paths: set[str]) -> None:
    assert faulty_fields({path: [] for path in paths}) == paths


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not valid JSON"),
        (b"null", "expected a JSON object"),
        (b"[]", "expected a JSON object"),
        (b"[%s]" % body(), "expected a JSON object"),
        (b'"x"', "expected a JSON object"),
        (b"NaN", "expected a JSON object"),
        (b"{", "not valid JSON"),
        (body() + b"x", "not valid JSON"),
        (body()[:-1], "not valid JSON"),
        (b"\xef\xbb\xbf" + body(), "not valid JSON"),
        (b"\xff\xfe" + body(), "not valid UTF-8"),
        (body().replace(b"Paris", b"Par\xe9s"), "not valid UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"transaction":' * 100_000, "nested too deeply"),
        (b"\0" * 10, "not valid JSON"),
    ],
)
def test_a_body_that_is_no_request_is_refused_as_a_whole(raw: bytes, message: str) -> None:
    assert faults(raw)["body"].startswith(message)


def test_faults_beyond_the_fields_still_refuse_the_body() -> None:
    # Ignored keys may hold anything, but what is there must be JSON.
    for literal in ("NaN", "1e", "\\", '"\\ud800"'):
        assert set(faults(with_literal("unknown", literal))) == {"body"}


ATTRIBUTE = "transaction.attributes.age"


@pytest.mark.parametrize("path", [*TEXTS, *CODES, *NUMBERS, *OTHERS, *OBJECTS, ATTRIBUTE])
def test_a_lone_surrogate_is_no_value(path: str) -> None:
    assert set(faults(with_literal(path, r'"\ud800"'))) == {path}


@pytest.mark.parametrize("path", ["features.historical", "transaction.attributes"])
def test_a_lone_surrogate_in_a_name_is_shown_escaped(path: str) -> None:
    (fault,) = faults(with_literal(path, r'{"country_\ud800": "x"}')).items()
    assert "".join(fault).encode()
    assert "ud800" in "".join(fault)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_and_never_crash(raw: bytes) -> None:
    assert set(faults(raw)) <= {"body", "transaction"}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from([*TEXTS, *CODES, *NUMBERS, *OTHERS, *OBJECTS]), JSON)
@example("context", {"ignored": float("inf")})
def test_any_value_anywhere_is_taken_or_refused_at_its_field(path: str, value: Any) -> None:
    fields: list[str] = []
    try:
        decode_score_request(body({path: value}))
    except InvalidRequest as error:
        fields = [fault.field for fault in error.errors] or ["nowhere"]
    # Below a key that is ignored, NaN and infinity have no field: the body is not JSON.
    is_json = not re.search("NaN|Infinity", json.dumps(value))
    assert all(field.startswith(path) or (field == "body" and not is_json) for field in fields)


def test_a_time_is_held_in_utc_whatever_its_offset() -> None:
    for offset in ("+16:00", "-23:59", "+05:30"):
        moment = f"2026-01-23T12:00:00{offset}"
        held = request({"transaction.created_at": moment}).transaction.created_at
        assert held == datetime.fromisoformat(moment)
        assert held.utcoffset() == timedelta(0)


def test_unknown_keys_are_ignored() -> None:
    decoded = request({"extra": 1, "transaction.extra": [], "context.user.extra": {"a": 1}})
    assert decoded == request()


@pytest.mark.parametrize(
    "path",
    ["context", "context.user", "context.source_wallet.balance", "transaction.country",
     "transaction.city", "transaction.initiator_user_id", "features", "transaction.features",
     "transaction.features.historical", "context.user.status", "transaction.direction"],
)  # fmt: skip
def test_null_is_the_same_as_missing_for_what_is_optional(path: str) -> None:
    null = request({path: None})
    absent = request({path: MISSING})
    for part in ("source_wallet", "destination_wallet", "user"):
        assert getattr(null, part) == getattr(absent, part)
    assert null.transaction.digest() == absent.transaction.digest()
    assert null.sent_features() == absent.sent_features() == {}


def test_codes_are_upper_cased_and_the_direction_is_outgoing_by_default() -> None:
    transaction = request(
        {
            "transaction.currency": "pyc",
            "transaction.country": "fr",
            "transaction.transaction_type": "transfer",
            "transaction.direction": MISSING,
        }
    ).transaction
    assert (transaction.currency, transaction.country) == ("PYC", "FR")
    assert (transaction.transaction_type, transaction.direction) == ("TRANSFER", "outgoing")


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(9998, 1, 1)),
    st.integers(-23 * 60, 23 * 60),
)
def test_created_at_is_the_same_instant_in_any_zone(local: datetime, minutes: int) -> None:
    aware = local.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    transaction = request({"transaction.created_at": aware.isoformat()}).transaction
    whole = aware - datetime(1970, 1, 1, tzinfo=UTC)
    expected = (whole.days * 86_400 + whole.seconds) * 1_000_000 + whole.microseconds
    assert transaction.created_at_us == expected


def test_a_time_without_a_zone_is_utc() -> None:
    naive = request({"transaction.created_at": "2026-01-23T12:00:00.000001"}).transaction
    assert naive.created_at == datetime(2026, 1, 23, 12, 0, 0, 1, tzinfo=UTC)
    assert naive.created_at_us == 1_769_169_600_000_001


@pytest.mark.parametrize(
    ("amount", "units"),
    [(0.00005, 0), (0.00015, 2), (0.00025, 2), (1.00005, 10_000), (1.00015, 10_002), (-0.00015, -2),
     (150, 1_500_000), (1e9, 10**13), (-1e9, -(10**13)), (0.1 + 0.2, 3_000), (-0.0, 0)],
)  # fmt: skip
def test_amounts_are_rounded_half_to_even_in_decimal(amount: float, units: int) -> None:
    assert amount_to_units(float(amount)) == units


@given(st.decimals(-(10**9), 10**9, places=4))
def test_amounts_with_four_decimals_are_exact(amount: Decimal) -> None:
    assert amount_to_units(float(amount)) == int(amount.quantize(Decimal("1e-4")) * 10_000)


@given(st.floats(-1e9, 1e9))
def test_amounts_lose_at_most_half_a_unit(amount: float) -> None:
    exact = Decimal(repr(amount)) * 10_000
    assert amount_to_units(amount) == int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))


def test_wallet_codes_are_stable() -> None:
    # Codes are in stored histories, so they can never change.
    assert wallet_code("wallet_001") == -1284842730379488569
    assert wallet_code("portefeuille é") == 3984663859859134497


@given(st.text(min_size=1).filter(lambda s: s.isprintable()))
def test_wallet_codes_fit_a_signed_64_bit_integer(wallet: str) -> None:
    assert -(2**63) <= wallet_code(wallet) < 2**63


def test_country_codes() -> None:
    assert [country_code(c) for c in (None, "AA", "AB", "FR", "fr", "ZZ")] == [
        -1, 0, 1, 147, 147, 675,
    ]  # fmt: skip


CHANGED = {
    "transaction_id": "tx_002",
    "amount": 40.0001,
    "currency": "EUR",
    "source_wallet_id": "wallet_003",
    "destination_wallet_id": "wallet_003",
    "transaction_type": "PAYMENT",
    "direction": "incoming",
    "created_at": "2026-01-23T12:00:00.000001Z",
    "initiator_user_id": None,
    "country": None,
    "city": "paris",
}


def test_the_identity_of_a_transaction_without_attributes_never_changes() -> None:
    # Digests are stored, so a retry after an upgrade must find its decision.
    assert request().transaction.digest().hex() == (
        "c185c0532cded5d0524f43ff634d0f127c2dea3418414ef236fda207bc8b611a"
    )


@pytest.mark.parametrize("attributes", [None, {}, {"mcc": None}])
def test_no_attributes_are_the_same_as_none(attributes: object) -> None:
    transaction = request({"transaction.attributes": attributes}).transaction
    assert transaction.attributes is None
    assert transaction.digest() == request().transaction.digest()


def test_attributes_are_part_of_the_identity() -> None:
    sent = [
        {"mcc": "5411"}, {"mcc": "5412"}, {"mcc": 5411}, {"mcd": "5411"}, {"mcc": "5411", "n": 1},
        {"mcc": "5411", "n": True}, {"mcc": "1", "n": "5411"}, {},
    ]  # fmt: skip
    digests = {request({"transaction.attributes": each}).transaction.digest() for each in sent}
    assert len(digests) == len(sent)
    ordered, other_way = (
        request({"transaction.attributes": each}).transaction.digest()
        for each in ({"a": 1, "b": "x", "c": None}, {"b": "x", "a": 1.0})
    )
    assert ordered == other_way


def test_attributes_are_numbers_booleans_and_text() -> None:
    sent = {"mcc": "5411", "amount": 1, "is_new": False, "day_2": 0.5}
    decoded = request({"transaction.attributes": sent | {"gone": None}}).transaction.attributes
    assert decoded == sent
    assert [type(value) for value in (decoded or {}).values()] == [str, float, bool, float]


def test_sixty_four_attributes_are_taken_and_not_one_more() -> None:
    sent = {f"a{n}" + "x" * 37: "v" * 64 for n in range(10, 74)}
    assert request({"transaction.attributes": sent}).transaction.attributes == sent
    found = faults(body({"transaction.attributes": sent | {"b": []}}))
    assert found == {"transaction.attributes": "expected a JSON object of at most 64 attributes"}


@pytest.mark.parametrize("value", [[], {}, "", "x" * 65, "a\nb", 1e16, -(10**30)])
def test_an_attribute_of_no_kind_is_refused_at_its_name(value: Any) -> None:
    assert faulty_fields(
        {"transaction.attributes": {"fine": 1, "mcc": value, "other": value}, "context.user": 1}
    ) == {"transaction.attributes.mcc", "transaction.attributes.other", "context.user"}


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e400", '"\\ud800"'])
def test_an_attribute_is_finite_and_text(literal: str) -> None:
    found = faults(with_literal("transaction.attributes.mcc", literal))
    assert set(found) == {"transaction.attributes.mcc"}


@pytest.mark.parametrize("name", ["", "Mcc", "1st", "_a", "a-b", "a.b", "a\n", "é", "x" * 41])
def test_an_attribute_of_a_wrong_name_is_refused(name: str) -> None:
    found = faults(body({"transaction.attributes": {name: 1}}))
    assert set(found) == {"transaction.attributes"}
    assert found["transaction.attributes"].endswith(f"; got {name!r}")


def batch(*items: bytes) -> bytes:
    return b'{"transactions": [%s]}' % b", ".join(items)


def outcome(item: ScoreRequest | InvalidRequest) -> object:
    """What tells a result apart: the request, or the faults."""
    return item if isinstance(item, ScoreRequest) else item.errors


def alone(item: bytes) -> object:
    try:
        return decode_score_request(item)
    except InvalidRequest as error:
        return error.errors


ITEMS = {
    "good": body(),
    "another": body({"transaction.transaction_id": "tx_002", "transaction.attributes": {"n": 1}}),
    "wrong": body({"transaction.amount": "x", "transaction.currency": MISSING}),
    "override": body({"features.historical.avg_amount_30d": "x"}),
    "attribute": body({"transaction.attributes": {"mcc": []}}),
    "not finite": with_literal("transaction.amount", "NaN"),
    "too large": with_literal("context.source_wallet.balance", "1e400"),
    "many digits": with_literal("transaction.amount", "9" * 5000),
    "surrogate": with_literal("transaction.city", r'"\ud800"'),
    "empty": b"{}",
    "null": b"null",
    "list": b"[]",
}


@given(st.lists(st.sampled_from(sorted(ITEMS)), min_size=1, max_size=8))
def test_each_item_of_a_batch_is_decoded_as_if_it_came_alone(names: list[str]) -> None:
    items = [ITEMS[name] for name in names]
    assert [outcome(item) for item in decode_score_requests(batch(*items))] == [
        alone(item) for item in items
    ]


def test_a_batch_of_a_thousand_is_decoded_and_not_one_more() -> None:
    ids = [f"tx_{n}" for n in range(MAX_BATCH)]
    items = [body({"transaction.transaction_id": each}) for each in ids]
    decoded = decode_score_requests(batch(*items))
    assert [item.transaction.transaction_id for item in decoded] == ids  # type: ignore[union-attr]
    with pytest.raises(InvalidRequest) as caught:
        decode_score_requests(batch(*items, body()))
    (fault,) = caught.value.errors
    assert fault == ("transactions", "expected a list of 1 to 1000 requests")


@pytest.mark.parametrize(
    ("raw", "field", "message"),
    [
        (b"", "body", "not valid JSON"),
        (b"[]", "body", "expected a JSON object"),
        (body(), "transactions", "is required"),
        (b'{"transactions": {}}', "transactions", "expected a list of 1 to 1000"),
        (b'{"transactions": null}', "transactions", "expected a list of 1 to 1000"),
        (batch(), "transactions", "expected a list of 1 to 1000"),
        (batch(body())[:-1], "body", "not valid JSON"),
        (batch(body()) + b"x", "body", "not valid JSON"),
        (batch(body(), b"{"), "body", "not valid JSON"),
        (batch(b"\xff"), "body", "not valid UTF-8"),
        (batch(b"[" * 100_000), "body", "nested too deeply"),
    ],
)
def test_a_body_that_is_no_batch_is_refused_as_a_whole(
    raw: bytes, field: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_score_requests(raw)
    (fault,) = caught.value.errors
    assert fault.field == field
    assert fault.message.startswith(message)


def test_text_that_is_not_utf_8_spoils_its_item_alone() -> None:
    spoilt, good = decode_score_requests(batch(body().replace(b"Paris", b"Par\xe9s"), body()))
    assert outcome(spoilt) == (("body", "not valid UTF-8"),)
    assert good == request()


@given(st.binary(max_size=100))
def test_any_bytes_are_no_batch_or_spoil_an_item(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_score_requests(raw)
    with contextlib.suppress(InvalidRequest):
        assert decode_score_requests(batch(raw, body()))[-1] == request()


def test_the_identity_covers_every_field_but_the_features() -> None:
    assert set(CHANGED) == set(EXAMPLE["transaction"])
    digests = {request().transaction.digest()}
    for name, value in CHANGED.items():
        digests.add(request({f"transaction.{name}": value}).transaction.digest())
    assert len(digests) == 1 + len(CHANGED)


@pytest.mark.parametrize(
    "changes",
    [
        {"context": None},
        {"transaction.features": {"historical": {"tx_last_10min": 9}}},
        {"features": {"historical": {"tx_last_10min": 9}}},
        {"transaction.created_at": "2026-01-23T13:00:00+01:00"},
        {"transaction.amount": 40},
        {"transaction.amount": 40.00001},
        {"transaction.currency": "pyc"},
        {"transaction.extra": 1},
    ],
)
def test_the_identity_is_of_the_decoded_transaction(changes: dict[str, Any]) -> None:
    assert request(changes).transaction.digest() == request().transaction.digest()


def test_neighbouring_fields_can_not_be_mistaken_for_each_other() -> None:
    first = request({"transaction.country": None, "transaction.city": "FR"}).transaction
    second = request({"transaction.country": "FR", "transaction.city": None}).transaction
    assert first.digest() != second.digest()


def test_the_top_level_wins_and_null_means_compute() -> None:
    sent = request(
        {
            "transaction.features.historical": {
                "tx_last_10min": 1,
                "avg_amount_30d": 10.0,
                "src_tx_count_out_1h": 3,
            },
            "features.historical": {"tx_last_10min": 2, "avg_amount_30d": None},
            "features.transactional": {"hour_of_day": 3, "transaction_type_TRANSFER": True},
        }
    ).sent_features()
    assert sent == {
        "tx_last_10min": 2.0,
        "avg_amount_30d": 10.0,
        "src_tx_count_out_1h": 3.0,
        "hour_of_day": 3.0,
        "transaction_type_TRANSFER": 1.0,
    }


def test_countries_are_sent_as_a_list() -> None:
    sent = request({"features.historical.user_country_history": ["fr", "DE", "FR"]})
    assert sent.sent_features() == {"user_country_history": ("DE", "FR")}
    empty = request({"features.historical.user_country_history": []})
    assert empty.sent_features() == {"user_country_history": ()}


@pytest.mark.parametrize("place", FEATURES)
@pytest.mark.parametrize("group", ["historical", "transactional"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("avg_amount_30d", "12"),
        ("avg_amount_30d", [1]),
        ("avg_amount_30d", {}),
        ("avg_amount_30d", 1e16),
        ("avg_amount_30d", -(10**400)),
        ("amount", "12"),
        ("country_FR", "yes"),
        ("user_country_history", "FR"),
        ("user_country_history", ["FRA"]),
        ("user_country_history", [None]),
        ("user_country_history", ["FR"] * 1001),
        ("user_country_history", 1),
        ("user_country_history", {}),
    ],
)
def test_sent_features_of_a_wrong_type_are_faults(
    place: str, group: str, name: str, value: Any
) -> None:
    path = f"{place}.{group}.{name}"
    assert faulty_fields({path: value}) == {path}


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e400", "-1e400"])
def test_sent_features_are_finite(literal: str) -> None:
    path = "features.historical.avg_amount_30d"
    assert set(faults(with_literal(path, literal))) == {path}


def test_unknown_features_are_ignored_whatever_they_hold() -> None:
    sent = request({"features.historical": {"mood": {"deep": [1]}, "trend": "up"}})
    assert sent.sent_features() == {}


def test_a_long_body_is_decoded_or_refused() -> None:
    padding = json.dumps({"x": "a" * 1_000_000})[1:-1].encode()
    assert decode_score_request(body()[:-1] + b", " + padding + b"}") == request()
