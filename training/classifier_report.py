"""The report of a classifier's run: what its template shows."""

from math import ceil, sqrt
from typing import Any, NamedTuple

from training import classifier_metrics as metrics
from training.metrics import NOTHING, Cell, Metrics, Table, at_path, percent
from training.report_parts import (
    FIRST_INPUTS,
    Bar,
    Plot,
    Report,
    importance_bars,
    memory_in_words,
    stage_rows,
    tiles,
)

HEADLINE = (
    metrics.MOST_FREQUENT,
    metrics.BEST_POSSIBLE,
    metrics.BALANCED,
    metrics.MACRO_F1,
    metrics.TOP_3,
    metrics.CALIBRATION,
)
# More than this many classes do not fit a page: those with the most rows are shown.
MATRIX_CLASSES = 24
CONFUSIONS = 10
SHADES = 10
RELIABILITY = Plot(
    "classifier-reliability",
    "Reliability of the confidence",
    "Of the answers with a confidence of about 70 %, seven in ten should be right: on the grey "
    "line they are. Larger points stand for more rows.",
)


class Confusion(NamedTuple):
    """A cell of the confusion matrix."""

    rows: str
    share: str
    """Of the rows of the actual class."""
    shade: str
    """A class of report.css."""
    words: str


class Matrix(NamedTuple):
    """The confusion matrix: a row an actual class, a column a predicted one."""

    labels: list[str]
    lines: list[tuple[str, str, list[Confusion]]]
    """The class, how many rows it has, and its cells."""
    left_out: int
    """How many classes are not shown."""


class Share(NamedTuple):
    """A class among the rows of each part."""

    label: str
    bar: Bar
    cells: list[str]


def classifier_context(report: Report) -> dict[str, Any]:
    """What `training/classifier_report.html` shows of a report that has metrics."""
    found = report["metrics"]
    curves = report.get("curves", {})
    importances = importance_bars(report.get("importances", []))
    matrix = curves.get("confusion")
    return {
        "sentences": _sentences(found),
        "warning": report.get("champion_error"),
        "accuracy": metrics.accuracy_cell(found),
        "tiles": tiles(HEADLINE, found),
        "beside": _beside(found),
        "figures": metrics.figures_table(found),
        "champion_table": metrics.champion_table(found),
        "class_table": metrics.class_table(found),
        "matrix": _matrix(matrix) if matrix else None,
        "confusions": _confusions(matrix) if matrix else None,
        "plot": RELIABILITY if curves.get("reliability") else None,
        "importances": importances[:FIRST_INPUTS],
        "more_importances": importances[FIRST_INPUTS:],
        "parts": _part_names(report),
        "shares": _shares(report),
        "data_facts": _data_facts(report),
        "stages": stage_rows(report),
        "embedded": {"reliability": curves.get("reliability", [])},
    }


def _sentences(found: Metrics) -> list[str]:
    """What the report says, in words."""
    told = (_accuracy(found), _between(found), _beside_champion(found), _confidence(found))
    return [sentence for sentence in told if sentence]


def _accuracy(found: Metrics) -> str:
    cell = metrics.accuracy_cell(found)
    interval = f" (with 95 % confidence {cell.interval})" if cell.interval else ""
    return (
        f"Of {found['rows']:,} rows that it had not seen, this version names the class of "
        f"{cell.value} right{interval}."
    )


def _between(found: Metrics) -> str:
    """The accuracy between that of no model and that of the best one."""
    frequent, best = found.get("most_frequent_accuracy"), found.get("best_possible_accuracy")
    if frequent is None:
        return ""
    told = f"Always saying the most frequent class would be right for {percent(frequent)}"
    if best is None:
        return f"{told}."
    told += (
        f", and no model can be right for more than about {percent(best)}: the same inputs come "
        "with different classes"
    )
    if best <= frequent:
        return f"{told}."
    gained = (found["accuracy"] - frequent) / (best - frequent)
    return f"{told}. Of what there is to gain between the two, this version has {percent(gained)}."


def _beside_champion(found: Metrics) -> str:
    champion, before = found.get("champion"), at_path(found, ("baselines", "champion", "accuracy"))
    if not champion or before is None:
        return ""
    name = f"the champion v{champion['version']}"
    if champion.get("same_scores"):
        return f"On every one of these rows it answers as {name} does: it is the same model."
    judged = at_path(found, ("differences", "champion", "accuracy"))
    told = (
        f"Beside {name} on the same rows its accuracy is {percent(found['accuracy'])} and not "
        f"{percent(before)}"
    )
    if champion.get("split") != found.get("split"):
        return (
            f"{told}, which says nothing: {name} was split otherwise, and may have been fitted on "
            "some of them."
        )
    if not judged or not judged["interval"]:
        return f"{told}."
    low, high = (metrics.signed_points(limit) for limit in judged["interval"])
    difference = metrics.signed_points(judged["difference"])
    verdict = "" if judged["interval"][0] > 0 or judged["interval"][1] < 0 else ", maybe by chance"
    return f"{told}: a difference of {difference} ({low} to {high}){verdict}."


def _confidence(found: Metrics) -> str:
    error = found.get("expected_calibration_error")
    if error is None:
        return ""
    return f"Its confidence and how often it is right are {percent(error)} apart in the mean."


def _beside(found: Metrics) -> list[tuple[Bar, str]]:
    """The accuracy beside those that give it a meaning; bars of 0 to 100 %."""
    champion = found.get("champion") or {}
    rows = [
        ("Always the most frequent class", found.get("most_frequent_accuracy"), "plain"),
        (
            f"Champion v{champion.get('version')}",
            at_path(found, ("baselines", "champion", "accuracy")),
            "champion",
        ),
        ("This version", found["accuracy"], "this"),
        ("The best possible", found.get("best_possible_accuracy"), "plain"),
    ]
    interval = metrics.accuracy_interval(found) or [0.0, 0.0]
    return [
        (
            Bar(
                name,
                percent(value),
                round(100 * value, 2),
                *((round(100 * limit, 2) for limit in interval) if kind == "this" else ()),
            ),
            kind,
        )
        for name, value, kind in rows
        if value is not None
    ]


def _matrix(confusion: Metrics) -> Matrix:
    labels, counts = confusion["labels"], confusion["counts"]
    shown = _most_frequent(counts)
    lines = []
    for actual in shown:
        total = sum(counts[actual])
        cells = [
            _cell(labels[actual], labels[each], counts[actual][each], total, right=each == actual)
            for each in shown
        ]
        lines.append((labels[actual], f"{total:,}", cells))
    return Matrix([labels[each] for each in shown], lines, len(labels) - len(shown))


def _most_frequent(counts: list[list[int]]) -> list[int]:
    """Where the classes with the most rows are, in the order of the definition."""
    ranked = sorted(range(len(counts)), key=lambda actual: -sum(counts[actual]))
    return sorted(ranked[:MATRIX_CLASSES])


def _cell(actual: str, predicted: str, rows: int, total: int, *, right: bool) -> Confusion:
    share = rows / total if total else 0.0
    # Of the square root, so that one confusion in a hundred is seen beside one in two.
    level = ceil(SHADES * sqrt(share)) if rows else 0
    told = "named right" if right else f"named {predicted}"
    return Confusion(
        rows=f"{rows:,}",
        share=_short(share) if rows else "",
        shade=f"heat-{'right' if right else 'wrong'}-{level}" if level else "heat-none",
        words=f"{actual}: {rows:,} of {total:,} rows ({percent(share)}) {told}",
    )


def _short(share: float) -> str:
    """A share in percent in at most three characters."""
    return "<1" if share < 0.005 else f"{100 * share:.0f}"


def _confusions(confusion: Metrics) -> Table:
    """What is most often taken for what."""
    labels, counts = confusion["labels"], confusion["counts"]
    wrong = [
        (rows, actual, predicted)
        for actual, line in enumerate(counts)
        for predicted, rows in enumerate(line)
        if actual != predicted and rows
    ]
    wrong.sort(key=lambda each: (-each[0], each[1:]))
    return Table(
        "Most often taken for another",
        ("actual class", "named", "rows", "of the class"),
        [
            (
                Cell(labels[actual]),
                Cell(labels[predicted]),
                Cell(f"{rows:,}"),
                Cell(percent(rows / sum(counts[actual]))),
            )
            for rows, actual, predicted in wrong[:CONFUSIONS]
        ],
    )


def _part_names(report: Report) -> list[tuple[str, str]]:
    """Each part and how many rows it has."""
    parts = at_path(report, ("data", "parts")) or {}
    return [(name, f"{part['rows']:,}") for name, part in parts.items()]


def _shares(report: Report) -> list[Share]:
    """How frequent each class is, the bar of the first part."""
    parts = list((at_path(report, ("data", "parts")) or {}).values())
    if not parts or "classes" not in parts[0]:
        return []
    most = max(parts[0]["classes"].values(), default=0) or 1
    return [
        Share(
            label,
            Bar(label, "", round(100 * rows / most, 2)),
            [_part_cell(part, label) for part in parts],
        )
        for label, rows in parts[0]["classes"].items()
    ]


def _part_cell(part: Metrics, label: str) -> str:
    rows, total = part["classes"].get(label, 0), sum(part["classes"].values())
    return f"{rows:,} ({percent(rows / total)})" if total else NOTHING


def _data_facts(report: Report) -> list[tuple[str, str]]:
    forest, peak = report.get("forest"), report.get("peak_memory_mb")
    fitted = at_path(report, ("data", "fit_rows"))
    difference = report.get("export_difference")
    repeated = at_path(report, ("data", "repeated_rows"))
    facts = [
        ("Like a row before", f"{repeated:,} rows" if repeated else ""),
        ("Fitted on", "" if fitted is None else f"{fitted:,} rows"),
        ("Trees", f"{forest['trees']:,}" if forest else ""),
        ("Leaves", f"{forest['leaves']:,}" if forest else ""),
        ("Deepest", f"{forest['depth']:,} decisions" if forest else ""),
        ("Fitted and served differ by", "" if difference is None else _at_most(difference)),
        ("Peak memory", "" if peak is None else memory_in_words(peak)),
    ]
    return [(name, value) for name, value in facts if value]


def _at_most(difference: float) -> str:
    return f"at most {difference:.0e}" if difference else "nothing"
