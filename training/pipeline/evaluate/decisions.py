"""What the decisions mean: alerts, money, and whether a risk is a probability.

All of it is ratios of sums over rows. The sums are taken by wallet once; a resample of wallets then
costs one product with its weights.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from training.pipeline.evaluate.part import Array, Codes, Mask, TestPart
from training.pipeline.evaluate.ranking import Weights
from training.pipeline.spec import Costs

ALERTS = ("rules", "block", "review", "model_block", "model_review")


class WalletSums:
    """The sum of a column (rows,) over each wallet; most columns are 0 for most wallets."""

    def __init__(self, column: Array | Mask, wallets: Codes) -> None:
        sums = np.bincount(wallets, weights=column)
        self._wallets = np.flatnonzero(sums)
        self._sums = sums[self._wallets]

    def total(self, weights: Weights) -> float:
        """The sum over all rows when each wallet counts `weights` (wallets,) times."""
        # Not `@`: BLAS starts threads for this, which on a busy machine cost a hundred times more.
        return float(np.sum(weights[self._wallets] * self._sums))


class Decisions:
    """The decisions on a part at two thresholds.

    Args:
        thresholds: `review` and `block` on the risk.
        costs: of a review and of a legitimate payment blocked, in units of the currency; without
            them both are taken as nothing.
        wallets: (rows,) source wallets from 0 on.
    """

    def __init__(
        self, part: TestPart, thresholds: Mapping[str, float], costs: Costs | None, wallets: Codes
    ) -> None:
        self._costs = costs or Costs(review=0.0, block_legitimate=0.0)
        self._sums = {
            name: WalletSums(column, wallets) for name, column in _columns(part, thresholds).items()
        }

    def figures(self, weights: Weights) -> dict[str, Any]:
        """The figures when each wallet counts `weights` (wallets,) times; NaN for a ratio of
        nothing, except a precision, which is 0 when nothing is selected.

        For each of `ALERTS`, `alert_figures`. `saving_per_1000`: what the decisions save per 1,000
        transactions beside approving all of them, in units of the currency: the amounts of the
        frauds that are blocked or reviewed (a review is taken to stop a fraud), less the costs of
        reviews and of legitimate payments blocked; an amount below 0 counts as 0.
        `approve_all_cost_per_1000`: the amounts of all frauds per 1,000 transactions, which is the
        most that could be saved. `brier`: the mean squared difference of risk and label over the
        rows that no rule blocks (a rule's 1 is a decision, not a probability). `brier_skill`:
        1 - brier / (the same for a constant risk, the fraud rate); 0 tells nothing, 1 is perfect.
        """
        sums = {name: sums.total(weights) for name, sums in self._sums.items()}
        rows, frauds = sums["rows"], sums["frauds"]
        reviewed = sums["review.alerts"] - sums["block.alerts"]
        wrongly_blocked = sums["block.alerts"] - sums["block.caught"]
        saved = (
            sums["review.amount"]
            - self._costs.review * reviewed
            - self._costs.block_legitimate * wrongly_blocked
        )
        rate = ratio(sums["scored_frauds"], sums["scored"])
        brier = ratio(sums["squared_error"], sums["scored"])
        return {
            **{
                name: alert_figures(
                    sums[f"{name}.alerts"],
                    sums[f"{name}.caught"],
                    sums[f"{name}.amount"],
                    rows,
                    frauds,
                    sums["fraud_amount"],
                )
                for name in ALERTS
            },
            "saving_per_1000": ratio(1000 * saved, rows),
            "approve_all_cost_per_1000": ratio(1000 * sums["fraud_amount"], rows),
            "brier": brier,
            "brier_skill": 1 - ratio(brier, rate * (1 - rate)),
        }


def alert_figures(
    alerts: float, caught: float, amount: float, rows: float, frauds: float, fraud_amount: float
) -> dict[str, float]:
    """What raising these alerts would have meant.

    `value_recall` is the share of the frauds' amounts that they stop.

    Args:
        alerts, caught, amount: how many alerts, the frauds among them, and the amounts of those.
        rows, frauds, fraud_amount: the same of all rows.
    """
    return {
        "alerts": alerts,
        "alert_rate": ratio(alerts, rows),
        "true_positives": caught,
        "false_positives": alerts - caught,
        "false_negatives": frauds - caught,
        "precision": caught / alerts if alerts else 0.0,
        "recall": ratio(caught, frauds),
        "value_recall": ratio(amount, fraud_amount),
        "f1": ratio(2 * caught, alerts + frauds),
    }


def _columns(part: TestPart, thresholds: Mapping[str, float]) -> dict[str, Array]:
    """What is summed, one number a row each."""
    scores, labels = part.scores, part.labels
    blocked = scores.risk >= thresholds["block"]
    flagged = scores.risk >= thresholds["review"]
    scored = ~scores.rule_blocked
    selected = dict(
        zip(
            ALERTS,
            (scores.rule_blocked, blocked, flagged, blocked & scored, flagged & scored),
            strict=True,
        )
    )
    # A refund that is stopped saves nothing.
    amount = np.maximum(part.amount, 0.0)
    columns = {
        "rows": np.ones(len(labels)),
        "frauds": labels.astype(np.float64),
        "fraud_amount": amount * labels,
        "scored": scored.astype(np.float64),
        "scored_frauds": (scored & labels).astype(np.float64),
        "squared_error": scored * (scores.risk - labels) ** 2,
    }
    for name, alerts in selected.items():
        columns[f"{name}.alerts"] = alerts.astype(np.float64)
        columns[f"{name}.caught"] = (alerts & labels).astype(np.float64)
        columns[f"{name}.amount"] = amount * (alerts & labels)
    return columns


def ratio(part: float, whole: float) -> float:
    """`part / whole`; NaN when `whole` is 0."""
    return part / whole if whole else np.nan
