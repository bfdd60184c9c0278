"""How good the scores are, on rows that nothing was fitted or tuned on.

Accuracy is not reported: with 2 frauds in 1,000 rows, approving everything is 99.8 % accurate.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]

# The share of rows that a team can look at; the simulator and the documentation speak of it too.
ALERT_SHARE = 0.01
CURVE_POINTS = 200
HISTOGRAM_BINS = 50


def ranking(scores: Scores, labels: Mask) -> dict[str, float]:
    """What a score is worth whatever the threshold; all in [0, 1].

    `pr_auc` is the average precision: its value for a random ranking is the fraud rate.
    `f1` is the best that any threshold reaches. `recall_at_1_percent` is the share of the frauds
    among the 1 % of the rows with the highest scores; in a group of equal scores that straddles
    the line, frauds count in proportion.
    """
    precision, recall, _ = precision_recall_curve(labels, scores)
    return {
        "pr_auc": float(average_precision_score(labels, scores)),
        "roc_auc": float(roc_auc_score(labels, scores)),
        "f1": float(np.max(_f1(precision, recall))),
        "recall_at_1_percent": recall_at_share(scores, labels, ALERT_SHARE),
    }


def recall_at_share(scores: Scores, labels: Mask, share: float) -> float:
    """The share of the frauds in the top `share` of the rows (at least one row)."""
    wanted = max(1, round(share * len(scores)))
    line = np.partition(scores, -wanted)[-wanted]
    above = scores > line
    tied = scores == line
    of_the_tie = (wanted - above.sum()) / tied.sum()
    return float((labels[above].sum() + of_the_tie * labels[tied].sum()) / labels.sum())


def alerts(selected: Mask, labels: Mask) -> dict[str, float | int]:
    """What raising these alerts would have meant: counts, precision, recall, F1.

    Precision is 0 when nothing is selected.
    """
    caught = int((selected & labels).sum())
    raised = int(selected.sum())
    precision = caught / raised if raised else 0.0
    recall = caught / int(labels.sum())
    return {
        "alerts": raised,
        "alert_rate": raised / len(labels),
        "true_positives": caught,
        "false_positives": raised - caught,
        "false_negatives": int(labels.sum()) - caught,
        "precision": precision,
        "recall": recall,
        "f1": float(_f1(precision, recall)),
    }


def evaluate(
    labels: Mask,
    supervised: Scores,
    unsupervised: Scores,
    risk: Scores,
    rule_blocked: Mask,
    thresholds: dict[str, float],
) -> dict[str, Any]:
    """The metrics of the test part.

    Args:
        labels: (rows,) confirmed frauds; both classes present.
        supervised, unsupervised: (rows,) model scores in [0, 1], for every row.
        risk: (rows,) risk scores in [0, 1]; 1 where a rule blocks.
        rule_blocked: (rows,) a rule blocks.
        thresholds: `review` and `block` on `risk`.

    Returns:
        Top level: the whole system's `ranking`, and precision and recall at BLOCK. Below:
        `supervised`, `unsupervised` (rankings), `rules` (alerts by rule blocks alone), `block` and
        `review` (alerts of the whole at each threshold, REVIEW including BLOCK), and the same two
        without rules, `model_block` and `model_review`.
    """
    blocked = risk >= thresholds["block"]
    flagged = risk >= thresholds["review"]
    block = alerts(blocked, labels)
    model_rows = ~rule_blocked
    return {
        **ranking(risk, labels),
        "precision": block["precision"],
        "recall": block["recall"],
        "rows": len(labels),
        "frauds": int(labels.sum()),
        "fraud_rate": float(labels.mean()),
        "supervised": ranking(supervised, labels),
        "unsupervised": ranking(unsupervised, labels),
        "rules": alerts(rule_blocked, labels),
        "block": block,
        "review": alerts(flagged, labels),
        "model_block": alerts(blocked & model_rows, labels),
        "model_review": alerts(flagged & model_rows, labels),
    }


def curves(labels: Mask, scores: dict[str, Scores]) -> dict[str, Any]:
    """What a page draws: for each named score its precision-recall curve, thinned to at most 200
    points, and how its values are spread over [0, 1] in each class."""
    return {name: _curve(labels, values) for name, values in scores.items()}


def quantiles(values: Scores) -> list[float | None]:
    """The 101 percentiles of the known values, None throughout where no value is known."""
    known = values[~np.isnan(values)]
    if not len(known):
        return [None] * 101
    return [float(value) for value in np.quantile(known, np.linspace(0, 1, 101))]


def _curve(labels: Mask, scores: Scores) -> dict[str, Any]:
    # From the highest threshold down: recall rises, the first of equal recalls is the most precise.
    precision, recall = (array[::-1] for array in precision_recall_curve(labels, scores)[:2])
    # Evenly spaced in recall: evenly spaced rows would all lie where recall is complete.
    kept = np.unique(np.searchsorted(recall, np.linspace(0, 1, CURVE_POINTS)))
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    return {
        "recall": [round(float(value), 6) for value in recall[kept]],
        "precision": [round(float(value), 6) for value in precision[kept]],
        "histogram": {
            "edges": [round(float(edge), 4) for edge in edges],
            "legitimate": np.histogram(scores[~labels], edges)[0].tolist(),
            "fraud": np.histogram(scores[labels], edges)[0].tolist(),
        },
    }


def _f1(precision: Any, recall: Any) -> Any:
    total = np.asarray(precision) + np.asarray(recall)
    return np.where(total > 0, 2 * np.asarray(precision) * recall / np.maximum(total, 1e-300), 0.0)
