"""What a score is worth whatever the threshold.

The figures are computed under weights of the wallets, so that a resample of wallets costs one pass
over rows that are sorted once.
"""

import numpy as np
from numpy.typing import NDArray

from training.pipeline.evaluate.part import Array, Codes, Mask

Weights = NDArray[np.uint8]

# The shares of the rows that a team can look at.
ALERT_SHARES = {
    "recall_at_0_1_percent": 0.001,
    "recall_at_0_5_percent": 0.005,
    "recall_at_1_percent": 0.01,
}


class Ranking:
    """Rows from the highest score to the lowest; rows of equal scores are one group.

    Args:
        scores: (rows,) higher = more like a fraud.
        labels: (rows,) confirmed frauds.
        wallets: (rows,) whose each row is, from 0 on.
    """

    FIGURES = ("pr_auc", "roc_auc", "f1", *ALERT_SHARES)

    def __init__(self, scores: Array, labels: Mask, wallets: Codes) -> None:
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        self._wallets = wallets[order]
        # The last row of each group, and of each fraud's group the rows before and through it.
        self._ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        self._frauds = np.flatnonzero(labels[order])
        groups, first = np.unique(np.searchsorted(self._ends, self._frauds), return_index=True)
        self._frauds_before = first
        self._frauds_through = np.append(first[1:], len(self._frauds))
        self._through = self._ends[groups] + 1
        self._before = np.where(groups > 0, self._ends[groups - 1] + 1, 0)
        self.thresholds: Array = ordered[self._ends[groups]]
        """(groups,) the scores at which frauds are, from the highest down."""

    def figures(self, weights: Weights) -> Array:
        """The values of `FIGURES`, all in [0, 1]; NaN throughout when a class has no weight.

        `pr_auc` is the average precision, sum of precision times the step in recall; for a random
        ranking it is the fraud rate. `roc_auc` is how often a fraud scores above a legitimate row,
        ties counting half. `f1` is the best that any threshold reaches. `recall_at_N_percent` is
        the share of the frauds among the N % of the rows with the highest scores (one row at
        least); in a group of equal scores that straddles the line, frauds count in proportion.

        Args:
            weights: (wallets,) how often each wallet counts.
        """
        rows, frauds = self._sums(weights)
        all_frauds, legitimate = int(frauds[-1]), int(rows[-1] - frauds[-1])
        if not all_frauds or not legitimate:
            return np.full(len(self.FIGURES), np.nan)
        caught, alerts = frauds[self._frauds_through], rows[self._through]
        step = caught - frauds[self._frauds_before]
        with_it = legitimate - (alerts - caught)
        tied = alerts - rows[self._before] - step
        at_shares = [
            self._caught_at(max(1, round(share * int(rows[-1]))), rows, frauds) / all_frauds
            for share in ALERT_SHARES.values()
        ]
        return np.array(
            [
                np.sum(step * (caught / np.maximum(alerts, 1))) / all_frauds,
                np.sum(step * (with_it + 0.5 * tied)) / all_frauds / legitimate,
                np.max(2 * caught / (all_frauds + alerts)),
                *at_shares,
            ]
        )

    def points(self) -> tuple[Array, Array, Array]:
        """(groups,) recall, precision and false positive rate with each of `thresholds`."""
        caught = self._frauds_through
        legitimate = len(self._wallets) - len(self._frauds)
        return (
            caught / len(self._frauds),
            caught / self._through,
            (self._through - caught) / legitimate,
        )

    def _sums(self, weights: Weights) -> tuple[Codes, Codes]:
        """The weight of the first 0, 1, 2... rows, and of the first 0, 1, 2... frauds."""
        of_row = weights[self._wallets]
        rows = np.zeros(len(of_row) + 1, np.int64)
        np.cumsum(of_row, out=rows[1:])
        frauds = np.zeros(len(self._frauds) + 1, np.int64)
        np.cumsum(of_row[self._frauds], out=frauds[1:])
        return rows, frauds

    def _caught_at(self, wanted: int, rows: Codes, frauds: Codes) -> float:
        """The weight of the frauds among the `wanted` highest rows."""
        last = int(np.searchsorted(rows[1:], wanted))
        group = int(np.searchsorted(self._ends, last))
        begin, end = (int(self._ends[group - 1]) + 1 if group else 0), int(self._ends[group]) + 1
        before, through = np.searchsorted(self._frauds, [begin, end])
        share = (wanted - rows[begin]) / (rows[end] - rows[begin])
        return float(frauds[before] + share * (frauds[through] - frauds[before]))
