"""What the page of a report draws. Every number follows from `predictions.parquet`."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.pipeline.evaluate.bootstrap import Estimates, Figures, Side
from training.pipeline.evaluate.decisions import Decisions, WalletSums, ratio
from training.pipeline.evaluate.metrics import baseline_scores
from training.pipeline.evaluate.part import Array, Codes, Mask, TestPart, numbered
from training.pipeline.evaluate.ranking import Ranking, Weights
from training.pipeline.evaluate.wallets import DAY_US

POINTS = 200
BINS = 50
# Narrow where the rows are: nearly all risks are small.
RELIABILITY_EDGES = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
WEEK_US = 7 * DAY_US
# 1970-01-05 was the first Monday.
MONDAY_US = 4 * DAY_US
MOST_TYPES = 20
REPLICATES = 100
SLICE_RANKING = ("pr_auc", "roc_auc")
SLICE_DECISIONS = ("block", "review")
SLICE_ALERTS = ("alert_rate", "precision", "recall", "value_recall")


def curves(
    part: TestPart,
    thresholds: Mapping[str, float],
    *,
    baselines: Mapping[str, Array],
    seed: int,
) -> dict[str, Any]:
    """What is drawn, and the metrics by week and by transaction type.

    Args: as `evaluate` has them.

    Returns:
        `scores`: for the `risk`, both models and each baseline the points of its precision-recall
        and ROC curves, at most 200, evenly spaced in recall. `histograms`: how the risk and both
        models' scores are spread in each class. `reliability`: the share of frauds among the rows
        of similar risk that no rule blocks. `cost`: what reviewing everything from a threshold on
        would miss and raise. `weeks` (calendar weeks, from Monday, UTC) and `types`: the metrics of
        some of the rows.
    """
    scores = part.scores
    models = {
        "risk": scores.risk,
        "supervised": scores.supervised,
        "unsupervised": scores.unsupervised,
    }
    drawn = models | baseline_scores(part, baselines)
    return {
        "scores": {name: score_curve(values, part.labels) for name, values in drawn.items()},
        "histograms": {name: _histogram(values, part.labels) for name, values in models.items()},
        "reliability": _reliability(part, seed),
        "cost": _cost(part),
        "weeks": _weeks(part, thresholds, seed),
        "types": _types(part, thresholds, seed),
    }


def score_curve(scores: Array, labels: Mask) -> dict[str, list[float]]:
    """Points of the precision-recall and the ROC curve, from the highest threshold down.

    Each is at a score that frauds have: between two of them recall stays and precision falls.
    """
    ranking = Ranking(scores, labels, np.zeros(len(labels), np.int64))
    recall, precision, false_positive_rate = ranking.points()
    # Evenly spaced in recall: evenly spaced rows would nearly all lie where recall is complete.
    kept = np.unique(np.searchsorted(recall, np.linspace(0, 1, POINTS)))
    return {
        # In full, so that `score >= threshold` selects the same rows again.
        "threshold": ranking.thresholds[kept].tolist(),
        "recall": _rounded(recall[kept]),
        "precision": _rounded(precision[kept]),
        "false_positive_rate": _rounded(false_positive_rate[kept]),
    }


def _histogram(scores: Array, labels: Mask) -> dict[str, Any]:
    edges = np.linspace(0.0, 1.0, BINS + 1)
    return {
        "edges": _rounded(edges),
        "legitimate": np.histogram(scores[~labels], edges)[0].tolist(),
        "fraud": np.histogram(scores[labels], edges)[0].tolist(),
    }


def _reliability(part: TestPart, seed: int) -> list[dict[str, Any]]:
    """For each range of risks that has rows: their mean risk and their fraud rate."""
    scored = part.take(~part.scores.rule_blocked)
    risk, labels = scored.scores.risk, scored.labels
    bins = np.digitize(risk, RELIABILITY_EDGES[1:-1])
    filled = [int(at) for at in np.unique(bins)]

    def by(wallets: Codes) -> Figures:
        sums = {
            str(at): (WalletSums(bins == at, wallets), WalletSums((bins == at) & labels, wallets))
            for at in filled
        }
        return lambda weights: {
            at: ratio(frauds.total(weights), rows.total(weights))
            for at, (rows, frauds) in sums.items()
        }

    estimates = _estimates(scored, by, seed)
    rates, intervals = estimates.values(), estimates.intervals()
    return [
        {
            "from": RELIABILITY_EDGES[at],
            "to": RELIABILITY_EDGES[at + 1],
            "rows": int(np.sum(bins == at)),
            "mean_risk": round(float(risk[bins == at].mean()), 6),
            "fraud_rate": rates[str(at)],
            "interval": intervals[str(at)],
        }
        for at in filled
    ]


def _cost(part: TestPart) -> dict[str, list[float]]:
    """With everything from a threshold on stopped: per 1,000 transactions the amount of the frauds
    below it, the alerts, and those of them that are legitimate."""
    risk, labels, amount = part.scores.risk, part.labels, np.maximum(part.amount, 0.0)
    top = np.geomspace(1, len(risk), POINTS // 2).astype(np.int64)
    thresholds = np.unique([*np.linspace(0, 1, POINTS // 2 + 1), *np.sort(risk)[-top]])
    order = np.argsort(risk)
    below = np.searchsorted(risk[order], thresholds)
    frauds_below = np.append(0, np.cumsum(labels[order]))[below]
    missed = np.append(0.0, np.cumsum((amount * labels)[order]))[below]
    alerts = len(risk) - below
    per = 1000 / len(risk)
    return {
        "threshold": thresholds.tolist(),
        "missed_per_1000": _rounded(missed * per),
        "alerts_per_1000": _rounded(alerts * per),
        "false_alerts_per_1000": _rounded((alerts - (int(labels.sum()) - frauds_below)) * per),
    }


def _weeks(part: TestPart, thresholds: Mapping[str, float], seed: int) -> list[dict[str, Any]]:
    week = (part.created_at - MONDAY_US) // WEEK_US
    return [
        {
            "week": _date(int(each) * WEEK_US + MONDAY_US),
            **slice_metrics(part.take(week == each), thresholds, seed),
        }
        for each in np.unique(week)
    ]


def _types(part: TestPart, thresholds: Mapping[str, float], seed: int) -> list[dict[str, Any]]:
    """The most frequent types first."""
    types = part.transaction_type
    counts = np.bincount(types.codes[types.codes >= 0], minlength=len(types.names))
    frequent = np.argsort(-counts, kind="stable")[:MOST_TYPES]
    return [
        {
            "type": types.names[at],
            **slice_metrics(part.take(types.codes == at), thresholds, seed),
        }
        for at in frequent
        if counts[at]
    ]


def slice_metrics(part: TestPart, thresholds: Mapping[str, float], seed: int) -> dict[str, Any]:
    """The most important metrics of some rows, with intervals; None where they have no fraud."""
    estimates = _estimates(part, lambda wallets: _slice_figures(part, thresholds, wallets), seed)
    return {
        "rows": len(part.labels),
        "frauds": int(part.labels.sum()),
        **estimates.values(),
        "intervals": estimates.intervals(),
    }


def _slice_figures(part: TestPart, thresholds: Mapping[str, float], wallets: Codes) -> Figures:
    ranking = Ranking(part.scores.risk, part.labels, wallets) if part.labels.any() else None
    decisions = Decisions(part, thresholds, None, wallets)

    def figures(weights: Weights) -> dict[str, Any]:
        found = ranking.figures(weights) if ranking else np.full(len(Ranking.FIGURES), np.nan)
        ranked = dict(zip(Ranking.FIGURES, found, strict=True))
        decided = decisions.figures(weights)
        return {name: ranked[name] for name in SLICE_RANKING} | {
            name: {figure: decided[name][figure] for figure in SLICE_ALERTS}
            for name in SLICE_DECISIONS
        }

    return figures


def _estimates(part: TestPart, by: Callable[[Codes], Figures], seed: int) -> Estimates:
    """Figures whose sums are taken `by` the wallets of either side."""
    sides = [
        Side(int(wallets.max(initial=-1)) + 1, by(wallets))
        for wallets in (numbered(part.source), numbered(part.destination))
    ]
    return Estimates(sides, replicates=REPLICATES, seed=seed)


def _rounded(values: NDArray[Any]) -> list[float]:
    rounded: list[float] = np.round(values, 6).tolist()
    return rounded


def _date(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).date().isoformat()
