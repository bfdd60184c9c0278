"""The metrics of a version as tables, for the terminal and for the admin's pages."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Metrics = Mapping[str, Any]
Format = Callable[[float], str]

NOTHING = "–"
# Between a number and its unit: no line breaks there.
SPACE = "\N{NO-BREAK SPACE}"


class Cell(NamedTuple):
    """A figure as a text, and its interval as another, empty when it has none."""

    value: str
    interval: str = ""


class Table(NamedTuple):
    """Cells are ready to be shown; the first of each row names it."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[Cell, ...]]


class Figure(NamedTuple):
    """One figure of a report: where it is in the metrics, and how it reads."""

    path: tuple[str, ...]
    label: str
    show: Format
    hint: str = ""

    def cell(self, metrics: Metrics, above: tuple[str, ...] = ()) -> Cell:
        """The figure of the whole, or of what is at `above` in the metrics."""
        path = (*above, *self.path)
        value, limits = at_path(metrics, path), at_path(metrics.get("intervals", {}), path)
        if value is None:
            return Cell(NOTHING)
        return Cell(self.show(value), interval_text(limits, self.show))


def at_path(values: Any, path: tuple[str, ...]) -> Any:
    """What is at a path of keys; None when a report does not have it."""
    for key in path:
        if not isinstance(values, Mapping):
            return None
        values = values.get(key)
    return values


def interval_text(limits: list[float] | None, show: Format) -> str:
    """`low to high`, empty for none."""
    return f"{show(limits[0])} to {show(limits[1])}" if limits else ""


def unit(value: float) -> str:
    """A figure between 0 and 1."""
    return f"{value:.4f}"


def percent(value: float) -> str:
    """A share."""
    return f"{100 * value:.1f}{SPACE}%"


def small_percent(value: float) -> str:
    """A share that is mostly near 0."""
    return f"{100 * value:.2f}{SPACE}%"


def money(value: float) -> str:
    """An amount in units of the currency."""
    return f"{value:,.2f}"


def count(value: float) -> str:
    """A number of things."""
    return f"{value:,}"


AVERAGE_PRECISION = Figure(
    ("pr_auc",),
    "average precision",
    unit,
    "Of the ranking by risk; a random one has the fraud rate",
)
CARD_PRECISION = Figure(
    ("card_precision_at_100",),
    "wallet precision at 100 a day",
    unit,
    "Compromised ones among the 100 wallets of the highest risk of each day; one that was found is "
    "left out afterwards",
)
RANKING = (
    AVERAGE_PRECISION,
    Figure(("roc_auc",), "ROC-AUC", unit, "How often a fraud ranks above a legitimate transaction"),
    Figure(("f1",), "best F1", unit, "At the best of all thresholds"),
    Figure(
        ("recall_at_0_1_percent",), "recall at 0.1 %", percent, "Frauds found with 0.1 % alerts"
    ),
    Figure(
        ("recall_at_0_5_percent",), "recall at 0.5 %", percent, "Frauds found with 0.5 % alerts"
    ),
    Figure(("recall_at_1_percent",), "recall at 1 %", percent, "Frauds found with 1 % alerts"),
    CARD_PRECISION,
)
STOPPED = Figure(("review", "recall"), "frauds reviewed or blocked", percent, "Share of the frauds")
VALUE_STOPPED = Figure(
    ("review", "value_recall"), "fraud value reviewed or blocked", percent, "Share of the amounts"
)
REVIEW_PRECISION = Figure(
    ("review", "precision"),
    "precision of REVIEW and BLOCK",
    percent,
    "Frauds among what is reviewed or blocked",
)
ALERT_RATE = Figure(
    ("review", "alert_rate"), "reviewed or blocked", small_percent, "Of all transactions"
)
SAVING = Figure(
    ("saving_per_1000",),
    "saving per 1,000",
    money,
    "Beside approving everything, per 1,000 transactions, in units of the currency",
)
WHOLE = (
    *RANKING,
    STOPPED,
    VALUE_STOPPED,
    REVIEW_PRECISION,
    ALERT_RATE,
    Figure(("block", "recall"), "frauds blocked", percent, "Share of the frauds"),
    Figure(("block", "value_recall"), "fraud value blocked", percent, "Share of the amounts"),
    Figure(("block", "precision"), "precision of BLOCK", percent, "Frauds among what is blocked"),
    SAVING,
    Figure(
        ("approve_all_cost_per_1000",),
        "fraud per 1,000",
        money,
        "The amounts of all frauds per 1,000 transactions: the most that could be saved",
    ),
    Figure(
        ("brier",), "Brier score", lambda value: f"{value:.6f}", "Squared error of the risk; 0 best"
    ),
    Figure(
        ("brier_skill",),
        "Brier skill",
        unit,
        "1 is perfect, 0 as good as the fraud rate for everyone",
    ),
)
SCORES = {
    "The whole decision": (),
    "Supervised model": ("supervised",),
    "Unsupervised model": ("unsupervised",),
    "Rules alone": ("baselines", "rules"),
    "Logistic regression": ("baselines", "logistic"),
    "Champion": ("baselines", "champion"),
}
DECISIONS = {
    "Rules alone": "rules",
    "Blocked": "block",
    "Reviewed or blocked": "review",
    "Blocked by the models": "model_block",
    "Reviewed or blocked by the models": "model_review",
}
ALERTS = (
    Figure(("alerts",), "alerts", count),
    Figure(("alert_rate",), "of all", small_percent),
    Figure(("precision",), "precision", percent),
    Figure(("recall",), "recall", percent),
    Figure(("value_recall",), "recall of value", percent),
    Figure(("f1",), "F1", unit),
)
SLICE = (
    Figure(("rows",), "transactions", count),
    Figure(("frauds",), "frauds", count),
    AVERAGE_PRECISION,
    STOPPED,
    VALUE_STOPPED,
    REVIEW_PRECISION,
    ALERT_RATE,
    Figure(("block", "recall"), "frauds blocked", percent),
)


def metric_tables(metrics: Metrics) -> list[Table]:
    """The tables of a report's `metrics` (training.pipeline.evaluate); none for an empty one."""
    if not metrics:
        return []
    test = f"on {metrics['rows']:,} test transactions with {metrics['frauds']:,} frauds"
    tables = [
        Table(
            f"Ranking, {test}",
            ("", *(figure.label for figure in RANKING)),
            [
                (Cell(name), *(figure.cell(metrics, path) for figure in RANKING))
                for name, path in score_names(metrics).items()
            ],
        ),
        differences_table(metrics),
        Table(
            f"Alerts, {test}",
            ("", *(figure.label for figure in ALERTS)),
            [
                (Cell(name), *(figure.cell(metrics, (key,)) for figure in ALERTS))
                for name, key in DECISIONS.items()
            ],
        ),
    ]
    return [table for table in tables if table.rows]


def score_names(metrics: Metrics) -> dict[str, tuple[str, ...]]:
    """The scores that a report has, by their names for people, and where they are in it."""
    champion = at_path(metrics, ("champion", "version"))
    named = {
        f"{name} v{champion}" if name == "Champion" and champion else name: path
        for name, path in SCORES.items()
    }
    return {name: path for name, path in named.items() if at_path(metrics, path) is not None}


def figures_table(metrics: Metrics) -> Table:
    """What the whole decision is worth: a figure a row, with its interval and what it is."""
    rows = [(figure, figure.cell(metrics)) for figure in WHOLE]
    return Table(
        "Figures of the whole decision",
        ("", "value", "95 % interval", ""),
        [
            (
                Cell(figure.label[:1].upper() + figure.label[1:]),
                Cell(cell.value),
                Cell(cell.interval),
                Cell(figure.hint),
            )
            for figure, cell in rows
            if cell.value != NOTHING
        ],
    )


def differences_table(metrics: Metrics) -> Table:
    """How much better the whole decision ranks than each baseline."""
    rows = []
    for name, path in score_names(metrics).items():
        differences = at_path(metrics, ("differences", path[-1])) if path else None
        if differences:
            cells = (_difference(differences.get(figure.path[0]), figure) for figure in RANKING)
            rows.append((Cell(name), *cells))
    return Table(
        "How much better the whole decision ranks",
        ("", *(figure.label for figure in RANKING)),
        rows,
    )


def slice_table(title: str, name: str, slices: list[Metrics]) -> Table:
    """The metrics of weeks or of transaction types, a row each."""
    return Table(
        title,
        (name, *(figure.label for figure in SLICE)),
        [(Cell(each[name]), *(figure.cell(each) for figure in SLICE)) for each in slices],
    )


def text_table(table: Table) -> str:
    """The table for a terminal, columns aligned, without the intervals and without the remarks,
    which are columns that have no header."""
    told = [at for at, name in enumerate(table.header) if name or at == 0]
    cells = [table.header, *([cell.value for cell in row] for row in table.rows)]
    lines = [[line[at] for at in told] for line in cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(told))]
    text = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, *text])


def _difference(difference: Metrics | None, figure: Figure) -> Cell:
    if difference is None or difference["difference"] is None:
        return Cell(NOTHING)

    def signed(value: float) -> str:
        return f"{100 * value:+.1f}{SPACE}pts" if figure.show is percent else f"{value:+.3f}"

    return Cell(signed(difference["difference"]), interval_text(difference["interval"], signed))
