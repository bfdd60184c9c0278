"""The inputs of one model: their names, their order, and how a row of them is put together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from engine.errors import InvalidBundle
from engine.features.catalogue import CATALOGUE, OWN, OWN_BALANCE
from engine.features.kernel import UNITS, compiled
from engine.transaction import country_code

_HOUR: Final = 3_600_000_000
_DAY: Final = 24 * _HOUR

_I8 = types.int64
_F8 = types.float64
_INTS_IN = types.Array(_I8, 1, "C", readonly=True)
_FLOATS_IN = types.Array(_F8, 1, "C", readonly=True)
_FLOATS = types.Array(_F8, 1, "C")
_FLOAT_ROWS_IN = types.Array(_F8, 2, "C", readonly=True)
_FLOAT_ROWS = types.Array(_F8, 2, "C")
_OWN = (_F8, _I8, _I8, _I8, _I8, _I8, _F8, _FLOATS_IN, _INTS_IN, _I8, _I8)


@compiled(types.void, *_OWN, _FLOATS)
def _fill_inputs(
    amount: float,
    created_at: int,
    is_pyc: int,
    is_incoming: int,
    type_at: int,
    country_at: int,
    balance: float,
    history: Any,
    chosen: Any,
    types_count: int,
    countries_count: int,
    out: Any,
) -> None:
    """Fill `out` with a model's inputs for one transaction, in `FeatureSchema.names` order.

    `amount` in currency units; `created_at` in microseconds UTC.

    `type_at` and `country_at` are positions among the schema's categories, -1 for none of them;
    `chosen` the positions in `history` of the features that are model inputs.
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
    out[at] = balance
    out[at + 1] = amount / balance if balance > 0.0 else math.nan
    for position in range(chosen.shape[0]):
        out[at + 2 + position] = history[chosen[position]]


@compiled(
    types.void, _FLOATS_IN, _INTS_IN, _INTS_IN, _INTS_IN, _INTS_IN, _INTS_IN, _FLOATS_IN,
    _FLOAT_ROWS_IN, _INTS_IN, _I8, _I8, _FLOAT_ROWS,
)  # fmt: skip
def _fill_input_rows(
    amount: Any,
    created_at: Any,
    is_pyc: Any,
    is_incoming: Any,
    type_at: Any,
    country_at: Any,
    balance: Any,
    history: Any,
    chosen: Any,
    types_count: int,
    countries_count: int,
    out: Any,
) -> None:
    """`_fill_inputs` for every row."""
    for row in range(amount.shape[0]):
        _fill_inputs(
            amount[row], created_at[row], is_pyc[row], is_incoming[row], type_at[row],
            country_at[row], balance[row], history[row], chosen, types_count, countries_count,
            out[row],
        )  # fmt: skip


@dataclass(frozen=True)
class FeatureSchema:
    """The ordered inputs of one model: the catalogue's, and one column a category.

    The categories (`transaction_types`, `countries` as ISO 3166 alpha-2) are fixed when a model
    is trained; a value that is none of them has zeros in all their columns.
    """

    transaction_types: tuple[str, ...]
    countries: tuple[str, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The inputs' names, in the order of a row."""
        return (
            *OWN,
            *(f"transaction_type_{name}" for name in self.transaction_types),
            *(f"country_{name}" for name in self.countries),
            *OWN_BALANCE,
            *(feature.name for feature in CATALOGUE if feature.model_input),
        )

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Where each input is in a row."""
        return {name: at for at, name in enumerate(self.names)}

    @cached_property
    def _chosen(self) -> NDArray[np.int64]:
        return np.array([i for i, f in enumerate(CATALOGUE) if f.model_input], dtype=np.int64)

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
            "names": list(self.names),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "FeatureSchema":
        """The schema that `to_dict` wrote.

        Raises InvalidBundle when it is malformed or its names are not those of this catalogue.
        """
        for field in ("transaction_types", "countries", "names"):
            values = data.get(field)
            if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
                raise InvalidBundle(f"feature schema: {field} is not a list of names")
            if len(set(values)) != len(values):
                raise InvalidBundle(f"feature schema: {field} holds a name twice")
        schema = cls(tuple(data["transaction_types"]), tuple(data["countries"]))
        if list(schema.names) != data["names"]:
            raise InvalidBundle("feature schema: the features are not those of this engine")
        return schema

    def assemble(
        self,
        *,
        amount: NDArray[np.int64],
        created_at: NDArray[np.int64],
        currency: Sequence[str],
        direction: Sequence[str],
        transaction_type: Sequence[str],
        country: NDArray[np.int64],
        source_balance: NDArray[np.float64],
        history: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """A model's inputs for n transactions: (n, len(names)).

        Takes columns of length n: amounts in ten-thousandths, times in microseconds UTC, country
        codes, balances before the transaction in currency units (NaN when unknown), and the
        (n, len(CATALOGUE)) rows of `replay`.
        """
        n = len(amount)
        out = np.empty((n, len(self.names)))
        type_at = self._type_at
        country_at = self._country_at
        _fill_input_rows(
            np.asarray(amount, dtype=np.int64) / UNITS,
            np.ascontiguousarray(created_at, dtype=np.int64),
            np.fromiter((value == "PYC" for value in currency), np.int64, n),
            np.fromiter((value == "incoming" for value in direction), np.int64, n),
            np.fromiter((type_at.get(value, -1) for value in transaction_type), np.int64, n),
            np.fromiter((country_at.get(value, -1) for value in country.tolist()), np.int64, n),
            np.ascontiguousarray(source_balance, dtype=np.float64),
            np.ascontiguousarray(history, dtype=np.float64),
            self._chosen,
            len(self.transaction_types),
            len(self.countries),
            out,
        )
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
    ) -> NDArray[np.float64]:
        """`assemble` for one transaction, by the same compiled function: (len(names),)."""
        out = np.empty(len(self.names))
        _fill_inputs(
            amount / UNITS,
            created_at,
            currency == "PYC",
            direction == "incoming",
            self._type_at.get(transaction_type, -1),
            self._country_at.get(country, -1),
            source_balance,
            history,
            self._chosen,
            len(self.transaction_types),
            len(self.countries),
            out,
        )
        return out
