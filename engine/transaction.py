"""What a caller sends to `/score` and `/score/batch`: decoded, validated and normalised.

The fast path is one msgspec decode. Only after it fails is the body walked field by field, so
that the answer names every fault at once. The `description` of each constraint is the sentence
that a caller reads.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from engine.errors import FieldError, InvalidRequest
from engine.features.catalogue import CATALOGUE, OWN, OWN_BALANCE, RATIOS
from engine.json_faults import invalid_request, parse_json

MAX_AMOUNT = 1e9
MAX_ATTRIBUTES = 64
MAX_BATCH = 1_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# No control characters (PostgreSQL can't store NUL, logs can't show the others) and no lone
# surrogates (which are not text). `\Z`, because `$` would let a final newline through.
_TEXT = r"^[^\x00-\x1f\x7f\ud800-\udfff]{1,%d}\Z"

Identifier = Annotated[
    str,
    Meta(pattern=_TEXT % 64, description="a string of 1 to 64 characters, no control characters"),
]
ShortText = Annotated[
    str,
    Meta(pattern=_TEXT % 32, description="a string of 1 to 32 characters, no control characters"),
]
City = Annotated[
    str,
    Meta(pattern=_TEXT % 128, description="a string of 1 to 128 characters, no control characters"),
]
_COUNTRY = re.compile(r"^[A-Za-z]{2}\Z")
Currency = Annotated[str, Meta(pattern=r"^[A-Za-z]{3}\Z", description="a currency of 3 letters")]
Country = Annotated[
    str, Meta(pattern=_COUNTRY.pattern, description="an ISO 3166 alpha-2 country code (2 letters)")
]
Amount = Annotated[
    float,
    Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT, description="a finite number from -1e9 to 1e9"),
]
Balance = Annotated[
    float, Meta(ge=-1e15, le=1e15, description="a finite number from -1e15 to 1e15")
]
Age = Annotated[float, Meta(ge=0, le=1e12, description="a finite number from 0 to 1e12")]
Direction = Annotated[Literal["outgoing", "incoming"], Meta(description='"outgoing" or "incoming"')]
Timestamp = Annotated[
    datetime, Meta(description="an RFC 3339 date and time in the years 1970 to 9998")
]
ATTRIBUTE_NAME = r"^[a-z][a-z0-9_]{0,39}\Z"
AttributeName = Annotated[
    str,
    Meta(
        pattern=ATTRIBUTE_NAME,
        description="names of 1 to 40 of a-z, 0-9 and _, beginning with a letter",
    ),
]
AttributeValue = Annotated[
    bool
    | Annotated[float, Meta(ge=-1e15, le=1e15)]
    | Annotated[str, Meta(pattern=_TEXT % 64)]
    | None,
    Meta(
        description="a finite number from -1e15 to 1e15, a boolean, a string of 1 to 64 "
        "characters without control characters, or null"
    ),
]
Attributes = Annotated[
    dict[AttributeName, AttributeValue],
    Meta(
        max_length=MAX_ATTRIBUTES,
        description=f"a JSON object of at most {MAX_ATTRIBUTES} attributes",
    ),
]


def is_in_range(moment: datetime) -> bool:
    """Say whether an aware time is in the years 1970 to 9998, which every part can hold."""
    return _EPOCH <= moment < _LATEST


def amount_to_units(amount: float) -> int:
    """Return `amount` in ten-thousandths, the decimal that was written rounded half to even."""
    return int(Decimal(repr(amount)).scaleb(4).to_integral_value(ROUND_HALF_EVEN))


def wallet_code(wallet_id: str) -> int:
    """Return a signed 64-bit code of a wallet id: blake2b of its UTF-8, little-endian."""
    digest = hashlib.blake2b(wallet_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def country_code(country: str | None) -> int:
    """Return 26·a + b for an ISO 3166 alpha-2 code in any case (0 to 675), -1 for none."""
    if country is None:
        return -1
    first, second = country.upper().encode("ascii")
    return 26 * (first - 65) + (second - 65)


SentValue = float | tuple[str, ...]
"""A feature value as sent: a number, or the countries of `user_country_history`."""

COUNTRY_HISTORY = "user_country_history"
"""The one feature that is a list of countries; only rules read it."""

_MAX_SENT = 1e15
_SENT_NUMBER = "a finite number from -1e15 to 1e15, a boolean or null"
_SENT_COUNTRIES = "a list of at most 1000 ISO 3166 alpha-2 country codes, or null"
_NUMERIC_FEATURES = frozenset(
    (*OWN, *OWN_BALANCE, *RATIOS, *(feature.name for feature in CATALOGUE))
)


def is_numeric_feature(name: str) -> bool:
    """Say whether `name` is a feature of any bundle that holds a number."""
    return name in _NUMERIC_FEATURES or name.startswith(("transaction_type_", "country_"))


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """Feature values that a caller computed itself; null means "compute it"."""

    historical: dict[str, Any] | None = None
    transactional: dict[str, Any] | None = None


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """One attempted transfer. Codes are upper-cased; a missing direction is `outgoing`.

    `attributes` are what a team knows of its transactions beyond these fields, by name: floats,
    booleans and text. A null is as good as absent, so None are left, and no empty object.
    """

    transaction_id: Identifier
    amount: Amount
    currency: Currency
    source_wallet_id: Identifier
    destination_wallet_id: Identifier
    transaction_type: ShortText
    created_at: Timestamp
    direction: Direction | None = None
    initiator_user_id: Identifier | None = None
    country: Country | None = None
    city: City | None = None
    attributes: Attributes | None = None
    features: Features | None = None

    def __post_init__(self) -> None:
        normalise = msgspec.structs.force_setattr
        normalise(self, "currency", self.currency.upper())
        normalise(self, "transaction_type", self.transaction_type.upper())
        if self.country is not None:
            normalise(self, "country", self.country.upper())
        if self.direction is None:
            normalise(self, "direction", "outgoing")
        if self.attributes is not None:
            known = {name: value for name, value in self.attributes.items() if value is not None}
            normalise(self, "attributes", known or None)
        if self.created_at.tzinfo is None:
            normalise(self, "created_at", self.created_at.replace(tzinfo=UTC))
        elif is_in_range(self.created_at):
            # RFC 3339 allows offsets up to 23:59, PostgreSQL up to 15:59.
            normalise(self, "created_at", self.created_at.astimezone(UTC))

    @property
    def amount_units(self) -> int:
        """The amount in ten-thousandths."""
        return amount_to_units(self.amount)

    @property
    def created_at_us(self) -> int:
        """Microseconds since 1970-01-01T00:00:00Z."""
        return (self.created_at - _EPOCH) // _MICROSECOND

    def digest(self) -> bytes:
        """Return the SHA-256 that identifies this transaction: every field but its features."""
        identity: tuple[Any, ...] = (
            self.transaction_id,
            self.amount_units,
            self.currency,
            self.source_wallet_id,
            self.destination_wallet_id,
            self.transaction_type,
            self.created_at_us,
            self.direction,
            self.initiator_user_id,
            self.country,
            self.city,
        )
        if self.attributes:  # Digests from before there were attributes stay what they are.
            identity = (*identity, sorted(self.attributes.items()))
        return hashlib.sha256(msgspec.json.encode(identity)).digest()


class WalletContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller knows of a wallet, before the transaction."""

    balance: Balance | None = None
    status: ShortText | None = None
    account_age_minutes: Age | None = None


class UserContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller knows of the person who initiated the transaction."""

    status: ShortText | None = None
    risk_level: ShortText | None = None


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The state around a transaction; a part that is missing or null is unknown."""

    source_wallet: WalletContext | None = None
    destination_wallet: WalletContext | None = None
    user: UserContext | None = None


_NO_WALLET = WalletContext()
_NO_USER = UserContext()
_NO_CONTEXT = Context()


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /score`."""

    transaction: Transaction
    context: Context | None = None
    features: Features | None = None

    @property
    def source_wallet(self) -> WalletContext:
        """What is known of the source wallet; all null when nothing was sent."""
        return (self.context or _NO_CONTEXT).source_wallet or _NO_WALLET

    @property
    def destination_wallet(self) -> WalletContext:
        """What is known of the destination wallet; all null when nothing was sent."""
        return (self.context or _NO_CONTEXT).destination_wallet or _NO_WALLET

    @property
    def user(self) -> UserContext:
        """What is known of the user; all null when nothing was sent."""
        return (self.context or _NO_CONTEXT).user or _NO_USER

    def sent_features(self) -> dict[str, SentValue]:
        """Return the known features the caller sent, as the engine holds them.

        Numbers and booleans become floats, countries are upper-cased, nulls are dropped; the top
        level wins over the transaction's own. Names outside the catalogue are left out.
        """
        sent: dict[str, SentValue] = {}
        for features in (self.transaction.features, self.features):
            if features is not None:
                for values in (features.historical, features.transactional):
                    if values:
                        sent.update(_held(values))
        return sent


def decode_score_request(body: bytes) -> ScoreRequest:
    """Decode the body of `POST /score`.

    Raises InvalidRequest naming every faulty field (`transaction.amount`); faults of the body as
    a whole are on the field `body`.
    """
    try:
        request: ScoreRequest = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        faults = _faults(body) or [FieldError("body", f"not valid JSON: {error}")]
        raise invalid_request(faults) from None
    if faults := list(_semantic_faults(request)):
        raise invalid_request(faults)
    return request


_DECODER = msgspec.json.Decoder(ScoreRequest)


def decode_score_requests(body: bytes) -> list[ScoreRequest | InvalidRequest]:
    """Decode the body of `POST /score/batch`: `{"transactions": [...]}`, 1 to 1,000 of them.

    Each item is what `POST /score` takes, and is decoded on its own: the result has, in the order
    of the items, a request or the error that `decode_score_request` would have raised (its fields
    are named from the item on, such as `transaction.amount`). Unknown keys beside `transactions`
    are ignored.

    Raises InvalidRequest for a body that is no such list, on the field `transactions` or `body`.
    """
    try:
        items = [bytes(raw) for raw in _BATCH_DECODER.decode(body).transactions]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        items = _lenient_items(body)
    return [_decoded_or_error(item) for item in items]


class _Batch(msgspec.Struct):
    transactions: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_BATCH)]


_BATCH_DECODER = msgspec.json.Decoder(_Batch)


def _lenient_items(body: bytes) -> list[bytes]:
    """The items of a batch that is not JSON only for what one of them holds, such as NaN."""
    raw = parse_json(body)
    if not isinstance(raw, dict):
        raise invalid_request([FieldError("body", "expected a JSON object")])
    items = raw.get("transactions")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_BATCH:
        expected = f"expected a list of 1 to {MAX_BATCH} requests"
        missing = "transactions" not in raw
        raise invalid_request([FieldError("transactions", "is required" if missing else expected)])
    return [json.dumps(item, default=lambda _: math.nan).encode() for item in items]


def _decoded_or_error(body: bytes) -> ScoreRequest | InvalidRequest:
    try:
        return decode_score_request(body)
    except InvalidRequest as error:
        return error


def _semantic_faults(request: ScoreRequest) -> Iterator[FieldError]:
    """Yield what the types of a well-typed request can't say."""
    transaction = request.transaction
    if not is_in_range(transaction.created_at):
        yield _unexpected("transaction.created_at", Timestamp)
    if transaction.features is not None:
        yield from _override_faults(transaction.features, "transaction.features")
    if request.features is not None:
        yield from _override_faults(request.features, "features")


def _override_faults(features: Features, path: str) -> Iterator[FieldError]:
    for group in ("historical", "transactional"):
        values: dict[str, Any] = getattr(features, group) or {}
        for name, value in values.items():
            if expected := _expected_of_sent(name, value):
                shown = name.encode(errors="backslashreplace").decode()  # of a lone surrogate
                yield FieldError(f"{path}.{group}.{shown}", f"expected {expected}")


def _expected_of_sent(name: str, value: object) -> str | None:
    """Return what was expected of a sent feature value, None when it is well formed."""
    if value is None:
        return None
    if name == COUNTRY_HISTORY:
        return None if _is_country_list(value) else _SENT_COUNTRIES
    if not is_numeric_feature(name):
        return None
    # NaN fails the comparison, so does infinity; a huge int compares exactly.
    return None if isinstance(value, int | float) and abs(value) <= _MAX_SENT else _SENT_NUMBER


def _is_country_list(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 1000
        and all(isinstance(item, str) and _COUNTRY.match(item) for item in value)
    )


def _held(values: dict[str, Any]) -> Iterator[tuple[str, SentValue]]:
    for name, value in values.items():
        if value is None:
            continue
        if name == COUNTRY_HISTORY:
            yield name, tuple(sorted({country.upper() for country in value}))
        elif is_numeric_feature(name):
            yield name, float(value)


def _faults(body: bytes) -> list[FieldError]:
    """Return every fault of a body that the fast path refused (slow, for answers only)."""
    raw = parse_json(body)
    if not isinstance(raw, dict):
        return [FieldError("body", "expected a JSON object")]
    return list(struct_faults(ScoreRequest, raw, ""))


def struct_faults(
    struct: type[msgspec.Struct], raw: Mapping[str, Any], path: str
) -> Iterator[FieldError]:
    """Yield what keeps `raw` from being a `struct`, its fields' names prefixed with `path`."""
    for field in msgspec.structs.fields(struct):
        here = path + field.name
        if field.name not in raw:
            if field.required:
                yield FieldError(here, "is required")
            continue
        value = raw[field.name]
        if field.type == Attributes | None and isinstance(value, dict):
            yield from _attribute_faults(value, here)
            continue
        nested = _nested_struct(field.type)
        if nested is not None and isinstance(value, dict):
            yield from struct_faults(nested, value, here + ".")
            if nested is Features:
                yield from _raw_override_faults(value, here)
        else:
            yield from _value_faults(value, field.type, here)


def _value_faults(value: object, expected: Any, path: str) -> Iterator[FieldError]:
    try:
        converted = msgspec.convert(value, expected)
    except (msgspec.ValidationError, RecursionError, UnicodeEncodeError):  # of a lone surrogate
        yield _unexpected(path, expected)
        return
    if isinstance(converted, datetime):
        aware = converted if converted.tzinfo else converted.replace(tzinfo=UTC)
        if not is_in_range(aware):
            yield _unexpected(path, expected)


def _attribute_faults(raw: Mapping[str, Any], path: str) -> Iterator[FieldError]:
    if len(raw) > MAX_ATTRIBUTES:
        yield _unexpected(path, Attributes)
        return
    for name, value in raw.items():
        if re.match(ATTRIBUTE_NAME, name):
            yield from _value_faults(value, AttributeValue, f"{path}.{name}")
        else:
            expected = _unexpected(path, AttributeName).message
            yield FieldError(path, f"{expected}; got {name[:64]!r}")


def _raw_override_faults(raw: Mapping[str, Any], path: str) -> Iterator[FieldError]:
    groups = {k: v for k, v in raw.items() if isinstance(v, dict)}
    known = {k: groups[k] for k in ("historical", "transactional") if k in groups}
    yield from _override_faults(Features(**known), path)


def _alternatives(expected: Any) -> tuple[Any, ...]:
    """Return the members of an optional type, or the type itself."""
    if hasattr(expected, "__metadata__"):
        return (expected,)
    return tuple(t for t in get_args(expected) if t is not type(None)) or (expected,)


def _nested_struct(expected: Any) -> type[msgspec.Struct] | None:
    for member in _alternatives(expected):
        if isinstance(member, type) and issubclass(member, msgspec.Struct):
            return member
    return None


def _unexpected(path: str, expected: Any) -> FieldError:
    for member in _alternatives(expected):
        for meta in getattr(member, "__metadata__", ()):
            return FieldError(path, f"expected {meta.description}")
    return FieldError(path, "expected a JSON object")
