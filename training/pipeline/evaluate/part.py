"""The test part and its scores."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.pipeline.table import Text

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]


class Scores(NamedTuple):
    """What a version says of rows; all (rows,), all but `rule_blocked` in [0, 1].

    The models' scores are given for every row, also where live would not ask them because a rule
    blocks; there the risk is 1.
    """

    supervised: Array
    unsupervised: Array
    rule_score: Array
    rule_blocked: Mask
    risk: Array

    @property
    def rules(self) -> Array:
        """(rows,) the rules as a score of their own: 1 where one blocks."""
        return np.where(self.rule_blocked, 1.0, self.rule_score)


class TestPart(NamedTuple):
    """The rows that a version is judged on, in order of time; one entry a row everywhere."""

    labels: Mask
    """Confirmed frauds."""
    amount: Array
    """In units of the currency."""
    source: Codes
    """Source wallets, as codes."""
    destination: Codes
    """Destination wallets, as codes."""
    created_at: Codes
    """Microseconds since 1970, UTC."""
    transaction_type: Text
    scores: Scores

    def take(self, rows: Mask) -> "TestPart":
        """The part without the rows where `rows` is False."""
        types = Text(self.transaction_type.codes[rows], self.transaction_type.names)
        scores = self.scores
        return TestPart(
            self.labels[rows],
            self.amount[rows],
            self.source[rows],
            self.destination[rows],
            self.created_at[rows],
            types,
            Scores(
                supervised=scores.supervised[rows],
                unsupervised=scores.unsupervised[rows],
                rule_score=scores.rule_score[rows],
                rule_blocked=scores.rule_blocked[rows],
                risk=scores.risk[rows],
            ),
        )


def numbered(wallets: Codes) -> Codes:
    """(rows,) the wallets, numbered from 0 on without gaps."""
    numbers: Codes = np.unique(wallets, return_inverse=True)[1]
    return numbers
