"""Rows for classifiers whose definition names a simulator: made up, but with known chances.

A simulator is a function of how many rows and of a source of randomness, so that equal arguments
give equal rows. It knows the probability of every class in each row and can say what the best
possible classifier would reach.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from engine.classifier.definition import Definition
from engine.errors import InvalidDataset
from training.pipeline.classifier.columns import column_types
from training.pipeline.classifier.sponsor import sponsor_rows

CHUNK: Final = 131_072
MOST_ROWS: Final = 100_000_000
SUFFIXES: Final = (".csv", ".csv.gz", ".parquet")

Columns = Mapping[str, Any]
"""Arrays by name, of equal length: the inputs, the target and what is best possible."""

Simulator = Callable[[int, np.random.Generator], Columns]

SIMULATORS: Final[dict[str, Simulator]] = {
    "sponsor": sponsor_rows,
}
"""By the name that a definition has for it in `training.simulator`."""

Progress = Callable[[float], None]


class SimulatedRows(NamedTuple):
    """What was written."""

    path: Path
    rows: int


def simulate_rows(
    definition: Definition, path: Path, rows: int, seed: int, progress: Progress | None = None
) -> SimulatedRows:
    """Write `rows` rows of a classifier to `path` (.csv, .csv.gz or .parquet).

    Equal arguments give a file equal byte for byte, and more rows begin with the fewer ones.
    `progress` is called with the share done. The file appears under its name only when it is
    complete.

    Raises InvalidDataset for a definition without a simulator, arguments out of range, an unknown
    suffix, or a file that can't be written.
    """
    make = _simulator(definition)
    _check(path, rows, seed)
    partial = path.with_name(f".{path.name}.partial")
    try:
        _write(definition, make, partial, path.name, rows, seed, progress)
        partial.replace(path)
    except OSError as error:
        raise InvalidDataset(f"{path} can't be written: {error.strerror or error}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return SimulatedRows(path, rows)


def _simulator(definition: Definition) -> Simulator:
    name = definition.training.simulator
    if not name:
        raise InvalidDataset(
            f"The definition of {definition.name} names no simulator, so its rows can't be made up;"
            " import a file of real ones."
        )
    if name not in SIMULATORS:
        raise InvalidDataset(
            f"The definition of {definition.name} names the simulator {name!r}; there are: "
            f"{', '.join(sorted(SIMULATORS))}."
        )
    return SIMULATORS[name]


def _check(path: Path, rows: int, seed: int) -> None:
    if not path.name.endswith(SUFFIXES):
        raise InvalidDataset(f"{path.name}: the name must end in one of {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise InvalidDataset(f"{path} can't be written: there is no folder {path.parent}.")
    if not 1 <= rows <= MOST_ROWS:
        raise InvalidDataset(f"rows is {rows:,}; from 1 to {MOST_ROWS:,} are possible.")
    if not 0 <= seed < 2**63:
        raise InvalidDataset(f"seed is {seed}; it must be from 0 to 2**63 - 1.")


def _write(
    definition: Definition,
    make: Simulator,
    partial: Path,
    name: str,
    rows: int,
    seed: int,
    progress: Progress | None,
) -> None:
    schema = column_types(definition)
    with _writer(partial, name, schema) as writer:
        for number, first in enumerate(range(0, rows, CHUNK)):
            count = min(CHUNK, rows - first)
            # A chunk has its own randomness, and is made whole however much of it is kept.
            columns = make(CHUNK, np.random.default_rng([seed, number]))
            table = _table(columns, schema, definition)
            writer.write_table(table.slice(0, count))
            if progress is not None:
                progress((first + count) / rows)


def _table(columns: Columns, schema: pa.Schema, definition: Definition) -> pa.Table:
    """The columns that a definition has, as it has them."""
    simulator = definition.training.simulator
    if unknown := [name for name in schema.names if name not in columns]:
        raise InvalidDataset(
            f"The definition of {definition.name} has {', '.join(unknown)}, which its simulator "
            f"{simulator!r} does not make up; it makes up {', '.join(columns)}."
        )
    arrays = []
    for field in schema:
        try:
            arrays.append(pa.array(columns[field.name], field.type))
        except (pa.ArrowException, TypeError):
            raise InvalidDataset(
                f"The definition of {definition.name} has {field.name} as {field.type}, and its "
                f"simulator {simulator!r} makes up {pa.array(columns[field.name]).type}."
            ) from None
    return pa.table(arrays, schema=schema)


@contextmanager
def _writer(
    partial: Path, name: str, schema: pa.Schema
) -> Iterator[arrow_csv.CSVWriter | parquet.ParquetWriter]:
    if name.endswith(".parquet"):
        with parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
            yield writer
        return
    compression = "gzip" if name.endswith(".gz") else None
    options = arrow_csv.WriteOptions(quoting_style="none", quoting_header="none")
    with (
        pa.output_stream(str(partial), compression=compression) as stream,
        arrow_csv.CSVWriter(stream, schema, write_options=options) as writer,
    ):
        yield writer
