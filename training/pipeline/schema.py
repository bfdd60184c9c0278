"""The canonical columns of a data set, and how text becomes each of them in DuckDB's SQL.

A value that is empty or blank is missing. What is checked here is what `/score` checks of a
transaction, so that a data set holds nothing that could not have been scored.
"""

import re
from datetime import UTC, datetime
from typing import Literal, NamedTuple

EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
"""The first moment that a data set can hold, and the first that it can't."""


class Kind(NamedTuple):
    """A kind of value: SQL with `{x}` for the text, that is, a non-empty VARCHAR.

    `value` yields NULL or anything where the text is faulty; `good` is true or false, or NULL for
    false; `expected` says in words what a good value is. `family` is what a mapping may do with
    such values.
    """

    type: str
    value: str
    good: str
    expected: str
    family: Literal["text", "choice", "number", "time", "boolean"]


class Column(NamedTuple):
    """One column of the canonical schema."""

    name: str
    kind: Kind
    required: bool = False


def _text(longest: int) -> Kind:
    return Kind(
        "VARCHAR",
        "{x}",
        f"length({{x}}) <= {longest} AND NOT regexp_matches({{x}}, '[\\x00-\\x1f\\x7f]')",
        f"at most {longest} characters, no control characters",
        "text",
    )


def _code(letters: int) -> Kind:
    return Kind(
        "VARCHAR",
        "upper({x})",
        f"regexp_full_match({{x}}, '[A-Za-z]{{{{{letters}}}}}')",
        f"{letters} letters",
        "choice",
    )


def _choice(*values: str, case: str) -> Kind:
    among = ", ".join(f"'{value}'" for value in values)
    good = f"{case}({{x}}) IN ({among})"
    return Kind("VARCHAR", f"{case}({{x}})", good, " or ".join(values), "choice")


# DuckDB reads 1_0 as ten.
NUMBER = "TRY_CAST(CASE WHEN NOT contains({x}, '_') THEN {x} END AS DOUBLE)"
# DuckDB also reads words (epoch), other orders, hour 24 and dates before our era.
_DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
_HOUR = "([01][0-9]|2[0-3])"
_CLOCK = f"{_HOUR}:[0-5][0-9](:[0-5][0-9]([.][0-9]+)?)?"
_OFFSET = f"[Zz]|[+-]{_HOUR}(:?[0-5][0-9])?"
WITHOUT_OFFSET = f"regexp_full_match({{x}}, '{_DATE}([Tt ]{_CLOCK})?')"
"""SQL: the text is a date and time, and does not say in which time zone."""

IDENTIFIER = _text(64)
SHORT = _text(32)
TYPE = SHORT._replace(value="upper({x})")
# Ten-thousandths, half to even as `engine.transaction.amount_to_units` does; the inner rounding
# undoes what multiplying a binary fraction by 10,000 adds (1.00015 gives 10001.499999999998).
AMOUNT = Kind(
    "BIGINT",
    f"CAST(CASE WHEN abs({NUMBER}) <= 1e9 "
    f"THEN round_even(round({NUMBER} * 10000, 6), 0) END AS BIGINT)",
    f"abs({NUMBER}) <= 1e9",
    "a finite number from -1e9 to 1e9",
    "number",
)
# pandas writes a missing number as NaN, so NaN is missing where a number may be missing.
BALANCE = Kind(
    "DOUBLE",
    f"CASE WHEN NOT isnan({NUMBER}) THEN {NUMBER} END",
    f"isnan({NUMBER}) OR abs({NUMBER}) <= 1e15",
    "a finite number from -1e15 to 1e15",
    "number",
)
AGE = BALANCE._replace(
    good=f"isnan({NUMBER}) OR ({NUMBER} >= 0 AND {NUMBER} <= 1e12)",
    expected="a finite number from 0 to 1e12",
)


def time_kind(moment: str, good: str = "true", expected: str = "") -> Kind:
    """Times that the SQL `moment` yields from `{x}`: a TIMESTAMPTZ, or NULL when it can't."""
    return Kind(
        "TIMESTAMP",
        f"CAST({moment} AS TIMESTAMP)",
        f"{good} AND {moment} >= TIMESTAMPTZ '{EARLIEST}' AND {moment} < TIMESTAMPTZ '{LATEST}'",
        expected,
        "time",
    )


TIME = time_kind(
    "TRY_CAST(upper({x}) AS TIMESTAMPTZ)",
    f"regexp_full_match({{x}}, '{_DATE}([Tt ]{_CLOCK}({_OFFSET})?)?')",
    "a date and time such as 2026-01-31T12:00:00Z",
)
BOOLEAN = Kind(
    "BOOLEAN",
    "lower({x}) IN ('true', 't', '1', '1.0', 'yes')",
    "lower({x}) IN ('true', 't', '1', '1.0', 'yes', 'false', 'f', '0', '0.0', 'no')",
    "true or false, 1 or 0",
    "boolean",
)

COLUMNS = (
    Column("transaction_id", IDENTIFIER, required=True),
    Column("created_at", TIME, required=True),
    Column("amount", AMOUNT, required=True),
    Column("currency", _code(3), required=True),
    Column("source_wallet_id", IDENTIFIER, required=True),
    Column("destination_wallet_id", IDENTIFIER, required=True),
    Column("transaction_type", TYPE, required=True),
    Column("direction", _choice("outgoing", "incoming", case="lower")),
    Column("country", _code(2)),
    Column("city", _text(128)),
    Column("initiator_user_id", IDENTIFIER),
    Column("status", _choice("SUCCESS", "FAILED", "CANCELED", case="upper")),
    Column("source_balance", BALANCE),
    Column("source_wallet_status", SHORT),
    Column("destination_wallet_status", SHORT),
    Column("user_status", SHORT),
    Column("user_risk_level", SHORT),
    Column("account_age_minutes", AGE),
    Column("is_fraud", BOOLEAN, required=True),
    Column("fraud_kind", SHORT),
)

LABEL_KNOWN_AT = Column("label_known_at", TIME)
"""When the label became known, never before `created_at`; a data set may lack the column."""

ATTRIBUTE_KINDS = {"number": BALANCE, "boolean": BOOLEAN, "category": IDENTIFIER}
"""What an attribute can be; names and limits are those of `transaction.attributes`."""

ATTRIBUTE_PREFIX = "attribute_"
ATTRIBUTE_NAME = re.compile("[a-z][a-z0-9_]{0,39}")
MOST_ATTRIBUTES = 64


def attribute_column(name: str, kind: str) -> Column:
    """The column that holds the attribute `name`."""
    return Column(ATTRIBUTE_PREFIX + name, ATTRIBUTE_KINDS[kind])
