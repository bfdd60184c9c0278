"""A data set made ready for the models: split in time, checked, turned into a matrix."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidDataset
from engine.features.replay import replay, visible_at_once
from engine.features.schema import FeatureSchema
from training.pipeline.spec import RunSpec
from training.pipeline.split import Split, temporal_split
from training.pipeline.table import Transactions

# A category is worth a column when the training part has this many rows of it.
CATEGORY_ROWS = 50
MAX_CATEGORIES = 30
# Fewer than these and the part decides nothing: (rows, frauds).
MINIMUM = {"train": (500, 20), "validation": (100, 5), "test": (100, 5)}


class Prepared(NamedTuple):
    """The data set as the models see it."""

    schema: FeatureSchema
    matrix: NDArray[np.float64]
    """(rows, len(schema.names)), NaN where a value is not known."""
    rule_history: NDArray[np.float64]
    """(rows of validation and test, len(CATALOGUE)): what rules read of the past."""


def split_data(data: Transactions, fractions: tuple[float, float, float]) -> Split:
    """Split in time and check that each part can carry its weight.

    Raises:
        InvalidDataset: naming each part that lacks rows, frauds or legitimate rows, with counts.
    """
    frauds = int(data.is_fraud.sum())
    if not frauds:
        raise InvalidDataset(
            f"The data set has no fraud: none of its {len(data):,} rows has is_fraud true. "
            "A supervised model needs confirmed frauds."
        )
    if len(data) < sum(rows for rows, _ in MINIMUM.values()):
        raise InvalidDataset(
            f"The data set is too small: {len(data):,} rows ({frauds:,} frauds). Training needs "
            + ", ".join(f"{rows} {part} rows" for part, (rows, _) in MINIMUM.items())
            + " at least."
        )
    split = temporal_split(data.created_at, fractions)
    faults = []
    for name, part in split.parts():
        rows, part_frauds = part.stop - part.start, int(data.is_fraud[part].sum())
        found = {"rows": rows, "frauds": part_frauds, "legitimate rows": rows - part_frauds}
        least_rows, least_frauds = MINIMUM[name]
        least = {"rows": least_rows, "frauds": least_frauds, "legitimate rows": least_frauds}
        faults += [
            f"the {name} part ({_moment(data, part.start)} to {_moment(data, part.stop - 1)}) has "
            f"{found[what]:,} {what} of the {least[what]} needed"
            for what in found
            if found[what] < least[what]
        ]
    if faults:
        raise InvalidDataset(
            f"The data set ({len(data):,} rows, {frauds:,} frauds) can't be split in time: "
            + "; ".join(faults)
            + "."
        )
    return split


def prepare(data: Transactions, split: Split, progress: Callable[[float, str], None]) -> Prepared:
    """The features of every row, from the rows before it; categories from the training part."""
    schema = FeatureSchema(
        transaction_types=_categories(data, "transaction_type", split, least=1),
        countries=_categories(data, "country", split, least=CATEGORY_ROWS),
    )
    history = replay(
        data.created_at,
        data.amount,
        data.source,
        data.destination,
        data.country_codes,
        failed_visible_from=visible_at_once(data.failed),
        progress=lambda rows: progress(0.9 * rows / len(data), f"{rows:,} rows"),
    )
    matrix = schema.assemble(
        amount=data.amount,
        created_at=data.created_at,
        currency=data.text["currency"].values(),
        direction=data.text["direction"].values(),
        transaction_type=data.text["transaction_type"].values(),
        country=data.country_codes,
        source_balance=data.numbers["source_balance"],
        history=history,
    )
    return Prepared(schema, matrix, history[split.train.stop :].copy())


def describe(
    data: Transactions, split: Split, spec: RunSpec, schema: FeatureSchema
) -> dict[str, Any]:
    """What was trained on: counts and times of the whole and of each part."""
    return {
        "dataset": Path(spec.dataset).parent.name,
        "fingerprint": spec.dataset_fingerprint,
        "sample": spec.sample,
        **_describe_rows(data, slice(0, len(data))),
        "parts": {name: _describe_rows(data, part) for name, part in split.parts()},
        "features": len(schema.names),
        "transaction_types": list(schema.transaction_types),
        "countries": list(schema.countries),
    }


def _categories(data: Transactions, name: str, split: Split, least: int) -> tuple[str, ...]:
    """The values of a column worth a feature each: the most frequent of the training part."""
    column = data.text[name]
    codes = column.codes[split.train]
    counts = np.bincount(codes[codes >= 0], minlength=len(column.names))
    kept = [at for at in np.argsort(-counts, kind="stable")[:MAX_CATEGORIES] if counts[at] >= least]
    return tuple(sorted(column.names[at] for at in kept))


def _describe_rows(data: Transactions, part: slice) -> dict[str, Any]:
    labels = data.is_fraud[part]
    return {
        "rows": len(labels),
        "frauds": int(labels.sum()),
        "fraud_rate": float(labels.mean()),
        "first_at": _moment(data, part.start),
        "last_at": _moment(data, part.stop - 1),
    }


def _moment(data: Transactions, row: int) -> str:
    moment = datetime.fromtimestamp(data.created_at[row] / 1e6, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
