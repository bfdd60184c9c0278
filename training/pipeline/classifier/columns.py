"""The columns of a classifier's data set: its inputs, the target and, if there, what is best
possible, in this order."""

from typing import NamedTuple

import pyarrow as pa

from engine.classifier.definition import (
    BooleanInput,
    CategoryInput,
    Definition,
    Input,
    IntegerInput,
)


class Column(NamedTuple):
    """A column; `input` is None for the target and for what is best possible."""

    name: str
    type: pa.DataType
    input: Input | None = None


def data_columns(definition: Definition, *, best_possible: bool = True) -> list[Column]:
    """The columns of a data set, with or without the one of what is best possible."""
    columns = [Column(name, _type(each), each) for name, each in definition.inputs.items()]
    columns.append(Column(definition.target, pa.string()))
    if best_possible and definition.training.best_possible:
        columns.append(Column(definition.training.best_possible, pa.float64()))
    return columns


def column_types(definition: Definition, *, best_possible: bool = True) -> pa.Schema:
    """The same as a schema."""
    columns = data_columns(definition, best_possible=best_possible)
    return pa.schema([(column.name, column.type) for column in columns])


def _type(each: Input) -> pa.DataType:
    if isinstance(each, IntegerInput):
        return pa.int64()
    if isinstance(each, BooleanInput):
        return pa.bool_()
    return pa.string() if isinstance(each, CategoryInput) else pa.float64()
