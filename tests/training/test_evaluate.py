"""Metrics, their intervals and the curves, against plain implementations and worked examples."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from training.pipeline import evaluate as evaluation
from training.pipeline.evaluate import ChampionFacts, Scores, curves, evaluate, rank
from training.pipeline.evaluate.bootstrap import Estimates, Side
from training.pipeline.evaluate.metrics import REPLICATES
from training.pipeline.evaluate.ranking import Ranking
from training.pipeline.evaluate.wallets import DAY_US, DailyWallets, WalletDays
from training.pipeline.spec import Costs
from training.pipeline.table import Text

START_US = 1_767_571_200_000_000  # Monday 2026-01-05T00:00:00Z
THRESHOLDS = {"review": 0.3, "block": 0.5}
SEEDS = range(6)
PARTS = {1: "train", 2: "validation", 3: "test"}


def make_part(rows: int = 3_000, seed: int = 0, *, wallets: int = 150, decimals: int = 2) -> Any:
    """Frauds in episodes: whole wallets are compromised for a while. Rounded scores tie."""
    rng = np.random.default_rng(seed)
    source = rng.integers(0, wallets, rows) * 7 + 3  # codes with gaps
    created_at = np.sort(rng.integers(0, 20 * 86_400, rows)) * 1_000_000 + START_US
    bad = rng.random(wallets * 7 + 3) < 0.1
    labels = bad[source] & (rng.random(rows) < 0.3)
    supervised = np.clip(rng.beta(1, 20, rows) + labels * rng.random(rows) * 0.8, 0, 1)
    supervised = supervised.round(decimals)
    blocked = rng.random(rows) < 0.004
    risk = np.where(blocked, 1.0, (0.9 * supervised).round(decimals))
    return evaluation.TestPart(
        labels=labels,
        amount=rng.lognormal(3, 1, rows).round(2),
        source=source,
        destination=rng.integers(0, rows, rows),
        created_at=created_at,
        transaction_type=Text(rng.integers(-1, 2, rows).astype(np.int32), ("A", "B", "unused")),
        scores=Scores(
            supervised=supervised,
            unsupervised=rng.random(rows).round(decimals),
            rule_score=np.where(rng.random(rows) < 0.05, 0.3, 0.0),
            rule_blocked=blocked,
            risk=risk,
        ),
    )


def small_part(**columns: Any) -> Any:
    """A part of a few rows; what is not given is harmless."""
    rows = len(columns["labels"])
    zeros = np.zeros(rows)
    risk = np.array(columns.get("risk", zeros), float)
    return evaluation.TestPart(
        labels=np.array(columns["labels"], bool),
        amount=np.array(columns.get("amount", [10.0] * rows), float),
        source=np.array(columns.get("source", range(rows)), np.int64),
        destination=np.array(columns.get("destination", range(rows)), np.int64),
        created_at=np.array(columns.get("created_at", [START_US] * rows), np.int64),
        transaction_type=Text(np.zeros(rows, np.int32), ("A",)),
        scores=Scores(
            zeros, zeros, zeros, np.array(columns.get("rule_blocked", zeros), bool), risk
        ),
    )


def everyone(part: Any) -> np.ndarray:
    return np.unique(part.source, return_inverse=True)[1]


@pytest.fixture(scope="module")
def part() -> Any:
    return make_part()


@pytest.fixture(scope="module")
def metrics(part) -> dict[str, Any]:
    return evaluate(
        part,
        THRESHOLDS,
        baselines={"logistic": part.scores.unsupervised, "champion": part.scores.risk},
        costs=None,
        seed=1,
        champion=ChampionFacts("1.0.0", None, None),
    )


@pytest.fixture(scope="module")
def long_part() -> Any:
    return make_part(20_000, wallets=800, decimals=6)


@pytest.fixture(scope="module")
def drawn(long_part) -> dict[str, Any]:
    baselines = {"logistic": long_part.scores.unsupervised}
    return curves(long_part, THRESHOLDS, baselines=baselines, seed=0)


class TestRanking:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_it_agrees_with_scikit_learn_under_any_weights(self, seed):
        part = make_part(seed=seed)
        wallets = everyone(part)
        weights = np.random.default_rng(seed).poisson(1, wallets.max() + 1).astype(np.uint8)
        ranking = Ranking(part.scores.risk, part.labels, wallets)
        for draw in (np.ones_like(weights), weights):
            found = dict(zip(Ranking.FIGURES, ranking.figures(draw), strict=True))
            of_row, risk = draw[wallets], part.scores.risk
            assert found["pr_auc"] == pytest.approx(
                average_precision_score(part.labels, risk, sample_weight=of_row)
            )
            assert found["roc_auc"] == pytest.approx(
                roc_auc_score(part.labels, risk, sample_weight=of_row)
            )
            best = max(
                f1_score(part.labels, risk >= each, sample_weight=of_row)
                for each in np.unique(risk)
            )
            assert found["f1"] == pytest.approx(best)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_recall_at_a_share_is_that_of_the_rows_copied_out(self, seed):
        part = make_part(seed=seed)
        wallets = everyone(part)
        weights = np.random.default_rng(seed).poisson(1, wallets.max() + 1).astype(np.uint8)
        copies = np.repeat(np.arange(len(wallets)), weights[wallets])
        found = dict(
            zip(
                Ranking.FIGURES,
                Ranking(part.scores.risk, part.labels, wallets).figures(weights),
                strict=True,
            )
        )
        for name, share in (
            ("recall_at_0_1_percent", 0.001),
            ("recall_at_0_5_percent", 0.005),
            ("recall_at_1_percent", 0.01),
        ):
            table = pd.DataFrame(
                {"risk": part.scores.risk[copies], "label": part.labels[copies]}
            ).sort_values("risk", ascending=False)
            # In proportion within ties: every row of a group counts as the group's mean.
            table["expected"] = table.groupby("risk")["label"].transform("mean")
            top = table.head(max(1, round(share * len(table))))
            assert found[name] == pytest.approx(top["expected"].sum() / table["label"].sum())

    def test_a_perfect_a_constant_and_a_reversed_score(self):
        labels = np.array([True] * 10 + [False] * 990)
        assert rank(labels.astype(float), labels) == {
            "pr_auc": 1.0,
            "roc_auc": 1.0,
            "f1": 1.0,
            "recall_at_0_1_percent": 0.1,
            "recall_at_0_5_percent": 0.5,
            "recall_at_1_percent": 1.0,
        }
        constant = rank(np.full(1000, 0.4), labels)
        assert constant["pr_auc"] == pytest.approx(0.01)
        assert constant["roc_auc"] == pytest.approx(0.5)
        assert constant["recall_at_1_percent"] == pytest.approx(0.01)
        assert rank(1.0 - labels, labels)["roc_auc"] == 0.0


def handbook_card_precision(part: Any, scores: np.ndarray, top: int) -> float:
    """The Fraud Detection Handbook's definition, in pandas, detected cards removed."""
    table = pd.DataFrame(
        {
            "score": scores,
            "fraud": part.labels,
            "card": part.source,
            "day": part.created_at // DAY_US,
        }
    )
    known: set[int] = set()
    daily = []
    for _, day in table.groupby("day"):
        cards = day[~day["card"].isin(known)].groupby("card").max()
        looked_at = cards.sort_values("score", ascending=False).head(top)
        found = looked_at[looked_at["fraud"]].index
        daily.append(len(found) / top)
        known |= set(found)
    return float(np.mean(daily))


class TestDailyWallets:
    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("wallets", [150, 2_500])
    def test_it_is_the_handbooks_when_no_scores_tie(self, seed, wallets):
        part = make_part(40_000, seed, wallets=wallets, decimals=15)
        daily = WalletDays(part.labels, everyone(part), part.created_at)
        found = DailyWallets(part.scores.supervised, daily).precision(
            np.ones(everyone(part).max() + 1, np.uint8)
        )
        expected = handbook_card_precision(part, part.scores.supervised, 100)
        assert found == pytest.approx(expected)
        assert found > 0

    @pytest.mark.parametrize("seed", SEEDS)
    def test_weights_are_copies_of_wallets(self, seed):
        part = make_part(20_000, seed, wallets=900, decimals=15)
        wallets = everyone(part)
        weights = np.random.default_rng(seed).poisson(1, wallets.max() + 1).astype(np.uint8)
        days = WalletDays(part.labels, wallets, part.created_at)
        found = DailyWallets(part.scores.supervised, days).precision(weights)

        rows = np.repeat(np.arange(len(wallets)), weights[wallets])
        copy = np.concatenate([np.arange(weights[wallet]) for wallet in wallets])
        cards = wallets[rows] * 10 + copy
        _, cards = np.unique(cards, return_inverse=True)
        days = WalletDays(part.labels[rows], cards, part.created_at[rows])
        copied = DailyWallets(part.scores.supervised[rows], days)
        expected = copied.precision(np.ones(cards.max() + 1, np.uint8))
        # A copied wallet is found as a whole; its copies may straddle the hundredth place.
        assert found == pytest.approx(expected, abs=0.003)

    def test_a_found_wallet_is_left_out_afterwards_and_ties_count_in_proportion(self):
        labels = [True, False, True] + [True] * 50 + [False] * 150
        source = [0, 1, 0, *range(10, 210)]
        time = [START_US, START_US, START_US + DAY_US] + [START_US + 2 * DAY_US] * 200
        part = small_part(labels=labels, source=source, created_at=time)
        wallets = everyone(part)
        days = WalletDays(part.labels, wallets, part.created_at)
        score = np.array([0.9, 0.8, 0.9] + [0.4] * 200)
        daily = DailyWallets(score, days).precision(np.ones(wallets.max() + 1, np.uint8))
        # Day 1 finds one, day 2 nothing is left of it, day 3 half of its 50.
        assert daily == pytest.approx((1 + 0 + 25) / 100 / 3)
        assert days.compromised_a_day == pytest.approx(52 / 3)


class TestEvaluate:
    def test_alerts_are_counted_as_one_would_by_hand(self, part, metrics):
        risk, labels, scored = part.scores.risk, part.labels, ~part.scores.rule_blocked
        masks = {
            "block": risk >= 0.5,
            "review": risk >= 0.3,
            "rules": ~scored,
            "model_block": (risk >= 0.5) & scored,
            "model_review": (risk >= 0.3) & scored,
        }
        for name, mask in masks.items():
            found = metrics[name]
            assert found["alerts"] == mask.sum() > 0
            assert found["true_positives"] == (mask & labels).sum()
            assert found["false_positives"] == (mask & ~labels).sum()
            assert found["false_negatives"] == (~mask & labels).sum()
            assert found["precision"] == pytest.approx(labels[mask].mean())
            assert found["recall"] == pytest.approx((mask & labels).sum() / labels.sum())
            assert found["f1"] == pytest.approx(f1_score(labels, mask))
            stopped, lost = part.amount[mask & labels].sum(), part.amount[labels].sum()
            assert found["value_recall"] == pytest.approx(stopped / lost)

    def test_the_brier_score_is_of_the_rows_that_no_rule_blocks(self, part, metrics):
        scored = ~part.scores.rule_blocked
        error = ((part.scores.risk - part.labels) ** 2)[scored].mean()
        rate = part.labels[scored].mean()
        assert metrics["brier"] == pytest.approx(error)
        assert metrics["brier_skill"] == pytest.approx(1 - error / (rate * (1 - rate)))

    def test_every_figure_lies_in_its_interval_and_counts_have_none(self, metrics):
        def check(figures, intervals):
            for name, limits in intervals.items():
                if isinstance(limits, dict):
                    check(figures[name], limits)
                else:
                    assert limits[0] <= figures[name] <= limits[1], name
                    checked.append(name)

        checked: list[str] = []
        check(metrics, metrics["intervals"])
        assert len(checked) > 60
        assert "alerts" not in checked
        width = metrics["intervals"]["pr_auc"][1] - metrics["intervals"]["pr_auc"][0]
        assert 0.01 < width < 0.5

    def test_a_baseline_beside_itself_differs_by_nothing(self, metrics):
        nothing = {"difference": 0.0, "interval": [0.0, 0.0]}
        assert set(metrics["differences"]) == {"rules", "logistic", "champion"}
        for difference in metrics["differences"]["champion"].values():
            assert difference == nothing
        better = metrics["differences"]["logistic"]["pr_auc"]
        assert better["interval"][0] > 0.1
        assert better["difference"] == pytest.approx(
            metrics["pr_auc"] - metrics["baselines"]["logistic"]["pr_auc"]
        )

    def test_the_same_seed_gives_the_same_intervals(self, part, metrics):
        again = evaluate(
            part,
            THRESHOLDS,
            baselines={"logistic": part.scores.unsupervised, "champion": part.scores.risk},
            costs=None,
            seed=1,
        )
        assert again["intervals"] == metrics["intervals"]
        assert again["champion"] is None
        assert metrics["champion"] == {
            "version": "1.0.0",
            "fitted_until": None,
            "same_dataset": None,
            "same_scores": True,
        }

    def test_another_risk_of_one_row_is_not_the_same_scores(self, part):
        risk = part.scores.risk.copy()
        risk[7] += 1e-4
        other = evaluate(
            part,
            THRESHOLDS,
            baselines={"champion": risk},
            costs=None,
            seed=1,
            champion=ChampionFacts("1.0.0", None, None),
        )
        assert other["champion"]["same_scores"] is False

    def test_the_saving_of_a_worked_example(self):
        part = small_part(
            labels=[True, True, True, False, False, False, False, False, False, False],
            amount=[100, 50, 20, 30, 30, 30, 30, 30, 30, 30],
            risk=[0.9, 0.4, 0.1, 0.8, 0.35, 0.3, 0.0, 0.0, 0.0, 0.0],
        )
        costs = Costs(review=2.0, block_legitimate=7.0)
        metrics = evaluate(part, THRESHOLDS, baselines={}, costs=costs, seed=0)
        # 150 is stopped; three reviews and one wrong block are paid: 150 - 6 - 7 for ten.
        assert metrics["saving_per_1000"] == pytest.approx(13_700)
        assert metrics["approve_all_cost_per_1000"] == pytest.approx(17_000)
        assert metrics["costs"] == {"review": 2.0, "block_legitimate": 7.0}
        refund = evaluate(
            part._replace(amount=np.array([-100, 50, 20, *[30] * 7])),
            THRESHOLDS,
            baselines={},
            costs=costs,
            seed=0,
        )
        # A fraud of -100 costs nothing; 50 is stopped.
        assert refund["saving_per_1000"] == pytest.approx(3_700)
        assert refund["approve_all_cost_per_1000"] == pytest.approx(7_000)
        assert refund["review"]["value_recall"] == pytest.approx(50 / 70)
        free = evaluate(part, THRESHOLDS, baselines={}, costs=None, seed=0)
        assert free["saving_per_1000"] == pytest.approx(15_000)
        assert free["costs"] is None

    @pytest.mark.parametrize("side", ["source", "destination"])
    def test_frauds_in_episodes_widen_the_intervals(self, side):
        rng = np.random.default_rng(3)
        score = rng.random(40)
        labels = np.tile(np.arange(40) % 4 == 0, 25)
        risk = np.tile(score, 25)
        alone = small_part(labels=labels, risk=risk)
        episodes = small_part(labels=labels, risk=risk, **{side: np.tile(np.arange(40), 25)})
        widths = [
            np.ptp(evaluate(part, THRESHOLDS, baselines={}, costs=None, seed=0)["intervals"]["f1"])
            for part in (alone, episodes)
        ]
        assert widths[1] > 3 * widths[0]


def test_what_a_champion_had_seen_is_in_its_bundle():
    parts = {name: {"last_at": f"2026-0{month}-01T00:00:00Z"} for month, name in PARTS.items()}
    training = {"data": {"fingerprint": "abc", "parts": parts}}
    assert ChampionFacts.of("1.0.0", training, "abc") == ("1.0.0", "2026-02-01T00:00:00Z", True)
    assert ChampionFacts.of("1.0.0", training, "def").same_dataset is False
    assert ChampionFacts.of("1.0.0", {}, "abc") == ("1.0.0", None, None)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        caught = rng.random(120) < 0.7

        def figures(weights, caught=caught):
            return {"recall": float(weights @ caught / weights.sum())}

        estimates = Estimates([Side(120, figures)], replicates=200, seed=seed)
        low, high = estimates.intervals()["recall"]
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 198


@pytest.mark.parametrize("side", ["source", "destination"])
def test_equal_scores_are_seldom_told_apart(side, monkeypatch):
    """Twenty wallets have all frauds, and each of two scores notices every second of them."""
    monkeypatch.setattr("training.pipeline.evaluate.metrics.REPLICATES", REPLICATES // 4)
    apart = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = np.arange(3_000) % 15 == 0
        wallets = np.where(labels, rng.permutation(3_000) % 20, np.arange(3_000) + 20)
        ours, theirs = (
            rng.normal(size=3_000) + 5 * (labels & (rng.random(3_020) < 0.5)[wallets])
            for _ in range(2)
        )
        part = small_part(labels=labels, risk=sigmoid(ours), **{side: wallets})
        baselines = {"champion": sigmoid(theirs)}
        found = evaluate(part, THRESHOLDS, baselines=baselines, costs=None, seed=0)
        low, high = found["differences"]["champion"]["pr_auc"]["interval"]
        apart += not low <= 0 <= high
    assert apart <= 4


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def test_what_most_replicates_can_not_give_has_no_interval():
    estimates = Estimates(
        [Side(3, lambda weights: {"rate": float("nan") if weights[0] else 1.0, "always": 2.0})],
        replicates=50,
        seed=0,
    )
    assert estimates.values() == {"rate": None, "always": 2.0}
    assert estimates.intervals() == {"rate": None, "always": [2.0, 2.0]}


def test_an_interval_spans_what_both_sides_say():
    def of_half(weights):
        return {"recall": float(weights[:50].sum() / max(weights.sum(), 1)), "alone": 1.0}

    (low, high), _ = Estimates([Side(100, of_half)], replicates=99, seed=0).intervals().values()
    assert 0.1 < low < high < 0.9
    for other in (0.1, 0.5, 0.9):
        sides = [Side(100, of_half), Side(1, lambda _, other=other: {"recall": other})]
        found = Estimates(sides, replicates=99, seed=0).intervals()
        assert found == {"recall": [min(low, other), max(high, other)], "alone": [1.0, 1.0]}


class TestCurves:
    def test_they_are_thinned_and_complete(self, drawn):
        assert set(drawn["scores"]) == {"risk", "supervised", "unsupervised", "rules", "logistic"}
        risk = drawn["scores"]["risk"]
        assert 100 < len(risk["recall"]) <= 200
        assert risk["recall"][-1] == 1.0
        assert np.all(np.diff(risk["recall"]) > 0)
        assert np.all(np.diff(risk["threshold"]) < 0)
        assert np.all(np.diff(drawn["cost"]["threshold"]) > 0)

    def test_a_week_is_from_monday_to_sunday(self, long_part, drawn):
        part, weeks = long_part, drawn["weeks"]
        assert [week["week"] for week in weeks] == ["2026-01-05", "2026-01-12", "2026-01-19"]
        assert sum(week["rows"] for week in weeks) == len(part.labels)
        second = (part.created_at >= START_US + 7 * DAY_US) & (
            part.created_at < START_US + 14 * DAY_US
        )
        assert weeks[1]["rows"] == second.sum()
        risk, labels = part.scores.risk[second], part.labels[second]
        assert weeks[1]["pr_auc"] == pytest.approx(average_precision_score(labels, risk))
        assert weeks[1]["review"]["recall"] == pytest.approx((risk[labels] >= 0.3).mean())
        low, high = weeks[1]["intervals"]["review"]["recall"]
        assert low < weeks[1]["review"]["recall"] < high

    def test_a_missed_refund_costs_nothing(self):
        part = small_part(labels=[True, True, False], amount=[-50, 20, 9], risk=[0.2, 0.2, 0.9])
        missed = curves(part, THRESHOLDS, baselines={}, seed=0)["cost"]["missed_per_1000"]
        assert (missed[0], missed[-1]) == (0.0, pytest.approx(20_000 / 3))

    def test_types_are_the_known_ones_most_frequent_first(self, long_part, drawn):
        assert [each["type"] for each in drawn["types"]] in (["A", "B"], ["B", "A"])
        assert drawn["types"][0]["rows"] >= drawn["types"][1]["rows"]
        known = (long_part.transaction_type.codes >= 0).sum()
        assert sum(each["rows"] for each in drawn["types"]) == known

    def test_a_week_without_a_fraud_has_rows_and_no_recall(self):
        labels = [True, False, False, False]
        time = [START_US, START_US, START_US + 7 * DAY_US, START_US + 7 * DAY_US]
        part = small_part(labels=labels, created_at=time, risk=[0.9, 0.1, 0.6, 0.2])
        week = curves(part, THRESHOLDS, baselines={}, seed=0)["weeks"][1]
        assert (week["rows"], week["frauds"]) == (2, 0)
        assert week["pr_auc"] is week["review"]["recall"] is week["intervals"]["pr_auc"] is None
        assert week["review"]["precision"] == 0.0

    def test_rows_that_a_rule_blocks_say_nothing_of_calibration(self):
        part = small_part(
            labels=[True, False, False, True],
            risk=[0.25, 0.25, 0.004, 1.0],
            rule_blocked=[False, False, False, True],
        )
        found = curves(part, THRESHOLDS, baselines={}, seed=0)["reliability"]
        assert [(each["from"], each["rows"], each["fraud_rate"]) for each in found] == [
            (0, 1, 0.0),
            (0.2, 2, 0.5),
        ]
        assert found[1]["mean_risk"] == 0.25
