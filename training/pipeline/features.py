"""The features of a data set: what a model is given for any of its rows."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engine.features.catalogue import FEATURE_INDEX
from engine.features.replay import Past, visible_at_once
from engine.features.schema import FeatureSchema
from training.pipeline.labels import fraud_visible_from
from training.pipeline.table import Text, Transactions

Rows = NDArray[np.int64]
Matrix = NDArray[np.float64]

# Rows whose features are in memory at a time beside the matrix that they are made into.
BLOCK = 250_000


class Features:
    """The models' inputs for any rows of a data set, from the rows before each.

    Args:
        data: history begins with its first row; failures are known at once.
        label_delay: microseconds; where the windows of confirmed frauds end. A model's own.
        labels_after: microseconds after a transaction at which its label is known, where the data
            does not say when. None: history knows no label.
    """

    def __init__(
        self,
        data: Transactions,
        schema: FeatureSchema,
        label_delay: int,
        *,
        labels_after: int | None,
    ) -> None:
        self.schema = schema
        self._data = data
        self._country = data.country_codes
        visible = None if labels_after is None else fraud_visible_from(data, labels_after)
        self._past = Past(
            data.created_at,
            data.amount,
            data.source,
            data.destination,
            self._country,
            failed_visible_from=visible_at_once(data.failed),
            fraud_visible_from=visible,
            blocked=data.blocked,
            label_delay=label_delay,
        )
        self._label_delay = label_delay
        sent = {} if data.recorded is None else data.recorded.sent
        # Of those that are made of the transaction itself; `history` has the others.
        self._sent = {
            schema.positions[name]: each
            for name, each in sent.items()
            if name in schema.positions and name not in FEATURE_INDEX
        }

    def history(self, rows: Rows, threads: int | None = None) -> Matrix:
        """(len(rows), len(CATALOGUE)): the historical features of some rows, as they were recorded
        where they were, else computed, by every core unless told otherwise."""
        computed = self.computed(rows, threads)
        if self._data.recorded is not None:
            self._data.recorded.overlay(rows, computed, self._label_delay)
        return computed

    def computed(self, rows: Rows, threads: int | None = None) -> Matrix:
        """`history` of the rows before each alone, whatever was recorded."""
        return self._past.features(rows, threads=threads)

    def matrix(self, rows: Rows, progress: Callable[[int], None] = lambda _: None) -> Matrix:
        """(len(rows), len(schema.names)), NaN where a value is not known.

        `progress` is called with the number of rows done.
        """
        out = np.empty((len(rows), len(self.schema.names)))
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            out[start : start + BLOCK] = self.assemble(block, self.history(block))
            progress(start + len(block))
        return out

    def assemble(self, rows: Rows, history: Matrix) -> Matrix:
        """(len(rows), len(schema.names)) from what `history` gave for these rows."""
        data = self._data
        matrix = self.schema.assemble(
            amount=data.amount[rows],
            created_at=data.created_at[rows],
            currency=data.text["currency"].take(rows),
            direction=data.text["direction"].take(rows),
            transaction_type=data.text["transaction_type"].take(rows),
            country=self._country[rows],
            source_balance=data.numbers["source_balance"][rows],
            history=history,
            attributes={
                name: column.values.take(rows)
                if isinstance(column.values, Text)
                else column.values[rows]
                for name, column in data.attributes.items()
            },
        )
        for position, sent in self._sent.items():
            places, values = sent.among(rows)
            matrix[places, position] = values
        return matrix
