"""Every number that the page draws, computed again from `predictions.parquet` and nothing else.

The computations share no code with the pipeline: pandas and scikit-learn, row by row where that is
possible.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from deployments.gates import Verdict, gate

COLUMNS = {
    "risk": "risk_score",
    "supervised": "supervised_score",
    "unsupervised": "unsupervised_score",
    "logistic": "logistic_score",
    "champion": "champion_score",
}
CLOSE = {"abs": 1e-6}


@pytest.fixture(scope="module")
def report(trained) -> dict[str, Any]:
    return trained.report


@pytest.fixture(scope="module")
def table(trained) -> pd.DataFrame:
    return trained.predictions


@pytest.fixture(scope="module")
def drawn(report) -> dict[str, Any]:
    return report["curves"]


def score(table: pd.DataFrame, name: str) -> pd.Series:
    if name == "rules":
        return table["rule_score"].mask(table["rule_blocked"], 1.0)
    return table[COLUMNS[name]]


def test_the_predictions_are_the_test_part(report, table):
    part = report["data"]["parts"]["test"]
    assert len(table) == part["rows"] == report["metrics"]["rows"]
    assert table["label"].sum() == part["frauds"] == report["metrics"]["frauds"]
    assert table["created_at"].is_monotonic_increasing
    assert table["transaction_id"].is_unique
    for limit, row in (("test_from", 0), ("test_until", -1)):
        moment = pd.Timestamp(report["metrics"][limit])
        assert moment == table["created_at"].iloc[row]
    assert (table["risk_score"][table["rule_blocked"]] == 1).all()


@pytest.mark.parametrize("name", [*COLUMNS, "rules"])
def test_precision_recall_and_roc(table, drawn, report, name):
    curve, values, labels = drawn["scores"][name], score(table, name), table["label"]
    assert 1 <= len(curve["threshold"]) <= 200
    for threshold, recall, precision, rate in zip(
        curve["threshold"],
        curve["recall"],
        curve["precision"],
        curve["false_positive_rate"],
        strict=True,
    ):
        alerted = values >= threshold
        assert recall == pytest.approx(alerted[labels].mean(), **CLOSE)
        assert precision == pytest.approx(labels[alerted].mean(), **CLOSE)
        assert rate == pytest.approx(alerted[~labels].mean(), **CLOSE)
    # No point lies off the full curves, and thinning keeps their ends.
    _, full_recall, _ = precision_recall_curve(labels, values)
    full_rate, full_hits, _ = roc_curve(labels, values, drop_intermediate=False)
    assert np.isin(np.round(curve["recall"], 6), np.round(full_recall, 6)).all()
    assert np.isin(np.round(curve["false_positive_rate"], 6), np.round(full_rate, 6)).all()
    assert curve["recall"][-1] == 1.0
    metrics = report["metrics"]
    ranking = {"risk": metrics, **metrics, **metrics["baselines"]}[name]
    assert ranking["pr_auc"] == pytest.approx(average_precision_score(labels, values))
    assert ranking["roc_auc"] == pytest.approx(roc_auc_score(labels, values))
    assert full_hits[-1] == 1.0


@pytest.mark.parametrize("name", ["risk", "supervised", "unsupervised"])
def test_distributions(table, drawn, name):
    histogram = drawn["histograms"][name]
    values = score(table, name)
    edges = np.arange(51) / 50
    assert histogram["edges"] == pytest.approx(edges)
    for kind, rows in (("fraud", table["label"]), ("legitimate", ~table["label"])):
        for at, count in enumerate(histogram[kind]):
            last = at == 49
            inside = (values >= edges[at]) & ((values <= 1) if last else (values < edges[at + 1]))
            assert count == (inside & rows).sum(), (kind, at)


def test_reliability(table, drawn, report):
    scored = table[~table["rule_blocked"]]
    edges = [0, 0.01, 0.02, 0.05, *np.arange(1, 11) / 10]
    bins = pd.cut(scored["risk_score"], edges, right=False)
    # A risk of exactly 1 belongs to the last bin.
    bins = bins.fillna(bins.cat.categories[-1])
    groups = scored.groupby(bins, observed=True)
    expected = groups.agg(
        rows=("label", "size"), risk=("risk_score", "mean"), rate=("label", "mean")
    )
    assert len(drawn["reliability"]) == len(expected)
    for found, (interval, row) in zip(drawn["reliability"], expected.iterrows(), strict=True):
        assert (found["from"], found["to"]) == (interval.left, interval.right)
        assert found["rows"] == row["rows"]
        assert found["mean_risk"] == pytest.approx(row["risk"], **CLOSE)
        assert found["fraud_rate"] == pytest.approx(row["rate"], **CLOSE)
        low, high = found["interval"]
        assert low - 1e-9 <= found["fraud_rate"] <= high + 1e-9
    metrics = report["metrics"]
    brier = brier_score_loss(scored["label"], scored["risk_score"])
    assert metrics["brier"] == pytest.approx(brier)
    rate = scored["label"].mean()
    assert metrics["brier_skill"] == pytest.approx(1 - brier / (rate - rate**2))


def test_cost_against_the_threshold(table, drawn, report):
    cost, rows = drawn["cost"], len(table)
    assert 100 < len(cost["threshold"]) <= 201
    for threshold, missed, alerts, false_alerts in zip(*cost.values(), strict=True):
        below = table[table["risk_score"] < threshold]
        above = table[table["risk_score"] >= threshold]
        assert missed == pytest.approx(1000 * below["amount"][below["label"]].sum() / rows, **CLOSE)
        assert alerts == pytest.approx(1000 * len(above) / rows, **CLOSE)
        assert false_alerts == pytest.approx(1000 * (~above["label"]).sum() / rows, **CLOSE)
    block, review = report["thresholds"]["block"], report["thresholds"]["review"]
    decided = np.select(
        [table["risk_score"] >= block, table["risk_score"] >= review],
        ["BLOCK", "REVIEW"],
        "APPROVE",
    )
    costs = {
        ("APPROVE", True): table["amount"],
        ("REVIEW", True): 1.0,
        ("REVIEW", False): 1.0,
        ("BLOCK", False): 20.0,
    }
    total = sum(
        (price * ((decided == decision) & (table["label"] == label))).sum()
        for (decision, label), price in costs.items()
    )
    approving = table["amount"][table["label"]].sum()
    saving = report["metrics"]["saving_per_1000"]
    assert saving == pytest.approx(1000 * (approving - total) / rows, rel=1e-9)
    assert report["metrics"]["costs"] == {"review": 1.0, "block_legitimate": 20.0}


def check_slice(found: dict[str, Any], rows: pd.DataFrame, thresholds: dict[str, float]) -> None:
    labels, risk = rows["label"], rows["risk_score"]
    assert (found["rows"], found["frauds"]) == (len(rows), labels.sum())
    if labels.any():
        assert found["pr_auc"] == pytest.approx(average_precision_score(labels, risk))
        assert found["roc_auc"] == pytest.approx(roc_auc_score(labels, risk))
    for name in ("review", "block"):
        alerted = risk >= thresholds[name]
        assert found[name]["alert_rate"] == pytest.approx(alerted.mean())
        assert found[name]["precision"] == pytest.approx(
            labels[alerted].mean() if any(alerted) else 0
        )
        if labels.any():
            assert found[name]["recall"] == pytest.approx(alerted[labels].mean())
            stopped = rows["amount"][alerted & labels].sum() / rows["amount"][labels].sum()
            assert found[name]["value_recall"] == pytest.approx(stopped)


def test_weeks(table, drawn, report):
    days = table["created_at"].dt.tz_convert("UTC")
    monday = (days - pd.to_timedelta(days.dt.day_of_week, unit="D")).dt.strftime("%Y-%m-%d")
    weeks = dict(iter(table.groupby(monday)))
    assert [week["week"] for week in drawn["weeks"]] == sorted(weeks)
    for found in drawn["weeks"]:
        check_slice(found, weeks[found["week"]], report["thresholds"])


def test_types(table, drawn, report):
    types = dict(iter(table.groupby("transaction_type")))
    assert {found["type"] for found in drawn["types"]} == set(types)
    for found in drawn["types"]:
        check_slice(found, types[found["type"]], report["thresholds"])


def copied_out(table, rows_of, thresholds, rng) -> dict[str, list[float]]:
    """Figures of 300 draws of as many wallets as there are; `rows_of` each are the rows."""
    labels = table["label"].to_numpy()
    columns = {name: score(table, name).to_numpy() for name in ("risk", "champion")}
    found: dict[str, list[float]] = {"pr_auc": [], "recall": [], "precision": [], "champion": []}
    for _ in range(300):
        rows = np.concatenate([rows_of[at] for at in rng.integers(0, len(rows_of), len(rows_of))])
        risk, drawn_labels = columns["risk"][rows], labels[rows]
        alerted = risk >= thresholds["review"]
        ours = average_precision_score(drawn_labels, risk)
        theirs = average_precision_score(drawn_labels, columns["champion"][rows])
        found["pr_auc"].append(ours)
        found["recall"].append(alerted[drawn_labels].mean())
        found["precision"].append(drawn_labels[alerted].mean())
        found["champion"].append(ours - theirs)
    return found


def test_intervals_are_those_of_another_bootstrap_of_wallets(table, report):
    """Wallets copied out as the textbook has it: drawn with replacement, 300 times a side."""
    rng = np.random.default_rng(8)
    sides = [
        copied_out(table, list(table.groupby(side).indices.values()), report["thresholds"], rng)
        for side in ("source_wallet_id", "destination_wallet_id")
    ]
    labels = table["label"].to_numpy()
    columns = {name: score(table, name).to_numpy() for name in ("risk", "champion")}
    metrics = report["metrics"]
    given = {
        "pr_auc": metrics["intervals"]["pr_auc"],
        "recall": metrics["intervals"]["review"]["recall"],
        "precision": metrics["intervals"]["review"]["precision"],
        "champion": metrics["differences"]["champion"]["pr_auc"]["interval"],
    }
    for name, limits in given.items():
        ends = np.array([np.quantile(found[name], [0.025, 0.975]) for found in sides])
        expected = np.array([ends[:, 0].min(), ends[:, 1].max()])
        width = np.ptp(expected)
        assert width > 0
        assert limits == pytest.approx(expected, abs=0.35 * width), name
    difference = average_precision_score(labels, columns["risk"]) - average_precision_score(
        labels, columns["champion"]
    )
    assert metrics["differences"]["champion"]["pr_auc"]["difference"] == pytest.approx(difference)


def test_the_champion_is_named_with_what_it_had_seen(report):
    facts = report["metrics"]["champion"]
    assert facts["version"] == "1.0.0"
    assert facts["same_dataset"] is True
    gap = pd.Timestamp(report["metrics"]["test_from"]) - pd.Timestamp(facts["fitted_until"])
    assert gap > timedelta(days=6)


@dataclass
class Version:
    version: str
    metrics: dict[str, Any]
    deployable: bool = True
    thresholds: dict[str, float] = field(default_factory=dict)


def test_a_promotion_is_judged_by_it(report, table):
    found = gate(Version("1.1.0", report["metrics"]), Version("1.0.0", {}))
    low, high = report["metrics"]["differences"]["champion"]["pr_auc"]["interval"]
    expected = Verdict.BETTER if low > 0 else Verdict.WORSE if high < 0 else Verdict.TOO_CLOSE
    assert found.verdict is expected
    ours = average_precision_score(table["label"], table["risk_score"])
    theirs = average_precision_score(table["label"], table["champion_score"])
    assert f"is {ours:.3f} and that of v1.0.0 {theirs:.3f}" in found.reason


def test_what_a_report_tells_beside_its_curves(report):
    importances = report["importances"]
    assert importances[0]["drop"] > 0.01
    assert [each["drop"] for each in importances] == sorted(
        (each["drop"] for each in importances), reverse=True
    )
    assert "transaction_type" in {each["name"] for each in importances}
    assert len(report["search"]["trials"]) == 3
    assert set(report["peaks_mb"]) == set(report["timings"])
