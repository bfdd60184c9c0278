"""The models over the rows after the training part, block by block: their matrix would not fit."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.features.catalogue import CATALOGUE
from engine.policy import PiecewiseLinear
from training.pipeline.calibrate import anomaly_scale
from training.pipeline.features import BLOCK, Features
from training.pipeline.fit import Supervised, Unsupervised, supervised_score
from training.pipeline.prepare import Parts

Scores = NDArray[np.float64]

# Of the past, what only rules read: beside the models' inputs it is all that must be kept.
READ_BY_RULES = tuple(at for at, feature in enumerate(CATALOGUE) if not feature.model_input)
RULE_COLUMNS = {CATALOGUE[at].name: column for column, at in enumerate(READ_BY_RULES)}


class Models(NamedTuple):
    """What is fitted on the training part."""

    supervised: Supervised
    unsupervised: Unsupervised
    logistic: Callable[[NDArray[np.float64]], Scores]
    """The baseline: from (rows, columns) to (rows,)."""


class Scored(NamedTuple):
    """The rows from the first of validation to the last of test, the gap included, in order."""

    rows: slice
    history: NDArray[np.float64]
    """(rows, len(RULE_COLUMNS)): what rules read of the past."""
    supervised: Scores
    unsupervised: Scores
    logistic: Scores
    anomaly: PiecewiseLinear
    """From the forest's raw scores to `unsupervised`; read off the validation part."""

    def within(self, part: slice) -> slice:
        """Where the rows of a part are among these."""
        return slice(part.start - self.rows.start, part.stop - self.rows.start)


def score_later_rows(
    parts: Parts, features: Features, models: Models, progress: Callable[[float, str], None]
) -> Scored:
    """Every model on validation, the gap and test."""
    rows = slice(parts.split.validation.start, parts.split.test.stop)
    count = rows.stop - rows.start
    history = np.empty((count, len(RULE_COLUMNS)))
    supervised, logistic, raw = np.empty(count), np.empty(count), np.empty(count)
    for start in range(0, count, BLOCK):
        block = slice(start, min(start + BLOCK, count))
        at = np.arange(block.start, block.stop) + rows.start
        computed = features.history(at)
        history[block] = computed[:, READ_BY_RULES]
        matrix = features.assemble(at, computed)
        del computed
        supervised[block] = supervised_score(models.supervised.model, matrix)
        raw[block] = models.unsupervised.raw_score(matrix)
        logistic[block] = models.logistic(matrix)
        progress(block.stop / count, f"{block.stop:,} rows")
    validation = slice(0, parts.split.validation.stop - rows.start)
    anomaly = anomaly_scale(raw[validation])
    return Scored(rows, history, supervised, anomaly(raw), logistic, anomaly)
