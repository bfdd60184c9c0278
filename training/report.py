"""A training run's report, of whichever kind its model is.

The report is what the training program wrote; that of an older version lacks some parts, which are
then left out.
"""

from typing import Any

from engine.kinds import CLASSIFIER, FRAUD
from training.classifier_metrics import class_table, classifier_tables
from training.classifier_report import classifier_context
from training.fraud_report import fraud_context
from training.metrics import Table, figures_table, metric_tables
from training.report_parts import Report
from training.report_traffic import disagreements

REMEDIES = {
    "start": "The program ended before its first stage. Look at the worker's log, then start the "
    "run again.",
    "load": "Look at the page of the data set. If its file is gone or damaged, import it again.",
    "split": "Take a longer period, other periods or a shorter label delay, so that every part has "
    "transactions and frauds.",
    "registration": "The training itself succeeded. When the cause is gone, start the run again.",
}
CLASSIFIER_REMEDIES = {
    "split": "Import more rows, or take another share of them for the test (--test-share), so that "
    "both parts have rows.",
}
OTHERWISE = (
    "If the reason above says what to change, change it and train again. Otherwise start the run "
    "again; if it fails in the same way, the log below and the report tell more."
)


def report_context(report: Report) -> dict[str, Any]:
    """What `report_template` shows of a finished run; `{}` for a report without metrics."""
    if not report.get("metrics"):
        return {}
    if is_classifier(report):
        template, context = "classifier_report", classifier_context(report)
    else:
        template, context = "fraud_report", fraud_context(report)
    return {"report_template": f"training/{template}.html", **context}


def summary_tables(report: Report) -> list[Table]:
    """The first tables of a finished run, for a terminal."""
    found = report.get("metrics", {})
    return classifier_tables(found) if is_classifier(report) else metric_tables(found)


def all_tables(report: Report) -> list[Table]:
    """Every table of a finished run, for a terminal."""
    if is_classifier(report):
        tables = [*summary_tables(report), class_table(report["metrics"])]
    else:
        figures = figures_table(report["metrics"])
        tables = [*summary_tables(report), figures, disagreements(report)]
    return [table for table in tables if table.rows]


def is_classifier(report: Report) -> bool:
    """Whether the run trained a classifier."""
    return report.get("kind") == CLASSIFIER


def remedy(stage: str, error: str, kind: str = FRAUD) -> str:
    """What a person can do about a run that failed at a stage."""
    if "memory" in error.lower():
        which = "rows" if kind == CLASSIFIER else "of the legitimate ones"
        return (
            "Give it more memory (--memory, or a larger --machine-type), raise --memory-limit if "
            f"it has one, train on fewer rows (--sample), or fit on fewer {which} "
            "(--fit-rows): with the same options it fails again."
        )
    if kind == CLASSIFIER and stage in CLASSIFIER_REMEDIES:
        return CLASSIFIER_REMEDIES[stage]
    return REMEDIES.get(stage, OTHERWISE)
