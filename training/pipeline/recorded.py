"""The values that features had when the transactions of recorded traffic were decided on.

A model learns best from what it will be given: the values of the moment, with what was known then,
and with those that the caller sent. They are used where they mean what this engine computes, that
is, where the version that recorded them was trained with the same definitions.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.features.catalogue import CATALOGUE, FEATURE_INDEX, RATIOS, fingerprint

Rows = NDArray[np.int64]
Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

RECORDED_KEY: Final = "sentinelle_recorded"
"""Of the Parquet file: the versions that recorded features, as JSON of `dict[str, Definitions]`."""
COMPLETE_KEY: Final = "sentinelle_complete"
"""`true` when no transaction before the file's first was left out."""
FEATURE_PREFIX: Final = "feature_"
SCORED_BY, ACCEPTED, SENT = "scored_by", "accepted", "features_sent"
LABEL_GROUP: Final = "confirmed fraud"
_FROM_LABELS = np.array([feature.group == LABEL_GROUP for feature in CATALOGUE])
_KEPT_GROUPS = 4


class Definitions(msgspec.Struct, frozen=True, kw_only=True):
    """What the features meant that a version recorded: the inputs that its fingerprint is of, and
    its label delay. Without a fingerprint nobody knows."""

    inputs: tuple[str, ...] = ()
    fingerprint: str | None = None
    label_delay_us: int | None = None

    @property
    def hold(self) -> bool:
        """Whether this engine computes the version's inputs as they were computed then."""
        try:
            return self.fingerprint is not None and fingerprint(self.inputs) == self.fingerprint
        except KeyError:  # an input that this engine does not know
            return False

    def covered(self) -> Mask:
        """(len(CATALOGUE),) the features that the fingerprint vouches for."""
        read = {FEATURE_INDEX[RATIOS.get(name, name)] for name in self.inputs} if self.hold else ()
        covered = np.zeros(len(CATALOGUE), np.bool_)
        covered[list(read)] = True
        return covered


class Sent(NamedTuple):
    """What callers sent of one feature."""

    rows: Rows
    """In order."""
    values: NDArray[np.float64]

    def among(self, rows: Rows) -> tuple[Rows, NDArray[np.float64]]:
        """Of `rows` (any), the positions of those that it was sent for, and the values."""
        places = np.searchsorted(self.rows, rows)
        places[places == len(self.rows)] = 0
        found = np.flatnonzero(self.rows[places] == rows)
        return found, self.values[places[found]]


class Recorded:
    """The recorded values of a data set's rows, read when they are needed.

    Args:
        file: read for as long as this lives.
        rows: of the data set: the last ones of the file.
    """

    def __init__(self, file: pq.ParquetFile, rows: int) -> None:
        self._file = file
        self._skip = skip = file.metadata.num_rows - rows
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, Matrix] = OrderedDict()
        metadata = self._file.metadata
        sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        present = set(self._file.schema_arrow.names)
        names = [FEATURE_PREFIX + feature.name for feature in CATALOGUE]
        self._at = [at for at, name in enumerate(names) if name in present]
        told = metadata.metadata or {}
        text = told.get(RECORDED_KEY.encode(), b"{}")
        self._definitions = msgspec.json.decode(text, type=dict[str, Definitions])
        self.is_complete = not skip and told.get(COMPLETE_KEY.encode()) == b"true"
        """No transaction before the first row was left out."""
        read = self._file.read(columns=[SCORED_BY, ACCEPTED, SENT]).slice(skip)
        by = read.column(SCORED_BY).combine_chunks().dictionary_encode()
        self.versions: tuple[str, ...] = tuple(by.dictionary.to_pylist())
        self.version: NDArray[np.int32] = by.indices.fill_null(-1).to_numpy()
        """(rows,) positions in `versions`, -1 where none recorded anything."""
        self.accepted: Rows = read.column(ACCEPTED).to_numpy()
        """(rows,) the order in which they were accepted."""
        self.sent: Mapping[str, Sent] = _sent(read.column(SENT))
        """By name of the feature; values that are no number are not among them."""

    def comparable(self, label_delay: int) -> Mask:
        """(versions + 1, len(CATALOGUE)) whether a value that a version recorded means what this
        engine computes with `label_delay` (µs); the last row is of version -1."""
        return _comparable(tuple(map(self.definitions_of, self.versions)), label_delay)

    def definitions_of(self, version: str) -> Definitions:
        """What the features meant that a version recorded."""
        return self._definitions.get(version, Definitions())

    def values(self, rows: Rows) -> Matrix:
        """(len(rows), len(CATALOGUE)) what was recorded, NaN where nothing was."""
        out = np.empty((len(rows), len(CATALOGUE)))
        at = rows + self._skip
        group = np.searchsorted(self._starts, at, side="right") - 1
        for number in np.unique(group):
            here = np.flatnonzero(group == number)
            out[here] = self._group(int(number))[at[here] - self._starts[number]]
        return out

    def overlay(self, rows: Rows, history: Matrix, label_delay: int) -> None:
        """Replace computed features (rows, len(CATALOGUE)) by those that were recorded, where they
        mean the same, and by those that callers sent."""
        recorded = self.values(rows)
        used = self.comparable(label_delay)[self.version[rows]] & ~np.isnan(recorded)
        np.copyto(history, recorded, where=used)
        for name in self.sent.keys() & FEATURE_INDEX.keys():
            places, values = self.sent[name].among(rows)
            history[places, FEATURE_INDEX[name]] = values

    def _group(self, number: int) -> Matrix:
        with self._lock:
            found = self._groups.pop(number, None)
            if found is None:
                found = self._read(number)
            self._groups[number] = found
            while len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
            return found

    def _read(self, number: int) -> Matrix:
        names = [FEATURE_PREFIX + CATALOGUE[at].name for at in self._at]
        table = self._file.read_row_group(number, columns=names, use_threads=False)
        values = np.full((len(table), len(CATALOGUE)), np.nan)
        for at, name in zip(self._at, names, strict=True):
            values[:, at] = table.column(name).to_numpy()
        return values


@lru_cache(maxsize=8)
def _comparable(definitions: tuple[Definitions, ...], label_delay: int) -> Mask:
    found = np.zeros((len(definitions) + 1, len(CATALOGUE)), np.bool_)
    for row, each in enumerate(definitions):
        found[row] = each.covered()
        if each.label_delay_us != label_delay:
            found[row] &= ~_FROM_LABELS
    return found


def recorded_in(path: Path, rows: int) -> Recorded | None:
    """What the last `rows` of a data set's file recorded; None for a file of other data.

    The file may be deleted afterwards: what is open can be read until it is closed.
    """
    source = path.open("rb")
    file = pq.ParquetFile(source)
    if SCORED_BY in file.schema_arrow.names:
        return Recorded(file, rows)
    source.close()
    return None


def _sent(column: pa.ChunkedArray) -> dict[str, Sent]:
    found: dict[str, tuple[list[int], list[float]]] = {}
    filled = np.flatnonzero(column.is_valid().to_numpy()).tolist()
    for row, text in zip(filled, column.drop_null().to_pylist(), strict=True):
        for name, value in msgspec.json.decode(text).items():
            if isinstance(value, int | float):
                rows, values = found.setdefault(name, ([], []))
                rows.append(row)
                values.append(float(value))
    return {
        name: Sent(np.array(rows, np.int64), np.array(values))
        for name, (rows, values) in found.items()
    }
