"""A data set made ready for the models: split in time, checked, turned into matrices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidDataset
from engine.features.schema import Attribute, FeatureSchema
from training.pipeline.durations import format_duration
from training.pipeline.labels import labels_at, usable_at
from training.pipeline.spec import Options, RunSpec
from training.pipeline.split import (
    Split,
    among_all,
    show_moment,
    split_by_periods,
    split_by_shares,
)
from training.pipeline.table import Text, Transactions

Rows = NDArray[np.int64]
Matrix = NDArray[np.float64]

# A category is worth a column when the training part has this many rows of it.
CATEGORY_ROWS = 50
MAX_CATEGORIES = 30
# Fewer than these and the part decides nothing: (rows, frauds).
MINIMUM = {"train": (500, 20), "validation": (100, 5), "test": (100, 5)}


class Parts(NamedTuple):
    """A data set cut in time, and what may be known of its labels."""

    data: Transactions
    """Without what is later than the test part."""
    split: Split
    labels: NDArray[np.bool_]
    """(rows,) the frauds that were known at the cut-off: all that is fitted or tuned on."""
    label_delay: int
    """Microseconds."""
    usable: NDArray[np.bool_]
    """(rows,) what may be learnt from, and in the test part judged by: not what nobody knows the
    label of, which is history and nothing else."""
    label_counts: dict[str, int] | None = None
    """Of recorded traffic, the whole of it: see `count_labels`."""

    def rows(self, part: slice) -> Rows:
        """The usable rows of a part, in order."""
        found: Rows = np.flatnonzero(self.usable[part]) + part.start
        return found


def split_data(data: Transactions, options: Options, label_delay: int) -> Parts:
    """Split in time and check that each part can carry its weight.

    Args:
        label_delay: microseconds.

    Raises:
        InvalidDataset: naming each part that lacks rows, frauds or legitimate rows, with counts.
    """
    _check_size(data)
    times = data.created_at if data.labelled is None else data.created_at[data.labelled]
    known_times = data.label_known_at is not None
    if options.periods is not None:
        split = split_by_periods(
            times,
            options.periods,
            label_delay,
            cut_off=options.cut_off,
            known_times=known_times,
        )
    else:
        split = split_by_shares(
            times,
            options.split,
            label_delay,
            cut_off=options.cut_off,
            known_times=known_times,
        )
    split = among_all(split, times, data.created_at)
    counts = count_labels(data)
    data = data.head(split.test.stop)
    parts = Parts(
        data,
        split,
        labels_at(data, label_delay, split.cut_off),
        label_delay,
        usable_at(data, label_delay, split.cut_off, split.test.start),
        counts,
    )
    _check_parts(parts)
    return parts


def _check_size(data: Transactions) -> None:
    labelled = data.is_labelled
    rows, frauds = int(labelled.sum()), int((data.is_fraud & labelled).sum())
    found = f"{rows:,} rows" if rows == len(data) else f"{rows:,} rows with a label"
    if not frauds:
        raise InvalidDataset(
            f"The data set has no fraud: none of its {found} has is_fraud true. "
            "A supervised model needs confirmed frauds."
        )
    if rows < sum(least for least, _ in MINIMUM.values()):
        raise InvalidDataset(
            f"The data set is too small: {found} ({frauds:,} frauds). Training needs "
            + ", ".join(f"{least} {part} rows" for part, (least, _) in MINIMUM.items())
            + " at least."
        )


def _check_parts(parts: Parts) -> None:
    data = parts.data
    faults = []
    for name, part in parts.split.parts():
        # Nobody learns from the test part: it is judged by all that is known today.
        labels = data.is_fraud if name == "test" else parts.labels
        usable = parts.rows(part)
        rows, frauds = len(usable), int(labels[usable].sum())
        found = {"rows": rows, "frauds": frauds, "legitimate rows": rows - frauds}
        least_rows, least_frauds = MINIMUM[name]
        least = {"rows": least_rows, "frauds": least_frauds, "legitimate rows": least_frauds}
        faults += [
            f"the {name} part ({_period(data, part)}) has {found[what]:,} {what} of the "
            f"{least[what]} needed"
            for what in found
            if found[what] < least[what]
        ]
    if faults:
        raise InvalidDataset(
            f"The data set ({len(data):,} rows, {int(data.is_fraud.sum()):,} frauds) can't be "
            f"split in time: {'; '.join(faults)}. Labels count in train and validation when they "
            f"were known at the cut-off, {show_moment(parts.split.cut_off)} (--cut-off), and take "
            f"{format_duration(parts.label_delay)} (--label-delay)."
        )


def choose_schema(data: Transactions, train: Rows | slice, without: Sequence[str]) -> FeatureSchema:
    """The inputs of the models: categories are the most frequent values of the training part.

    Args:
        train: its rows.
        without: groups of inputs to leave out, `labels` or `balances`.
    """
    attributes = []
    for name, column in sorted(data.attributes.items()):
        categories: tuple[str, ...] = ()
        if isinstance(column.values, Text):
            categories = _categories(column.values, train, least=CATEGORY_ROWS)
        attributes.append(Attribute(name, column.kind, categories))
    return FeatureSchema(
        transaction_types=_categories(data.text["transaction_type"], train, least=1),
        countries=_categories(data.text["country"], train, least=CATEGORY_ROWS),
        attributes=tuple(attributes),
        without=frozenset(without),
    )


def describe(parts: Parts, spec: RunSpec) -> dict[str, Any]:
    """What was trained on: counts and times of the whole and of each part.

    `frauds` of train and validation are those known at the cut-off.
    """
    data = parts.data
    whole = np.flatnonzero(data.is_labelled)
    return {
        "dataset": Path(spec.dataset).parent.name,
        "fingerprint": spec.dataset_fingerprint,
        "sample": spec.sample,
        **_describe_rows(data, whole, data.is_fraud),
        "parts": {
            name: _describe_rows(
                data, parts.rows(part), data.is_fraud if name == "test" else parts.labels
            )
            for name, part in parts.split.parts()
        },
        "labels": parts.label_counts,
        "cut_off": show_moment(parts.split.cut_off),
        "label_delay": format_duration(parts.label_delay),
        "label_times_known": data.label_known_at is not None,
    }


def outline(parts: Parts) -> str:
    """The parts that a split gave, in a line: times, rows, and when labels were frozen."""
    told = [
        f"{name} {_period(parts.data, part)} ({len(parts.rows(part)):,} rows)"
        for name, part in parts.split.parts()
    ]
    return f"{', '.join(told)}; labels known until {show_moment(parts.split.cut_off)} count"


def count_labels(data: Transactions) -> dict[str, int] | None:
    """Of recorded traffic: rows by where their label comes from, or why they have none."""
    if data.label_from is None:
        return None
    found = {
        name: data.label_from.is_in((name,))
        for name in ("stated", "age", "blocked", "not_made", "recent", "history")
    }
    stated = found.pop("stated")
    counts = {
        "labelled_fraud": stated & data.is_fraud,
        "labelled_legitimate": stated & ~data.is_fraud,
        "taken_as_legitimate": found["age"],
        "blocked_unlabelled": found["blocked"],
        "not_made": found["not_made"],
        "too_recent": found["recent"],
        "history_only": found["history"],
    }
    return {name: int(rows.sum()) for name, rows in counts.items()}


def _categories(column: Text, train: Rows | slice, least: int) -> tuple[str, ...]:
    """The values of a column worth a feature each: the most frequent of the training part."""
    codes = column.codes[train]
    counts = np.bincount(codes[codes >= 0], minlength=len(column.names))
    kept = [at for at in np.argsort(-counts, kind="stable")[:MAX_CATEGORIES] if counts[at] >= least]
    return tuple(sorted(column.names[at] for at in kept))


def _describe_rows(data: Transactions, rows: Rows, frauds: NDArray[np.bool_]) -> dict[str, Any]:
    labels = frauds[rows]
    return {
        "rows": len(labels),
        "frauds": int(labels.sum()),
        "fraud_rate": float(labels.mean()),
        "first_at": show_moment(data.created_at[rows[0]]),
        "last_at": show_moment(data.created_at[rows[-1]]),
    }


def _period(data: Transactions, part: slice) -> str:
    first, last = data.created_at[part.start], data.created_at[part.stop - 1]
    return f"{show_moment(first)} to {show_moment(last)}"
