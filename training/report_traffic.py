"""Of a run on recorded traffic: where its labels come from, and how recorded values compare."""

from collections.abc import Mapping
from typing import Any

from training.metrics import Cell, Table, at_path

LABELS = {
    "labelled_fraud": "labelled as fraud",
    "labelled_legitimate": "labelled as legitimate",
    "taken_as_legitimate": "taken as legitimate: no label, made as far as is known, and old enough",
    "blocked_unlabelled": "blocked and not labelled: not used",
    "not_made": "failed or cancelled and not labelled: not used",
    "too_recent": "too recent to be labelled: not used",
    "history_only": "history of the others only",
    "control_group": "let through as the control group, among those above",
}
CAUSES = {
    "sent": "sent by the caller",
    "before the data": "history before the data set",
    "out of order": "accepted out of order",
    "loaded history": "wallet with loaded history",
    "labels": "label late or changed",
    "outcomes": "outcome later than at once",
    "none": "not explained",
}
Report = Mapping[str, Any]


def traffic_context(report: Report) -> dict[str, Any]:
    """What the report's page shows of recorded traffic; `{}` for other data."""
    counts, recorded = at_path(report, ("data", "labels")), report.get("recorded")
    if not counts or not recorded:
        return {}
    return {
        "labels_taken": _labels(counts),
        "recorded_sentences": _sentences(recorded),
        "disagreements": disagreements(report),
    }


def disagreements(report: Report) -> Table:
    """The features whose recorded values differ from those computed again, most often first."""
    features = at_path(report, ("recorded", "features")) or []
    return Table(
        "Recorded values against computed ones",
        ("feature", "transactions compared", "differ", "largest difference", "why"),
        [
            (
                Cell(each["name"]),
                Cell(f"{each['compared']:,}"),
                Cell(f"{each['differ']:,}"),
                Cell(f"{each['largest']:.6g}"),
                Cell(", ".join(f"{CAUSES[why]} {rows:,}" for why, rows in each["causes"].items())),
            )
            for each in features
            if each["differ"]
        ],
    )


def labels_told(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """How many transactions have which label, or why none."""
    return [(f"{counts[name]:,}", words) for name, words in LABELS.items() if name in counts]


def _labels(counts: Mapping[str, int]) -> Table:
    return Table(
        "Labels of the recorded traffic",
        ("label", "transactions"),
        [(Cell(words), Cell(count)) for count, words in labels_told(counts)],
    )


def _sentences(recorded: Mapping[str, Any]) -> list[str]:
    features = recorded["features"]
    differing = [each for each in features if each["differ"]]
    unexplained = sum(each["causes"].get("none", 0) for each in differing)
    told = [
        f"{recorded['compared_rows']:,} of {recorded['decided_rows']:,} decisions were compared, "
        f"in {len(features)} features: what was recorded then with what the traffic gives now. "
        + (f"Features that differ: {len(differing)}." if differing else "All agree to 0.000001.")
    ]
    if unexplained:
        told.append(f"Differences that nothing known explains: {unexplained:,}.")
    return told + [_version(each) for each in recorded["versions"]]


def _version(found: Mapping[str, Any]) -> str:
    told = f"{found['version']} decided on {found['rows']:,}: "
    if not found["same_definitions"]:
        return told + (
            "nobody can tell whether its features meant what they mean now, so all are computed "
            "again."
        )
    told += f"{found['features_used']} of its features are used as they were recorded"
    if not found["same_label_delay"]:
        return told + (
            "; those made of labels are computed again, because it had another label delay."
        )
    return told + "."
