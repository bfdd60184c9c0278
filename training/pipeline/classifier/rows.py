"""The rows of a data set as a forest takes them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.classifier.definition import BooleanInput, CategoryInput, Definition, Input
from engine.errors import InvalidDataset
from training.pipeline.classifier.columns import Column, data_columns
from training.pipeline.classifier.split import Keys, number_keys, text_keys
from training.pipeline.local_file import local_file

BATCH = 65_536

Matrix = NDArray[np.float32]
Codes = NDArray[np.int32]


class Rows(NamedTuple):
    """Rows in the order of the data set."""

    matrix: Matrix
    """(rows, columns) as `Definition.encode` gives them."""
    labels: Codes
    """(rows,) the number of each row's class, in the definition's order."""
    best: NDArray[np.float64] | None
    """(rows,) the probability of the likeliest class, where the data set knows it."""
    keys: Keys
    """(rows,) what the columns add to that by which `split.is_tested` decides."""

    def view(self, part: slice) -> "Rows":
        """Some of the rows, in the same memory."""
        best = None if self.best is None else self.best[part]
        return Rows(self.matrix[part], self.labels[part], best, self.keys[part])


def read_rows(
    location: str,
    definition: Definition,
    sample: int | None,
    progress: Callable[[float, str], None],
) -> Rows:
    """Read `data.parquet`, or its first `sample` rows.

    Raises InvalidDataset when there is none, or what it has is not what the definition says.
    """
    with local_file(location, lambda share, told: progress(share / 2, f"fetching {told}")) as path:
        try:
            with pq.ParquetFile(path) as file:
                return _read(file, definition, sample, progress)
        except pa.ArrowException as error:
            raise InvalidDataset(f"The data set can't be read: {error}") from error


def _read(
    file: pq.ParquetFile,
    definition: Definition,
    sample: int | None,
    progress: Callable[[float, str], None],
) -> Rows:
    columns = _columns(file.schema_arrow, definition)
    count = min(file.metadata.num_rows, sample or file.metadata.num_rows)
    knows_best = columns[-1].name != definition.target
    rows = Rows(
        np.zeros((count, len(definition.columns)), np.float32),
        np.empty(count, np.int32),
        np.empty(count) if knows_best else None,
        np.zeros(count, np.uint64),
    )
    done = 0
    for batch in file.iter_batches(BATCH, columns=[column.name for column in columns]):
        taken = batch.slice(0, count - done)
        if not len(taken):
            break
        part = slice(done, done + len(taken))
        _fill(rows.view(part), taken, definition)
        done += len(taken)
        progress(0.5 + done / count / 2, f"{done:,} of {count:,} rows")
    return rows


def _columns(schema: pa.Schema, definition: Definition) -> list[Column]:
    columns = data_columns(definition)
    best = definition.training.best_possible
    if missing := [each.name for each in columns if each.name not in [*schema.names, best]]:
        raise _unfit(definition, f"it has no column {', '.join(missing)}")
    there = [each for each in columns if each.name in schema.names]
    for each in there:
        found = schema.field(each.name).type
        if found != each.type:
            raise _unfit(definition, f"{each.name} is of type {found} and not {each.type}")
    return there


def _fill(rows: Rows, batch: pa.RecordBatch, definition: Definition) -> None:
    """Fill the rows of a batch, of which `rows` are views."""
    first = 0
    for name, each in definition.inputs.items():
        column = batch.column(name)
        if column.null_count:
            raise _unfit(definition, f"{name} is missing in {column.null_count:,} rows")
        into = rows.matrix[:, first : first + each.columns]
        if isinstance(each, CategoryInput):
            codes, keys = _codes(column, name, each.values, definition)
            into[np.arange(len(codes)), codes] = 1
        else:
            values = _numbers(column, name, each, definition)
            into[:, 0] = values
            keys = number_keys(name, values)
        np.add(rows.keys, keys, out=rows.keys)
        first += each.columns
    target = definition.target
    labels, keys = _codes(batch.column(target), target, definition.labels, definition)
    rows.labels[:] = labels
    np.add(rows.keys, keys, out=rows.keys)
    if rows.best is not None:
        rows.best[:] = batch.column(definition.training.best_possible).to_numpy(False)


def _codes(
    column: pa.Array, name: str, values: list[str], definition: Definition
) -> tuple[NDArray[np.int64], Keys]:
    """(rows,) the number of each text among `values`, and its keys."""
    found = column.dictionary_encode()
    texts = found.dictionary.to_pylist()
    if unknown := sorted({*texts} - {*values}, key=str):
        raise _unfit(definition, f"{name} is {', '.join(map(repr, unknown[:10]))} in some rows")
    at = found.indices.to_numpy(zero_copy_only=False)
    places = {value: place for place, value in enumerate(values)}
    return np.array([places[text] for text in texts])[at], text_keys(name, texts)[at]


def _numbers(
    column: pa.Array, name: str, each: Input, definition: Definition
) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
    if not isinstance(each, BooleanInput | CategoryInput):
        outside = ~((values >= each.minimum) & (values <= each.maximum))
        if outside.any():
            found = values[outside][0]
            raise _unfit(definition, f"{name} is {found:g} in a row, not {each.expected}")
    return values


def _unfit(definition: Definition, what: str) -> InvalidDataset:
    return InvalidDataset(
        f"The data set does not fit the definition of {definition.name}: {what}. If the definition "
        "was changed, import the file again."
    )
