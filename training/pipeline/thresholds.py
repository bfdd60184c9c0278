"""Where REVIEW and BLOCK begin, by a budget of alerts or by what decisions cost."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidDataset
from training.pipeline.spec import Costs

Scores = NDArray[np.float64]


class Thresholds(NamedTuple):
    """Risk scores from which a decision is REVIEW and BLOCK, and what they select on validation."""

    review: float
    block: float
    rows: int
    blocked: int
    reviewed: int


def thresholds_by_budget(risk: Scores, block_budget: float, review_budget: float) -> Thresholds:
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
    return _counted(
        risk,
        review=_between(values[review], values[review - 1]),
        block=_between(values[block], values[block - 1]),
    )


def thresholds_by_cost(risk: Scores, amount: NDArray[np.float64], costs: Costs) -> Thresholds:
    """The two cuts with the lowest expected cost, the risk being the probability of a fraud.

    Approving a row costs risk x amount, reviewing it costs a review, blocking it costs
    (1 - risk) x what a blocked legitimate row does. Expectations, and not the frauds that the
    validation part happens to hold: their cheapest cut lies just below one single fraud.

    Either decision may be worth nothing: then no row of validation gets it.

    Args:
        risk: (rows,) calibrated risk scores of the validation rows that reach the models.
        amount: (rows,) in units of the currency.
    """
    values, group = np.unique(-risk, return_inverse=True)
    values = -values
    approve = _up_to(group, risk * np.maximum(amount, 0.0))
    review = _up_to(group, np.full(len(risk), costs.review))
    block = _up_to(group, (1.0 - risk) * costs.block_legitimate)
    # Of the groups from the top, `b` are blocked and `v` are reviewed or blocked, b <= v. The cost
    # is block[b] + review[v] - review[b] + what approving the rest costs.
    below = review - approve
    best_below = np.minimum.accumulate(below[::-1])[::-1]
    b = int(np.argmin(block - review + best_below))
    v = b + int(np.argmin(below[b:]))
    edges = np.concatenate([[1.0], values, [0.0]])
    return _counted(
        risk,
        review=max(_between(edges[v + 1], edges[v]), np.finfo(float).tiny),
        block=max(_between(edges[b + 1], edges[b]), np.finfo(float).tiny),
    )


def saving(
    risk: Scores,
    labels: NDArray[np.bool_],
    amount: NDArray[np.float64],
    thresholds: Thresholds,
    costs: Costs,
) -> float:
    """What the decisions save beside approving every row, in units of the currency per 1,000 rows.

    Args:
        risk, labels, amount: (rows,) of rows that no rule blocks.
    """
    flagged, blocked = risk >= thresholds.review, risk >= thresholds.block
    kept = float(np.maximum(amount, 0.0)[flagged & labels].sum())
    reviews = int((flagged & ~blocked).sum()) * costs.review
    wrongly = int((blocked & ~labels).sum()) * costs.block_legitimate
    return 1_000 * (kept - reviews - wrongly) / len(risk)


def _up_to(group: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(groups + 1,) the sum of the values of the first 0, 1, 2, … groups."""
    return np.concatenate([[0.0], np.cumsum(np.bincount(group, values))])


def _counted(risk: Scores, review: float, block: float) -> Thresholds:
    blocked = int((risk >= block).sum())
    return Thresholds(review, block, len(risk), blocked, int((risk >= review).sum()) - blocked)


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
