"""From raw scores to decisions: the anomaly scale, the weights and the two thresholds.

All are read off the validation part, which neither model was fitted on.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from engine.errors import InvalidDataset
from engine.policy import PiecewiseLinear, Policy, Weights

# The rarest anomaly that the scale tells apart: one row in 10 ** DECADES scores 1.
DECADES = 3.0
KNOTS = 61
CANDIDATES = tuple(
    Weights(rule, round(1 - rule - unsupervised, 2), unsupervised)
    for rule in (0.2, 0.1, 0.05)
    for unsupervised in (0.2, 0.1, 0.05)
)
CLEARLY_BETTER = 1.05


class Thresholds(NamedTuple):
    """Risk scores from which a decision is REVIEW and BLOCK, and what they select on validation."""

    review: float
    block: float
    rows: int
    blocked: int
    reviewed: int


def anomaly_scale(raw: NDArray[np.float64]) -> PiecewiseLinear:
    """The map from raw anomaly scores to [0, 1]: s means that one row in 10 ** (3 s) is as odd.

    A plain quantile would press all that matters, the last percent, into 0.99 to 1 and give the
    median row 0.5. On this scale the median row gets 0.1, the top 10 % begin at 1/3, the top 1 % at
    2/3 and the top 0.1 % at 1.

    Args:
        raw: (rows,) validation scores, higher = more anomalous.

    Raises:
        InvalidDataset: the raw scores do not vary.
    """
    scale = np.linspace(0.0, 1.0, KNOTS)
    # Of tied quantiles the first: as odd as a group of equal scores is everything from its start.
    knots, first = np.unique(np.quantile(raw, 1.0 - 10.0 ** (-DECADES * scale)), return_index=True)
    if len(knots) < 2:
        raise InvalidDataset(
            "The anomaly model gives (nearly) every validation row the same score: the features "
            "do not vary."
        )
    return PiecewiseLinear(tuple(knots.tolist()), tuple(scale[first].tolist()))


def choose_weights(
    rule_score: NDArray[np.float64],
    supervised: NDArray[np.float64],
    unsupervised: NDArray[np.float64],
    labels: NDArray[np.bool_],
) -> Weights:
    """The weights whose risk ranks the validation rows best, by average precision.

    The default, 0.2 / 0.6 / 0.2, stays unless another of `CANDIDATES` is clearly better: with few
    frauds in validation a small difference is chance.

    Args:
        rule_score, supervised, unsupervised: (rows,) in [0, 1], of the rows that reach the models.
        labels: (rows,) confirmed frauds; the default stays if there is none.
    """
    if not labels.any():
        return Weights()

    def precision(weights: Weights) -> float:
        risk = Policy(review=1.0, block=1.0, weights=weights).risk(
            rule_score, supervised, unsupervised
        )
        return float(average_precision_score(labels, risk))

    best = max(CANDIDATES, key=precision)
    return best if precision(best) > CLEARLY_BETTER * precision(Weights()) else Weights()


def choose_thresholds(
    risk: NDArray[np.float64], block_budget: float, review_budget: float
) -> Thresholds:
    """The two cuts that alert on at most the budgeted shares of the rows.

    A cut lies halfway between two neighbouring distinct scores, so that a difference in the last
    digit can't change a decision. Rows with equal scores can't be told apart: the whole group stays
    below the cut when it does not fit the budget, except the very top group, which is always
    blocked (a threshold that can never be reached would be no threshold). REVIEW always begins
    strictly below BLOCK, at the next group if the budgets leave no row between them.

    Args:
        risk: (rows,) risk scores in [0, 1] of the validation rows that reach the models.
        block_budget: share of the rows to block, above 0 and below `review_budget`.
        review_budget: share of the rows to review or block, below 1.

    Raises:
        InvalidDataset: fewer than three distinct scores.
    """
    if not 0 < block_budget < review_budget < 1:
        raise ValueError(f"budgets must be 0 < block < review < 1: {block_budget}, {review_budget}")
    values, counts = np.unique(risk, return_counts=True)
    if len(values) < 3:
        raise InvalidDataset(
            f"Two thresholds need 3 distinct risk scores or more on the validation part; the "
            f"{len(risk):,} rows that the rules do not block have {len(values)}."
        )
    values = values[::-1]
    selected = np.cumsum(counts[::-1])
    block = _groups_within(selected, block_budget * len(risk), at_least=1, at_most=len(values) - 2)
    review = _groups_within(
        selected, review_budget * len(risk), at_least=block + 1, at_most=len(values) - 1
    )
    return Thresholds(
        review=_between(values[review], values[review - 1]),
        block=_between(values[block], values[block - 1]),
        rows=len(risk),
        blocked=int(selected[block - 1]),
        reviewed=int(selected[review - 1] - selected[block - 1]),
    )


def _groups_within(
    selected: NDArray[np.int64], budget: float, *, at_least: int, at_most: int
) -> int:
    """How many groups of equal scores, from the top, fit the budget (rows)."""
    fitting = int(np.searchsorted(selected, np.floor(budget), side="right"))
    return min(max(fitting, at_least), at_most)


def _between(low: np.float64, high: np.float64) -> float:
    """A number above `low` and at most `high`."""
    middle = (low + high) / 2
    return float(middle if low < middle < high else high)
