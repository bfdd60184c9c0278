"""Scoring a data set as the live path would have: transaction by transaction, in order of time.

History begins empty at the data set's first row. The models' scores do not depend on what was
decided before, so threads compute them ahead, while rules and decisions follow in order.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidDataset
from engine.features.catalogue import CATALOGUE, FEATURE_INDEX
from engine.features.schema import FeatureSchema
from engine.fraud_bundle import Bundle
from engine.rules import RuleResult, RuleSet
from training.pipeline.evaluate import Scores
from training.pipeline.features import Features, Matrix
from training.pipeline.rules_replay import (
    BLOCKS,
    CountriesBefore,
    PastBlocks,
    RuleReplay,
    countries_before,
)
from training.pipeline.table import Transactions

# Rows that are decided together; three chunks are in memory at a time.
CHUNK = 100_000
# Rows that a thread scores at a time: enough for its work in compiled code to outlast its waiting
# for the interpreter, which the rules keep busy.
BLOCK = 25_000


class ScoredRows(NamedTuple):
    """Some rows as live would have scored them; arrays of these rows."""

    rows: slice
    scores: Scores
    results: tuple[RuleResult, ...]
    """The distinct things that the rules said."""
    said: NDArray[np.int32]
    """(rows,) which of them they said of each row."""
    history: Matrix
    """(rows, len(CATALOGUE)): as it was decided on, Sentinelle's own blocks included."""
    inputs: Matrix
    """(rows, len(schema.names)): what the models were given."""
    countries: CountriesBefore


def score_transactions(
    bundle: Bundle,
    rules: RuleSet,
    data: Transactions,
    rows: slice,
    progress: Callable[[int], None] = lambda _: None,
    *,
    labels_after: int,
) -> Scores:
    """What the live path would have said of `rows`, had it received the data set's labels as they
    became known: see `score_in_order`.

    `progress` is called with the number of rows done.
    """
    parts = []
    for scored in score_in_order(bundle, rules, data, rows, labels_after=labels_after):
        parts.append(scored.scores)
        progress(scored.rows.stop - rows.start)
    return Scores(*map(np.concatenate, zip(*parts, strict=True)))


def score_in_order(
    bundle: Bundle, rules: RuleSet, data: Transactions, rows: slice, *, labels_after: int | None
) -> Iterator[ScoredRows]:
    """Score `rows` in order, some at a time.

    Features and countries know every row of `data` before, as attempts; what Sentinelle blocked is
    replayed from the first of `rows` on. Balances, statuses and what else a caller sends come from
    the data set's columns, failures are known at once.

    Args:
        rows: with a start and a stop, not empty.
        labels_after: microseconds after a transaction at which history knows its label, where the
            data does not say when. It belongs to the data: the version's own label delay only says
            where its windows end. None: history knows no label.

    Raises:
        InvalidDataset: an attribute is of another kind than the version was trained with.
    """
    _check_attributes(data, bundle.schema)
    features = Features(data, bundle.schema, bundle.label_delay, labels_after=labels_after)
    countries = countries_before(data, rows)
    blocks: PastBlocks = {}
    for chunk in _computed_ahead(_Models(bundle, features), rows):
        here = slice(chunk.rows.start - rows.start, chunk.rows.stop - rows.start)
        known = CountriesBefore(countries.lists, countries.codes[here])
        replay = RuleReplay(rules, data, chunk.history, chunk.rows, countries=known)
        replayed = replay.replay(bundle.policy, chunk.supervised, chunk.unsupervised, blocks)
        chunk.history[:, FEATURE_INDEX[BLOCKS]] = replayed.blocks_before
        yield ScoredRows(
            rows=chunk.rows,
            scores=Scores(
                supervised=chunk.supervised,
                unsupervised=chunk.unsupervised,
                rule_score=replayed.rule_score,
                rule_blocked=replayed.rule_blocked,
                risk=replayed.risk,
            ),
            results=tuple(replay.results),
            said=replayed.results,
            history=chunk.history,
            inputs=chunk.inputs,
            countries=known,
        )


class _Chunk:
    """Rows on their way: what does not depend on decisions, filled in block by block."""

    def __init__(self, rows: slice, schema: FeatureSchema) -> None:
        count = rows.stop - rows.start
        self.rows = rows
        self.history = np.empty((count, len(CATALOGUE)))
        self.inputs = np.empty((count, len(schema.names)))
        self.supervised = np.empty(count)
        self.unsupervised = np.empty(count)


class _Models:
    """Features and models of any rows, without what was blocked before."""

    def __init__(self, bundle: Bundle, features: Features) -> None:
        self.schema = bundle.schema
        self._bundle = bundle
        self._features = features

    def fill(self, chunk: _Chunk, block: slice) -> None:
        """Compute a block (positions in the chunk). Compiled code, which threads run together."""
        rows = np.arange(chunk.rows.start + block.start, chunk.rows.start + block.stop)
        history = self._features.history(rows, threads=1)
        inputs = self._features.assemble(rows, history)
        chunk.history[block], chunk.inputs[block] = history, inputs
        chunk.supervised[block] = self._bundle.supervised.predict(inputs)
        chunk.unsupervised[block] = self._bundle.unsupervised.predict(inputs)


def _computed_ahead(models: _Models, rows: slice) -> Iterator[_Chunk]:
    """The chunks of `rows` in order, each computed while the one before is decided on."""
    waiting: deque[tuple[_Chunk, list[Future[None]]]] = deque()

    def computed() -> _Chunk:
        chunk, blocks = waiting.popleft()
        for block in blocks:
            block.result()
        return chunk

    pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="models")
    try:
        for start in range(rows.start, rows.stop, CHUNK):
            chunk = _Chunk(slice(start, min(start + CHUNK, rows.stop)), models.schema)
            cuts = _cut(len(chunk.supervised))
            waiting.append((chunk, [pool.submit(models.fill, chunk, block) for block in cuts]))
            if len(waiting) > 1:
                yield computed()
        while waiting:
            yield computed()
    finally:
        pool.shutdown(cancel_futures=True)


def _cut(rows: int) -> list[slice]:
    """Slices of a chunk, one for each thread at least."""
    size = min(BLOCK, -(-rows // (os.cpu_count() or 1)))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _check_attributes(data: Transactions, schema: FeatureSchema) -> None:
    for attribute in schema.attributes:
        column = data.attributes.get(attribute.name)
        if column is not None and column.kind != attribute.kind:
            raise InvalidDataset(
                f"Attribute {attribute.name} is a {column.kind} in the data set; the version "
                f"expects a {attribute.kind}. Map it as one."
            )
