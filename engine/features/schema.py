"""The inputs of one model: their names, their order, and how a row of them is put together."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import msgspec
import numpy as np
from numba import types
from numpy.typing import NDArray

from engine.errors import FieldError, InvalidBundle
from engine.features.catalogue import CATALOGUE, FEATURE_INDEX, OWN, OWN_BALANCE, RATIOS
from engine.features.kernel import COUNTRIES, UNITS, compiled
from engine.json_faults import invalid_request
from engine.transaction import ATTRIBUTE_NAME, country_code

_HOUR: Final = 3_600_000_000
_DAY: Final = 24 * _HOUR

_I8 = types.int64
_F8 = types.float64
_INTS_IN = types.Array(_I8, 1, "C", readonly=True)
_FLOATS_IN = types.Array(_F8, 1, "C", readonly=True)
_FLOATS = types.Array(_F8, 1, "C")
_FLOAT_ROWS_IN = types.Array(_F8, 2, "C", readonly=True)
_FLOAT_ROWS = types.Array(_F8, 2, "C")
_LAYOUT = (_I8, _I8, _I8, _INTS_IN, _INTS_IN, _INTS_IN)


@compiled(types.void, _F8, _I8, _I8, _I8, _I8, _I8, _F8, _FLOATS_IN, _FLOATS_IN, *_LAYOUT, _FLOATS)
def _fill_inputs(
    amount: float,
    created_at: int,
    is_pyc: int,
    is_incoming: int,
    type_at: int,
    country_at: int,
    balance: float,
    attributes: Any,
    history: Any,
    types_count: int,
    countries_count: int,
    has_balance: int,
    chosen: Any,
    is_ratio: Any,
    widths: Any,
    out: Any,
) -> None:
    """Fill `out` with a model's inputs for one transaction, in `FeatureSchema.names` order.

    `amount` in currency units; `created_at` in microseconds UTC. `type_at` and `country_at` are
    positions among the schema's categories, -1 for none of them.

    `attributes` has a number for each attribute: its value, or the position of its category. Its
    `widths` is how many columns a category has, -1 for a plain value. `chosen` are the positions in
    `history` of the features that are inputs, `is_ratio` where the input is the amount over it.
    """
    out[0] = amount
    out[1] = math.log1p(max(amount, 0.0))
    out[2] = created_at // _HOUR % 24
    out[3] = (created_at // _DAY + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
    out[4] = is_pyc
    out[5] = 1 - is_incoming
    out[6] = is_incoming
    at = 7
    out[at : at + types_count + countries_count] = 0.0
    if type_at >= 0:
        out[at + type_at] = 1.0
    if country_at >= 0:
        out[at + types_count + country_at] = 1.0
    at += types_count + countries_count
    if has_balance:
        out[at] = balance
        out[at + 1] = amount / balance if balance > 0.0 else math.nan
        at += 2
    for position in range(chosen.shape[0]):
        value = history[chosen[position]]
        if is_ratio[position]:
            value = amount / value if value > 0.0 else math.nan
        out[at + position] = value
    at += chosen.shape[0]
    for position in range(widths.shape[0]):
        width = widths[position]
        if width < 0:
            out[at] = attributes[position]
            at += 1
        else:
            out[at : at + width] = 0.0
            if attributes[position] >= 0.0:
                out[at + int(attributes[position])] = 1.0
            at += width


@compiled(
    types.void, _FLOATS_IN, _INTS_IN, _INTS_IN, _INTS_IN, _INTS_IN, _INTS_IN, _FLOATS_IN,
    _FLOAT_ROWS_IN, _FLOAT_ROWS_IN, *_LAYOUT, _FLOAT_ROWS,
)  # fmt: skip
def _fill_input_rows(
    amount: Any,
    created_at: Any,
    is_pyc: Any,
    is_incoming: Any,
    type_at: Any,
    country_at: Any,
    balance: Any,
    attributes: Any,
    history: Any,
    types_count: int,
    countries_count: int,
    has_balance: int,
    chosen: Any,
    is_ratio: Any,
    widths: Any,
    out: Any,
) -> None:
    """`_fill_inputs` for every row."""
    for row in range(amount.shape[0]):
        _fill_inputs(
            amount[row], created_at[row], is_pyc[row], is_incoming[row], type_at[row],
            country_at[row], balance[row], attributes[row], history[row], types_count,
            countries_count, has_balance, chosen, is_ratio, widths, out[row],
        )  # fmt: skip


@runtime_checkable
class CodedText(Protocol):
    """A column of text by its distinct values: `names[codes[row]]`, null where the code is -1."""

    @property
    def codes(self) -> NDArray[np.integer[Any]]:
        """(rows,) positions in `names`, or -1."""

    @property
    def names(self) -> Sequence[str]:
        """The distinct values."""


TextColumn = CodedText | Sequence[str | None]
"""Text of n rows. By its distinct values it costs nothing; row by row, 0.1 s a million."""

Kind = Literal["number", "boolean", "category"]
_EXPECTED: Final[Mapping[Kind, tuple[tuple[type, ...], str]]] = {
    "number": ((int, float), "a number"),
    "boolean": ((bool,), "true or false"),
    "category": ((str,), "a string"),
}


@dataclass(frozen=True)
class Attribute:
    """One of `transaction.attributes` that a model reads: the input `attribute_NAME`.

    A number is itself, a boolean 1 or 0, both NaN when not known. A category has a column for each
    of `categories`, which are fixed when a model is trained (`attribute_NAME_is_VALUE`); any other
    value, and none, has zeros in all of them.

    Raises ValueError for a name that callers can't send, or categories of what is none.
    """

    name: str
    kind: Kind
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.match(ATTRIBUTE_NAME, self.name):
            raise ValueError(f"{self.name!r} can't be the name of an attribute")
        if self.kind not in get_args(Kind):
            raise ValueError(f"attribute {self.name}: there is no kind {self.kind!r}")
        if self.categories and self.kind != "category":
            raise ValueError(f"attribute {self.name}: a {self.kind} has no categories")

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs' names, in the order of a row."""
        if self.kind == "category":
            return tuple(f"attribute_{self.name}_is_{value}" for value in self.categories)
        return (f"attribute_{self.name}",)

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Where each category's column is among this attribute's."""
        return {value: at for at, value in enumerate(self.categories)}

    def expected(self, value: object) -> str | None:
        """Return what was expected when `value` is of another kind; None is of every kind."""
        held, expected = _EXPECTED[self.kind]
        return None if value is None or type(value) in held else expected

    def encode_one(self, value: Any) -> float:
        """Return what `_fill_inputs` takes for a value of this kind, or None."""
        if self.kind == "category":
            return float(self.places.get(value, -1))
        return math.nan if value is None else float(value)

    def encode(self, column: Any, rows: int) -> NDArray[np.float64]:
        """Return `encode_one` of every value of a column, None for a column that is missing."""
        if column is None:
            return np.full(rows, self.encode_one(None))
        if self.kind == "category":
            return _positions(column, self.places, -1).astype(np.float64)
        return np.asarray(column, dtype=np.float64)


WITHOUT: Final = frozenset({"labels", "balances"})
"""What a model can do without: features made of labels, and of the source wallet's balance."""

_LABEL_GROUP: Final = "confirmed fraud"
_FROM_LABELS: Final = frozenset(f.name for f in CATALOGUE if f.group == _LABEL_GROUP)
INPUTS: Final = (*(feature.name for feature in CATALOGUE if feature.model_input), *RATIOS)
"""What a model reads of the past: the catalogue's features for models, and the ratios to them."""


class _Layout(NamedTuple):
    """What `_fill_inputs` has to know of a schema, in the order of its arguments."""

    types_count: int
    countries_count: int
    has_balance: bool
    chosen: NDArray[np.int64]
    is_ratio: NDArray[np.int64]
    widths: NDArray[np.int64]


class _Stored(msgspec.Struct, frozen=True):
    """`FeatureSchema.to_dict`; the parts with a default are not in bundles of protocol 1."""

    transaction_types: tuple[str, ...]
    countries: tuple[str, ...]
    names: tuple[str, ...]
    attributes: tuple[Attribute, ...] = ()
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class FeatureSchema:
    """The ordered inputs of one model: the transaction's own, one column a category, the past.

    The categories (`transaction_types`, `countries` as ISO 3166 alpha-2, those of `attributes`)
    are fixed when a model is trained; a value that is none of them has zeros in all their columns.
    `without` names what to leave out (see `WITHOUT`). `inputs` is what is read of the past, all
    of `INPUTS` for a new model; a model that was trained before one of them was added has fewer.

    Raises ValueError when two inputs have one name, and for an unknown part or input.
    """

    transaction_types: tuple[str, ...]
    countries: tuple[str, ...]
    attributes: tuple[Attribute, ...] = ()
    without: frozenset[str] = frozenset()
    inputs: tuple[str, ...] = INPUTS

    def __post_init__(self) -> None:
        if unknown := set(self.without) - WITHOUT:
            raise ValueError(f"can't do without {', '.join(sorted(unknown))}")
        if unknown := set(self.inputs) - set(INPUTS):
            raise ValueError(f"there is no feature {', '.join(sorted(unknown))}")
        object.__setattr__(self, "without", frozenset(self.without))
        if "labels" in self.without:
            kept = tuple(name for name in self.inputs if name not in _FROM_LABELS)
            object.__setattr__(self, "inputs", kept)
        if len(self.positions) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"two inputs have the name {twice}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The inputs' names, in the order of a row."""
        return (
            *OWN,
            *(f"transaction_type_{name}" for name in self.transaction_types),
            *(f"country_{name}" for name in self.countries),
            *(() if "balances" in self.without else OWN_BALANCE),
            *self.inputs,
            *(name for attribute in self.attributes for name in attribute.names),
        )

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Where each input is in a row."""
        return {name: at for at, name in enumerate(self.names)}

    @cached_property
    def _layout(self) -> _Layout:
        widths = [len(a.categories) if a.kind == "category" else -1 for a in self.attributes]
        return _Layout(
            len(self.transaction_types),
            len(self.countries),
            "balances" not in self.without,
            np.array([FEATURE_INDEX[RATIOS.get(name, name)] for name in self.inputs], np.int64),
            np.array([name in RATIOS for name in self.inputs], np.int64),
            np.array(widths, np.int64),
        )

    @cached_property
    def _type_at(self) -> Mapping[str, int]:
        return {name: at for at, name in enumerate(self.transaction_types)}

    @cached_property
    def _country_at(self) -> Mapping[int, int]:
        return {country_code(name): at for at, name in enumerate(self.countries)}

    def to_dict(self) -> dict[str, Any]:
        """The schema as JSON types, with the names for people and other tools."""
        return {
            "transaction_types": list(self.transaction_types),
            "countries": list(self.countries),
            "attributes": [
                {**asdict(each), "categories": list(each.categories)} for each in self.attributes
            ],
            "without": sorted(self.without),
            "names": list(self.names),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "FeatureSchema":
        """The schema that `to_dict` wrote, now or when the catalogue had fewer features.

        Raises InvalidBundle when it is malformed or has a name that this engine does not.
        """
        try:
            stored = msgspec.convert(data, _Stored)
            inputs = tuple(name for name in stored.names if name in INPUTS)
            schema = cls(
                stored.transaction_types,
                stored.countries,
                stored.attributes,
                stored.without,
                inputs,
            )
        except (msgspec.ValidationError, ValueError) as error:
            raise InvalidBundle(f"feature schema: {error}") from None
        if schema.names != stored.names:
            unknown = ", ".join(sorted(set(stored.names) - set(schema.names)))
            raise InvalidBundle(
                f"feature schema: the features are not those of this engine: {unknown or 'order'}"
            )
        return schema

    def assemble(
        self,
        *,
        amount: NDArray[np.int64],
        created_at: NDArray[np.int64],
        currency: TextColumn,
        direction: TextColumn,
        transaction_type: TextColumn,
        country: NDArray[np.int64],
        source_balance: NDArray[np.float64],
        history: NDArray[np.float64],
        attributes: Mapping[str, NDArray[Any] | TextColumn] | None = None,
    ) -> NDArray[np.float64]:
        """A model's inputs for n transactions: (n, len(names)).

        Takes columns of length n: amounts in ten-thousandths, times in microseconds UTC, country
        codes, balances before the transaction in currency units (NaN when unknown), and the
        (n, len(CATALOGUE)) rows of `replay`. `attributes` has, by name, numbers or booleans as
        floats (NaN when unknown), or a category's text; one that is missing is unknown
        everywhere, and names that are not the schema's are not read.

        Raises ValueError when a column has another length.
        """
        n = len(amount)
        given = attributes or {}
        columns = (
            np.asarray(amount, dtype=np.int64) / UNITS,
            np.ascontiguousarray(created_at, dtype=np.int64),
            _positions(currency, {"PYC": 1}, 0),
            _positions(direction, {"incoming": 1}, 0),
            _positions(transaction_type, self._type_at, -1),
            self._country_positions(country),
            np.ascontiguousarray(source_balance, dtype=np.float64),
        )
        own = [each.encode(given.get(each.name), n) for each in self.attributes]
        history = np.ascontiguousarray(history, dtype=np.float64)
        if any(len(column) != n for column in (*columns, *own, history)):
            raise ValueError("the columns differ in length")
        if history.shape[1] != len(CATALOGUE):
            raise ValueError(f"the history has {history.shape[1]} features, not {len(CATALOGUE)}")
        encoded = np.column_stack(own) if own else np.empty((n, 0))
        out = np.empty((n, len(self.names)))
        _fill_input_rows(*columns, encoded, history, *self._layout, out)
        return out

    def assemble_one(
        self,
        *,
        amount: int,
        created_at: int,
        currency: str,
        direction: str,
        transaction_type: str,
        country: int,
        source_balance: float,
        history: NDArray[np.float64],
        attributes: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """`assemble` for one transaction, by the same compiled function: (len(names),).

        `attributes` are those of the transaction as sent.

        Raises InvalidRequest naming each attribute of another kind than the schema has.
        """
        out = np.empty(len(self.names))
        _fill_inputs(
            amount / UNITS,
            created_at,
            currency == "PYC",
            direction == "incoming",
            self._type_at.get(transaction_type, -1),
            self._country_at.get(country, -1),
            source_balance,
            self._encoded(attributes or {}),
            history,
            *self._layout,
            out,
        )
        return out

    def _country_positions(self, country: NDArray[np.int64]) -> NDArray[np.int64]:
        places = np.array([self._country_at.get(code, -1) for code in range(COUNTRIES)])
        return np.where((country >= 0) & (country < COUNTRIES), places[country % COUNTRIES], -1)

    def _encoded(self, sent: Mapping[str, Any]) -> NDArray[np.float64]:
        """(len(attributes),) what `_fill_inputs` takes for the attributes sent."""
        values = [(attribute, sent.get(attribute.name)) for attribute in self.attributes]
        faults = [
            FieldError(f"transaction.attributes.{attribute.name}", f"this version expects {kind}")
            for attribute, value in values
            if (kind := attribute.expected(value))
        ]
        if faults:
            raise invalid_request(faults)
        return np.array([each.encode_one(value) for each, value in values], dtype=np.float64)


def _positions(column: TextColumn, places: Mapping[Any, int], other: int) -> NDArray[np.int64]:
    """(rows,) the place of each value, `other` for any other and for null."""
    if not isinstance(column, CodedText):
        return np.array([places.get(value, other) for value in column], dtype=np.int64)
    found = np.array([*(places.get(name, other) for name in column.names), other], dtype=np.int64)
    at: NDArray[np.int64] = found[column.codes]  # -1 finds the last
    return at
