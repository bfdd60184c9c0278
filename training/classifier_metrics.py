"""The metrics of a classifier's version as tables, for the terminal and for the admin's pages."""

from training.metrics import (
    NOTHING,
    SPACE,
    Cell,
    Figure,
    Metrics,
    Table,
    at_path,
    count,
    interval_text,
    percent,
    unit,
)

ACCURACY = Figure(("accuracy",), "accuracy", percent, "Rows whose class is named right")
MOST_FREQUENT = Figure(
    ("most_frequent_accuracy",),
    "most frequent class",
    percent,
    "The accuracy of always saying the most frequent class of the training part",
)
BEST_POSSIBLE = Figure(
    ("best_possible_accuracy",),
    "best possible",
    percent,
    "The accuracy of always saying the likeliest class, which only the simulator knows",
)
BALANCED = Figure(
    ("balanced_accuracy",),
    "balanced accuracy",
    percent,
    "The mean of the classes' recalls: rare classes count as much as frequent ones",
)
MACRO_F1 = Figure(("macro_f1",), "macro F1", unit, "The mean of the classes' F1")
TOP_3 = Figure(
    ("top_3_accuracy",), "right among three", percent, "The class is one of the three likeliest"
)
LOG_LOSS = Figure(
    ("log_loss",), "log loss", unit, "Of the probability of the actual class; 0 is best"
)
CALIBRATION = Figure(
    ("expected_calibration_error",),
    "calibration error",
    percent,
    "How far confidence and accuracy are apart, in the mean of all rows",
)
WHOLE = (
    ACCURACY,
    MOST_FREQUENT,
    BEST_POSSIBLE,
    BALANCED,
    MACRO_F1,
    TOP_3,
    LOG_LOSS,
    CALIBRATION,
)
CLASS = (
    Figure(("rows",), "rows", count),
    Figure(("precision",), "precision", percent, "Of the rows named so, those that are"),
    Figure(("recall",), "recall", percent, "Of the rows that are, those named so"),
    Figure(("f1",), "F1", unit),
)
# What a run measures of the champion on the same rows.
BESIDE_CHAMPION = (ACCURACY, BALANCED, MACRO_F1, TOP_3, LOG_LOSS, CALIBRATION)


def accuracy_cell(metrics: Metrics) -> Cell:
    """The accuracy with its interval."""
    return Cell(percent(metrics["accuracy"]), interval_text(accuracy_interval(metrics), percent))


def accuracy_interval(metrics: Metrics) -> list[float] | None:
    """Of 95 %, None where a report has none."""
    return metrics.get("accuracy_interval")


def classifier_tables(metrics: Metrics) -> list[Table]:
    """The figures of the whole, and beside the champion's where it was measured too."""
    if not metrics:
        return []
    return [table for table in (figures_table(metrics), champion_table(metrics)) if table.rows]


def figures_table(metrics: Metrics) -> Table:
    """A figure a row, with its interval and what it is."""
    cells = [
        (figure, accuracy_cell(metrics) if figure is ACCURACY else figure.cell(metrics))
        for figure in WHOLE
    ]
    return Table(
        f"Figures on {metrics['rows']:,} test rows",
        ("", "value", "95 % interval", ""),
        [
            (Cell(_capital(figure.label)), Cell(cell.value), Cell(cell.interval), Cell(figure.hint))
            for figure, cell in cells
            if cell.value != NOTHING
        ],
    )


def champion_table(metrics: Metrics) -> Table:
    """This version and the champion on the same rows; without rows where there was none."""
    champion, before = metrics.get("champion"), at_path(metrics, ("baselines", "champion"))
    if not champion or not before:
        return Table("Beside the champion", (), [])
    shown = [figure for figure in BESIDE_CHAMPION if before.get(figure.path[0]) is not None]
    return Table(
        f"Beside the champion v{champion['version']}, on the same rows",
        ("", "this version", "champion", "difference"),
        [
            (
                Cell(_capital(figure.label)),
                Cell(figure.cell(metrics).value),
                Cell(figure.cell(before).value),
                _difference(metrics, figure),
            )
            for figure in shown
        ],
    )


def class_table(metrics: Metrics) -> Table:
    """How well each class is told."""
    return Table(
        "Classes",
        ("class", *(figure.label for figure in CLASS)),
        [
            (Cell(label), *(figure.cell(found) for figure in CLASS))
            for label, found in metrics.get("per_class", {}).items()
        ],
    )


def signed_points(value: float) -> str:
    """A difference of shares."""
    return f"{100 * value:+.1f}{SPACE}pts"


def _difference(metrics: Metrics, figure: Figure) -> Cell:
    def signed(value: float) -> str:
        return signed_points(value) if figure.show is percent else f"{value:+.4f}"

    judged = at_path(metrics, ("differences", "champion", *figure.path))
    if judged:
        return Cell(signed(judged["difference"]), interval_text(judged["interval"], signed))
    here = at_path(metrics, figure.path)
    before = at_path(metrics, ("baselines", "champion", *figure.path))
    return Cell(signed(here - before)) if here is not None and before is not None else Cell(NOTHING)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
