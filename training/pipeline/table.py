"""The columns of a data set that training reads, as numpy arrays.

Text is kept as codes into its distinct values: a column of a million wallet ids costs 4 MB, and
what is done to a value (hashing, comparing) is done once for each distinct one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import InvalidDataset
from engine.transaction import country_code
from training.pipeline.local_file import Progress, local_file
from training.pipeline.recorded import Recorded, recorded_in

# `fraud_kind` and what is only known afterwards are absent on purpose: a column that is not named
# here can't reach a model.
IS_FRAUD = "is_fraud"
REQUIRED = (
    "transaction_id",
    "created_at",
    "amount",
    "currency",
    "source_wallet_id",
    "destination_wallet_id",
    "transaction_type",
    IS_FRAUD,
)
OPTIONAL_TEXT = (
    "direction",
    "country",
    "status",
    "source_wallet_status",
    "destination_wallet_status",
    "user_status",
    "user_risk_level",
)
OPTIONAL_NUMBERS = ("source_balance", "account_age_minutes")
LABEL_KNOWN_AT = "label_known_at"
ATTRIBUTE_PREFIX = "attribute_"
# Of recorded traffic: see `traffic.py`.
LABEL_FROM, DECISION, CONTROL_SHARE = "label_from", "decision", "control_share"
LABELLED = ("stated", "age")
BLOCK = "BLOCK"
FAILED = ("FAILED", "CANCELED")


@dataclass(frozen=True, slots=True)
class Text:
    """A column of text: `names[codes[row]]`, or null where the code is -1."""

    codes: NDArray[np.int32]
    names: tuple[str, ...]

    def is_in(self, values: Sequence[str]) -> NDArray[np.bool_]:
        """(rows,) whether the value is one of `values`; False for null."""
        chosen = [at for at, name in enumerate(self.names) if name in values]
        return np.isin(self.codes, chosen)

    def map(self, values: Sequence[int], null: int) -> NDArray[np.int64]:
        """(rows,) one number for each distinct value, and `null` for null."""
        # Code -1 is the last entry.
        return np.array([*values, null], dtype=np.int64)[self.codes]

    def take(self, rows: slice | NDArray[np.int64]) -> "Text":
        """The column of some rows."""
        return Text(self.codes[rows], self.names)

    def values(self, rows: slice | NDArray[np.int64] = slice(None)) -> list[Any]:
        """The text of some rows, None for null."""
        lookup = (*self.names, None)
        return [lookup[code] for code in self.codes[rows].tolist()]


class AttributeColumn(NamedTuple):
    """What the data set says of one attribute of its own."""

    kind: Literal["number", "boolean", "category"]
    values: NDArray[np.float64] | Text
    """`Text` of a category; otherwise numbers, a boolean as 1 and 0, NaN for null."""


@dataclass(frozen=True, slots=True)
class Transactions:
    """A data set in its order (time, then row). Every array has one entry a row."""

    transaction_id: pa.ChunkedArray
    created_at: NDArray[np.int64]
    """Microseconds since 1970, UTC."""
    amount: NDArray[np.int64]
    """Ten-thousandths of the currency's unit."""
    source: NDArray[np.int64]
    destination: NDArray[np.int64]
    """Wallets, as positions in `wallets`, which both columns share."""
    wallets: pa.Array
    """(distinct wallets,) their ids."""
    is_fraud: NDArray[np.bool_]
    """False where nobody knows, see `labelled`."""
    text: dict[str, Text]
    """`currency`, `transaction_type` and the columns of `OPTIONAL_TEXT`."""
    numbers: dict[str, NDArray[np.float64]]
    """The columns of `OPTIONAL_NUMBERS`; NaN for null."""
    label_known_at: NDArray[np.int64] | None = None
    """When each label became known, microseconds since 1970; `created_at` plus the label delay
    stands for -1. None: the data set does not say."""
    attributes: dict[str, AttributeColumn] = field(default_factory=dict)
    """By name, without the prefix."""
    labelled: NDArray[np.bool_] | None = None
    """The rows whose label can be learnt from and judged by; the others are history and nothing
    else. None: all rows."""
    label_from: Text | None = None
    """Of recorded traffic: where each label comes from, or why there is none."""
    blocked: NDArray[np.bool_] | None = None
    """Of recorded traffic: Sentinelle decided BLOCK."""
    control_share: NDArray[np.float64] | None = None
    """Of recorded traffic: the share of the models' blocks that were let through when this one
    was, NaN for every other row."""
    recorded: Recorded | None = None
    """Of recorded traffic: what features were when the transactions were decided on."""

    def __len__(self) -> int:
        return len(self.created_at)

    def head(self, rows: int) -> "Transactions":
        """The first rows, sharing their memory."""

        def first(values: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if values is None else values[:rows]

        return Transactions(
            transaction_id=self.transaction_id.slice(0, rows),
            created_at=self.created_at[:rows],
            amount=self.amount[:rows],
            source=self.source[:rows],
            destination=self.destination[:rows],
            wallets=self.wallets,
            is_fraud=self.is_fraud[:rows],
            text={name: column.take(slice(rows)) for name, column in self.text.items()},
            numbers={name: values[:rows] for name, values in self.numbers.items()},
            label_known_at=first(self.label_known_at),
            attributes={
                name: column._replace(
                    values=column.values.take(slice(rows))
                    if isinstance(column.values, Text)
                    else column.values[:rows]
                )
                for name, column in self.attributes.items()
            },
            labelled=first(self.labelled),
            label_from=None if self.label_from is None else self.label_from.take(slice(rows)),
            blocked=first(self.blocked),
            control_share=first(self.control_share),
            recorded=self.recorded,
        )

    @property
    def is_labelled(self) -> NDArray[np.bool_]:
        """(rows,) see `labelled`."""
        return np.ones(len(self), np.bool_) if self.labelled is None else self.labelled

    @property
    def failed(self) -> NDArray[np.bool_]:
        """(rows,) the transaction ended as FAILED or CANCELED."""
        return self.text["status"].is_in(FAILED)

    @property
    def country_codes(self) -> NDArray[np.int64]:
        """(rows,) `engine.transaction.country_code` of each country."""
        country = self.text["country"]
        return country.map([country_code(name) for name in country.names], country_code(None))


def read_transactions(
    location: str, sample: int | None = None, progress: Progress | None = None
) -> Transactions:
    """Read a data set's Parquet file from a folder or a bucket.

    Args:
        location: of `data.parquet`, in the canonical schema, sorted by time.
        sample: only the most recent rows, if given.
        progress: called while the file comes from a bucket.

    Raises:
        InvalidDataset: the file is missing, is not Parquet, or lacks a column or a value of one
            that is required.
        StoreUnavailable: the bucket does not answer.
    """
    with local_file(location, progress) as path:
        try:
            table = _read_columns(path, sample)
            recorded = recorded_in(path, len(table))
        except pa.ArrowInvalid as error:
            raise InvalidDataset(f"The data set can't be read ({location}): {error}") from error
    _check_required(table)
    return _to_arrays(table, recorded)


def _read_columns(path: Path, sample: int | None) -> pa.Table:
    file = pq.ParquetFile(path)
    present = set(file.schema_arrow.names)
    if missing := [name for name in REQUIRED if name not in present]:
        raise InvalidDataset(
            f"The data set has no column {', '.join(missing)}. Import it with `import_dataset`."
        )
    of_traffic = (LABEL_FROM, DECISION, CONTROL_SHARE)
    canonical = (*REQUIRED, *OPTIONAL_TEXT, *OPTIONAL_NUMBERS, LABEL_KNOWN_AT, *of_traffic)
    wanted = [name for name in canonical if name in present]
    wanted += sorted(name for name in present if name.startswith(ATTRIBUTE_PREFIX))
    groups = list(range(file.num_row_groups))
    rows = file.metadata.num_rows
    skip = max(0, rows - sample) if sample else 0
    while groups and file.metadata.row_group(groups[0]).num_rows <= skip:
        skip -= file.metadata.row_group(groups.pop(0)).num_rows
    return file.read_row_groups(groups, columns=wanted).slice(skip)


def _check_required(table: pa.Table) -> None:
    if not len(table):
        raise InvalidDataset("The data set has no rows.")
    for name in REQUIRED:
        if name == IS_FRAUD:  # null: nobody knows
            continue
        if nulls := table.column(name).null_count:
            raise InvalidDataset(f"{nulls:,} rows of the data set have no {name}.")


def _to_arrays(table: pa.Table, recorded: Recorded | None) -> Transactions:
    wallets, (source, destination) = _wallets(
        table.column("source_wallet_id"), table.column("destination_wallet_id")
    )
    return Transactions(
        transaction_id=table.column("transaction_id"),
        created_at=_times(table.column("created_at")),
        amount=table.column("amount").cast(pa.int64()).to_numpy(),
        source=source,
        destination=destination,
        wallets=wallets,
        is_fraud=pc.fill_null(table.column(IS_FRAUD).cast(pa.bool_()), False).to_numpy(),
        text={
            name: _text(table, name) for name in ("currency", "transaction_type", *OPTIONAL_TEXT)
        },
        numbers={name: _numbers(table, name) for name in OPTIONAL_NUMBERS},
        label_known_at=(
            _times(table.column(LABEL_KNOWN_AT)) if LABEL_KNOWN_AT in table.column_names else None
        ),
        attributes={
            name.removeprefix(ATTRIBUTE_PREFIX): _attribute(table, name)
            for name in table.column_names
            if name.startswith(ATTRIBUTE_PREFIX)
        },
        labelled=_labelled(table),
        recorded=recorded,
        **_of_traffic(table),
    )


def _labelled(table: pa.Table) -> NDArray[np.bool_] | None:
    if LABEL_FROM in table.column_names:
        return _text(table, LABEL_FROM).is_in(LABELLED)
    label = table.column(IS_FRAUD)
    return label.is_valid().to_numpy() if label.null_count else None


def _of_traffic(table: pa.Table) -> dict[str, Any]:
    """The columns that only recorded traffic has."""
    present = set(table.column_names)
    found: dict[str, Any] = {}
    if LABEL_FROM in present:
        found["label_from"] = _text(table, LABEL_FROM)
    if DECISION in present:
        found["blocked"] = _text(table, DECISION).is_in((BLOCK,))
    if CONTROL_SHARE in present:
        found["control_share"] = _numbers(table, CONTROL_SHARE)
    return found


def _wallets(*columns: pa.ChunkedArray) -> tuple[pa.Array, list[NDArray[np.int64]]]:
    """The distinct values of the columns, and each column as positions among them."""
    chunks = [chunk for column in columns for chunk in column.cast(pa.string()).chunks]
    encoded = pa.chunked_array(chunks, pa.string()).dictionary_encode().unify_dictionaries()
    codes = np.concatenate([_indices(chunk) for chunk in encoded.chunks]).astype(np.int64)
    ends = np.cumsum([len(column) for column in columns])[:-1]
    return encoded.chunk(0).dictionary, np.split(codes, ends)


def _times(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Microseconds since 1970, -1 for null."""
    times = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    values: NDArray[np.int64] = pc.fill_null(times, -1).to_numpy()
    return values


def _attribute(table: pa.Table, name: str) -> AttributeColumn:
    type_ = table.schema.field(name).type
    if pa.types.is_boolean(type_):
        return AttributeColumn("boolean", _numbers(table, name))
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return AttributeColumn("number", _numbers(table, name))
    return AttributeColumn("category", _text(table, name))


def _text(table: pa.Table, name: str) -> Text:
    if name not in table.column_names:
        return Text(np.full(len(table), -1, np.int32), ())
    encoded = table.column(name).cast(pa.string()).dictionary_encode().unify_dictionaries()
    codes = np.concatenate([_indices(chunk) for chunk in encoded.chunks])
    return Text(codes, tuple(encoded.chunk(0).dictionary.to_pylist()))


def _indices(chunk: Any) -> NDArray[np.int32]:
    indices: NDArray[np.int32] = pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False)
    return indices


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    values: NDArray[np.float64] = table.column(name).cast(pa.float64()).to_numpy()
    return values
