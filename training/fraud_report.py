"""The report of a fraud model's run: what its template shows."""

from collections.abc import Mapping
from typing import Any

from training import metrics
from training.metrics import Cell, Table, at_path
from training.report_parts import (
    FIRST_INPUTS,
    Plot,
    Report,
    Tile,
    importance_bars,
    memory_in_words,
    stage_rows,
)
from training.report_traffic import traffic_context

HEADLINE = (
    metrics.AVERAGE_PRECISION,
    metrics.STOPPED,
    metrics.VALUE_STOPPED,
    metrics.REVIEW_PRECISION,
    metrics.ALERT_RATE,
    metrics.CARD_PRECISION,
    metrics.SAVING,
)
PARTS = ("train", "validation", "test")
# The keys of the scores in `curves`, by where the scores are in the metrics.
CURVE_KEYS = {"risk": (), **{path[-1]: path for path in metrics.SCORES.values() if path}}
# The scores whose distribution is drawn.
MODELS = ("risk", "supervised", "unsupervised")

CURVES = (
    Plot(
        "precision-recall",
        "Precision and recall",
        "Each point is a threshold: how many of the alerts are frauds, and how many of the frauds "
        "are found. The grey line is a random ranking.",
    ),
    Plot(
        "roc",
        "ROC",
        "How many frauds are found at the price of how many legitimate transactions.",
    ),
    Plot(
        "distribution",
        "Distribution of the scores",
        "What share of the frauds and of the legitimate transactions has which score. The scale "
        "of the shares is logarithmic.",
    ),
    Plot(
        "reliability",
        "Reliability of the risk",
        "Of the transactions with a risk of about 0.3, three in ten should be frauds: on the grey "
        "line they are. Rows that a rule blocks are left out.",
    ),
    Plot(
        "cost",
        "Cost against the threshold",
        "What fraud, reviews and wrongly blocked payments would cost if everything from one "
        "threshold on was reviewed, or blocked. Enter other costs to see how the curves move.",
    ),
    Plot(
        "weeks",
        "Recall by week",
        "Whether the version holds up while the weeks go by after its training.",
    ),
)
LEARNING = Plot(
    "learning",
    "Learning curve",
    "Average precision on the validation part after each tree. The best one is the last kept.",
)


def fraud_context(report: Report) -> dict[str, Any]:
    """What `training/fraud_report.html` shows of a report that has metrics."""
    found = report["metrics"]
    drawn = "histograms" in report.get("curves", {})
    importances = importance_bars(report.get("importances", []))
    return {
        "sentences": _sentences(found),
        "warning": report.get("champion_error"),
        "tiles": _tiles(found),
        "plots": _plots(report) if drawn else [],
        "scores": [(key, name) for key, name in _names(found).items() if key in MODELS],
        "costs": found.get("costs") or {"review": 0, "block_legitimate": 0},
        "costs_given": bool(found.get("costs")),
        "figures": metrics.figures_table(found),
        "tables": metrics.metric_tables(found),
        "slices": _slices(report["curves"]) if drawn else [],
        "importances": importances[:FIRST_INPUTS],
        "more_importances": importances[FIRST_INPUTS:],
        "search": _search_table(report.get("search") or {}),
        "search_cut": _search_cut(report.get("search") or {}),
        "data": _data_table(report),
        "data_facts": _data_facts(report),
        "stages": stage_rows(report),
        **traffic_context(report),
        "embedded": _embedded(report) if drawn else None,
    }


def _sentences(found: metrics.Metrics) -> list[str]:
    """What the report says, in words."""
    told = (_stopped(found), _beside_champion(found), _rules_first(found), _ranges(found))
    return [sentence for sentence in told if sentence]


def _stopped(found: metrics.Metrics) -> str:
    recall, value = metrics.STOPPED.cell(found), metrics.VALUE_STOPPED.cell(found)
    interval = f" ({recall.interval})" if recall.interval else ""
    amounts = f" and {value.value} of their value" if value.value != metrics.NOTHING else ""
    return (
        f"On {found['rows']:,} transactions that it had not seen, {found['frauds']:,} of them "
        f"frauds, this version reviews or blocks {metrics.ALERT_RATE.cell(found).value} and so "
        f"stops {recall.value} of the frauds{interval}{amounts}."
    )


def _beside_champion(found: metrics.Metrics) -> str:
    difference = at_path(found, ("differences", "champion", "pr_auc"))
    if not difference or not difference["interval"]:
        return ""
    low, high = difference["interval"]
    return (
        f"Beside the champion v{found['champion']['version']} on the same transactions its average "
        f"precision is {found['pr_auc']:.3f} and not "
        f"{found['baselines']['champion']['pr_auc']:.3f}: a difference of "
        f"{difference['difference']:+.3f} ({low:+.3f} to {high:+.3f})."
    )


def _rules_first(found: metrics.Metrics) -> str:
    supervised = at_path(found, ("supervised", "pr_auc"))
    if supervised is None or supervised <= found["pr_auc"] or not found["rules"]["alerts"]:
        return ""
    return (
        f"What a rule blocks ranks first, and {metrics.percent(found['rules']['precision'])} of it "
        "is fraud. The supervised model alone has an average precision of "
        f"{supervised:.3f}."
    )


def _ranges(found: metrics.Metrics) -> str:
    if "intervals" not in found:
        return ""
    bootstrap = found["bootstrap"]
    destinations = (
        f" and of as many of the {bootstrap['destinations']:,} destinations"
        if "destinations" in bootstrap
        else ""
    )
    return (
        f"The ranges hold 95 % of {bootstrap['replicates']} resamples of the "
        f"{bootstrap['wallets']:,} source wallets{destinations}: with other wallets of the same "
        "kind the figures would mostly lie in them."
    )


def _plots(report: Report) -> list[Plot]:
    learnt = len(report.get("learning_curve", [])) > 1
    return [*CURVES, LEARNING] if learnt else [*CURVES]


def _slices(drawn: Mapping[str, Any]) -> list[Table]:
    tables = (
        metrics.slice_table("By week", "week", drawn["weeks"]),
        metrics.slice_table("By transaction type", "type", drawn["types"]),
    )
    return [table for table in tables if table.rows]


def _tiles(found: metrics.Metrics) -> list[Tile]:
    tiles = [Tile(figure, figure.cell(found)) for figure in HEADLINE]
    return [tile for tile in tiles if tile.cell.value != metrics.NOTHING]


def _names(found: metrics.Metrics) -> dict[str, str]:
    """The scores' names for people by their keys in `curves`."""
    by_path = {path: name for name, path in metrics.score_names(found).items()}
    return {key: by_path[path] for key, path in CURVE_KEYS.items() if path in by_path}


def _embedded(report: Report) -> dict[str, Any]:
    """What the scripts of the page draw from."""
    found = report["metrics"]
    return {
        "curves": report["curves"],
        "names": _names(found),
        "thresholds": {name: report["thresholds"][name] for name in ("review", "block")},
        "fraud_rate": found["fraud_rate"],
        "approve_all_cost_per_1000": found["approve_all_cost_per_1000"],
        "learning_curve": report.get("learning_curve", []),
    }


def _data_table(report: Report) -> Table:
    parts = at_path(report, ("data", "parts")) or {}
    return Table(
        "Data",
        ("part", "from", "to", "transactions", "frauds", "fraud rate"),
        [
            (
                Cell(name),
                Cell(_moment(parts[name]["first_at"])),
                Cell(_moment(parts[name]["last_at"])),
                Cell(f"{parts[name]['rows']:,}"),
                Cell(f"{parts[name]['frauds']:,}"),
                Cell(f"{100 * parts[name]['fraud_rate']:.3f}{metrics.SPACE}%"),
            )
            for name in PARTS
            if name in parts
        ],
    )


def _data_facts(report: Report) -> list[tuple[str, str]]:
    data, sampling = report.get("data", {}), report.get("sampling", {})
    thresholds = report.get("thresholds", {})
    policy = report.get("policy", {})
    peak = report.get("peak_memory_mb")
    facts = [
        ("Labels known until", _moment(data["cut_off"]) if "cut_off" in data else ""),
        ("Label delay", data.get("label_delay", "")),
        ("Fitted on", _sampling_text(sampling)),
        ("REVIEW from", f"{thresholds['review']:.4f}" if "review" in thresholds else ""),
        ("BLOCK from", f"{thresholds['block']:.4f}" if "block" in thresholds else ""),
        (
            "Weights",
            ", ".join(f"{name} {value:g}" for name, value in report.get("weights", {}).items()),
        ),
        ("Policy set by", _policy_frauds(policy)),
        ("Risk", _calibration_text(policy)),
        ("Peak memory", "" if peak is None else memory_in_words(peak)),
    ]
    return [(name, value) for name, value in facts if value]


def _policy_frauds(policy: Mapping[str, Any]) -> str:
    if "validation_frauds" not in policy:
        return ""
    return f"{policy['validation_frauds']:,} frauds of validation that no rule blocks"


def _calibration_text(policy: Mapping[str, Any]) -> str:
    if "calibrated" not in policy:
        return ""
    if policy["calibrated"]:
        return "calibrated: the probability of a fraud"
    return "not calibrated: it ranks, and is no probability"


def _sampling_text(sampling: Mapping[str, Any]) -> str:
    if sampling.get("fit_rate", 1) >= 1:
        return ""
    return (
        f"{sampling['fit_rows']:,} transactions: every fraud and "
        f"{metrics.percent(sampling['fit_rate'])} of the legitimate ones, weighted so that the "
        "fraud rate stays"
    )


def _search_table(search: Mapping[str, Any]) -> Table:
    """The configurations that were tried: those that went furthest first, the best of them first.

    What is the same in all of them is left out.
    """
    trials = [trial for trial in search.get("trials", []) if trial["rounds"]]
    trials.sort(key=lambda trial: (-len(trial["rounds"]), -_reached(trial)))
    names = list(dict.fromkeys(name for trial in trials for name in trial["hyperparameters"]))
    differing = [
        name
        for name in names
        if len({str(trial["hyperparameters"].get(name)) for trial in trials}) > 1
    ]
    return Table(
        "Configurations tried",
        ("", *(name.replace("_", " ") for name in differing), "rounds", "average precision"),
        [
            (
                Cell(
                    f"{trial['number']}" + (", kept" if trial["number"] == search["chosen"] else "")
                ),
                *(Cell(_plain(trial["hyperparameters"].get(name))) for name in differing),
                Cell(f"{len(trial['rounds'])}"),
                Cell(metrics.unit(_reached(trial))),
            )
            for trial in trials
        ],
    )


def _search_cut(search: Mapping[str, Any]) -> str:
    """That the budget ended the search; empty when it did not."""
    if search.get("complete", True):
        return ""
    return (
        f"The search was ended by its budget, after {search['seconds'] / 60:.1f} minutes: not all "
        "rounds were done, and another search with the same seed may choose otherwise."
    )


def _reached(trial: Mapping[str, Any]) -> float:
    """Average precision on validation in the trial's last round."""
    return float(trial["rounds"][-1]["average_precision"])


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _moment(text: str) -> str:
    return text.replace("T", " ").removesuffix("Z")
