"""What a version can make nothing of in a data set, although it scores it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from engine.features.schema import FeatureSchema
from training.pipeline.table import AttributeColumn, Text, Transactions

BALANCE = "source_balance"


class Unfamiliar(NamedTuple):
    """Inputs that a version reads in vain.

    `absent`: columns that no row has a value in. `unseen`: the share of the rows, above 0 and up
    to 1, whose value in a column is none that the version has an input for.
    """

    absent: tuple[str, ...]
    unseen: dict[str, float]


def unfamiliar(schema: FeatureSchema, data: Transactions) -> Unfamiliar:
    """What a version with these inputs does not find in `data`, or does not know of it."""
    return Unfamiliar(tuple(_absent(schema, data)), dict(_unseen(schema, data)))


def _absent(schema: FeatureSchema, data: Transactions) -> Iterator[str]:
    if "balances" not in schema.without and np.isnan(data.numbers[BALANCE]).all():
        yield BALANCE
    for attribute in schema.attributes:
        column = data.attributes.get(attribute.name)
        if column is None or _is_blank(column):
            yield attribute.name


def _is_blank(column: AttributeColumn) -> bool:
    values = column.values
    return bool((values.codes < 0).all() if isinstance(values, Text) else np.isnan(values).all())


def _unseen(schema: FeatureSchema, data: Transactions) -> Iterator[tuple[str, float]]:
    read = {
        "transaction_type": (data.text["transaction_type"], schema.transaction_types),
        "country": (data.text["country"], schema.countries),
    }
    for attribute in schema.attributes:
        column = data.attributes.get(attribute.name)
        if column is not None and isinstance(column.values, Text):
            read[attribute.name] = (column.values, attribute.categories)
    for name, (text, known) in read.items():
        share = float(np.mean((text.codes >= 0) & ~text.is_in(known)))
        if share:
            yield name, share
