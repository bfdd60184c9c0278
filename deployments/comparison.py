"""A version's metrics beside the champion's, as texts ready to be shown."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from engine.kinds import CLASSIFIER

Metrics = Mapping[str, Any]


class Measure(NamedTuple):
    """One figure of a report: where it is in the metrics, and how it reads.

    `better` is +1 when more is better, -1 when less is, 0 when it is a matter of taste.
    """

    path: tuple[str, ...]
    label: str
    hint: str
    percent: bool = False
    better: int = 1

    def value(self, metrics: Metrics) -> float | None:
        """The figure, None when the report does not have it."""
        found: Any = metrics
        for key in self.path:
            if not isinstance(found, Mapping):
                return None
            found = found.get(key)
        return found if isinstance(found, int | float) else None

    def text(self, value: float | None) -> str:
        """The figure for people."""
        if value is None:
            return "–"
        return f"{value * 100:.2f} %" if self.percent else f"{value:.3f}"

    def difference(self, value: float | None, champion: float | None) -> "Difference":
        """How far `value` is from the champion's."""
        if value is None or champion is None:
            return Difference("", "")
        delta = value - champion
        text = f"{delta * 100:+.2f} pts" if self.percent else f"{delta:+.3f}"
        if not any(digit in "123456789" for digit in text):
            return Difference("=", "")
        verdict = delta * self.better
        return Difference(text, "better" if verdict > 0 else "worse" if verdict < 0 else "")


class Difference(NamedTuple):
    """A signed text, and “better”, “worse” or nothing."""

    text: str
    verdict: str


class Row(NamedTuple):
    """One measure of two versions."""

    label: str
    hint: str
    candidate: str
    champion: str
    difference: Difference


AVERAGE_PRECISION = Measure(
    ("pr_auc",), "Average precision", "Area under the precision-recall curve of the risk score"
)
ROC_AUC = Measure(("roc_auc",), "ROC-AUC", "How often a fraud scores above a legitimate one")
RECALL_AT_1 = Measure(
    ("recall_at_1_percent",),
    "Recall at 1 % alerts",
    "Share of the frauds among the 1 % with the highest risk",
    percent=True,
)
FRAUD_MEASURES = (
    AVERAGE_PRECISION,
    ROC_AUC,
    RECALL_AT_1,
    Measure(("f1",), "Best F1", "At the best of all thresholds"),
    Measure(("block", "precision"), "Precision of BLOCK", "Frauds among the blocked", True),
    Measure(("block", "recall"), "Recall of BLOCK", "Frauds that are blocked", True),
    Measure(("block", "alert_rate"), "Share blocked", "Of all transactions", True, better=0),
    Measure(
        ("review", "precision"),
        "Precision of REVIEW and BLOCK",
        "Frauds among the reviewed or blocked",
        percent=True,
    ),
    Measure(
        ("review", "recall"),
        "Recall of REVIEW and BLOCK",
        "Frauds that are reviewed or blocked",
        percent=True,
    ),
    Measure(
        ("review", "alert_rate"),
        "Share reviewed or blocked",
        "Of all transactions",
        percent=True,
        better=0,
    ),
    Measure(("supervised", "pr_auc"), "Average precision, supervised", "The boosting alone"),
    Measure(("unsupervised", "pr_auc"), "Average precision, unsupervised", "The forest alone"),
    Measure(("rules", "precision"), "Precision of the rules", "Rule blocks alone", True),
    Measure(("rules", "recall"), "Recall of the rules", "Rule blocks alone", True),
)

ACCURACY = Measure(("accuracy",), "Accuracy", "Share of the rows whose class it tells", True)
BALANCED_ACCURACY = Measure(
    ("balanced_accuracy",), "Balanced accuracy", "The mean of the classes' recalls", True
)
MACRO_F1 = Measure(("macro_f1",), "Macro F1", "The mean of the classes' F1")
BEST_POSSIBLE = Measure(
    ("best_possible_accuracy",),
    "Best possible accuracy",
    "Of who knows each class's probability; where a simulator tells",
    percent=True,
    better=0,
)
CLASSIFIER_MEASURES = (
    ACCURACY,
    BALANCED_ACCURACY,
    MACRO_F1,
    Measure(
        ("top_3_accuracy",),
        "Top-3 accuracy",
        "Share of the rows whose class is among the three likeliest",
        percent=True,
    ),
    Measure(("log_loss",), "Log loss", "Of the probability that the true class has", better=-1),
    Measure(
        ("expected_calibration_error",),
        "Calibration error",
        "How far the confidence is from the accuracy, on average",
        better=-1,
    ),
    Measure(
        ("most_frequent_accuracy",),
        "Accuracy of the most frequent class",
        "Of who always says that one",
        percent=True,
        better=0,
    ),
    BEST_POSSIBLE,
)


def measures_of(metrics: Metrics) -> tuple[Measure, ...]:
    """Those of the kind that the metrics are of."""
    return CLASSIFIER_MEASURES if metrics.get("kind") == CLASSIFIER else FRAUD_MEASURES


def compare(candidate: Metrics, champion: Metrics | None) -> list[Row]:
    """Every measure that the candidate has, beside the champion's if there is one."""
    rows = []
    for measure in measures_of(candidate):
        value = measure.value(candidate)
        other = measure.value(champion) if champion is not None else None
        if value is None and other is None:
            continue
        rows.append(
            Row(
                measure.label,
                measure.hint,
                measure.text(value),
                measure.text(other),
                measure.difference(value, other),
            )
        )
    return rows


def on_same_part(candidate: Metrics, champion: str) -> Metrics | None:
    """The champion's figures on the candidate's own test part, if its training run took them."""
    measured = candidate.get("champion")
    if not measured or measured["version"] != champion:
        return None
    figures: Metrics = candidate["baselines"]["champion"]
    part = {name: candidate[name] for name in ("kind", "rows", "frauds") if name in candidate}
    return {**figures, **part}


def test_set(metrics: Metrics) -> str:
    """What the metrics were measured on."""
    if not metrics.get("rows"):
        return "–"
    if metrics.get("kind") == CLASSIFIER:
        return f"{metrics['rows']:,} rows"
    rows, frauds = metrics["rows"], metrics.get("frauds", 0)
    return f"{rows:,} transactions, {frauds:,} frauds ({frauds / rows:.2%})"
