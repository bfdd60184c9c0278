"""The metrics of a version as tables, for the terminal and for the admin's pages."""

from collections.abc import Mapping
from typing import Any, NamedTuple

RANKINGS = {
    "The whole": (),
    "Supervised": ("supervised",),
    "Unsupervised": ("unsupervised",),
}
ALERTS = {
    "Rules alone": "rules",
    "Blocked": "block",
    "Reviewed or blocked": "review",
    "Blocked by the models": "model_block",
    "Reviewed or blocked by the models": "model_review",
}


class Table(NamedTuple):
    """Cells are texts, ready to be shown; the first of each row names it."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def metric_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """The tables of a report's `metrics` (training.pipeline.evaluate); none for an empty one."""
    if not metrics:
        return []
    test = f"on {metrics['rows']:,} test transactions with {metrics['frauds']:,} frauds"
    return [
        Table(
            f"Ranking, {test}",
            ("", "PR-AUC", "ROC-AUC", "best F1", "recall at 1 %"),
            [(name, *_ranking(metrics, path)) for name, path in RANKINGS.items()],
        ),
        Table(
            f"Alerts, {test}",
            ("", "alerts", "of all", "precision", "recall", "F1"),
            [(name, *_alerts(metrics[key])) for name, key in ALERTS.items()],
        ),
    ]


def text_table(table: Table) -> str:
    """The table for a terminal, columns aligned."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    text = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, *text])


def _ranking(metrics: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    for key in path:
        metrics = metrics[key]
    return [f"{metrics[key]:.4f}" for key in ("pr_auc", "roc_auc", "f1")] + [
        f"{metrics['recall_at_1_percent']:.1%}"
    ]


def _alerts(alerts: Mapping[str, Any]) -> list[str]:
    return [
        f"{alerts['alerts']:,}",
        f"{alerts['alert_rate']:.2%}",
        f"{alerts['precision']:.1%}",
        f"{alerts['recall']:.1%}",
        f"{alerts['f1']:.3f}",
    ]
