"""The metrics of a version on its test part, with intervals and beside the baselines."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from training.pipeline.evaluate.bootstrap import LEVEL, Estimates
from training.pipeline.evaluate.decisions import Decisions
from training.pipeline.evaluate.part import Array, Codes, Mask, TestPart
from training.pipeline.evaluate.ranking import Ranking, Weights
from training.pipeline.evaluate.wallets import DailyWallets, WalletDays
from training.pipeline.spec import Costs

REPLICATES = 200
# Of each score.
FIGURES = (*Ranking.FIGURES, DailyWallets.FIGURE)
RULES = "rules"
LOGISTIC = "logistic"
CHAMPION = "champion"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Whole numbers, which have no interval.
COUNTS = ("alerts", "true_positives", "false_positives", "false_negatives")


class ChampionFacts(NamedTuple):
    """Which version served when the run was evaluated, and what it had seen."""

    version: str
    fitted_until: str | None
    """The time of the last row that it was fitted or tuned on, ISO 8601; None when its bundle does
    not say."""

    @classmethod
    def of(cls, version: str, training: Mapping[str, Any]) -> "ChampionFacts":
        """From a bundle's `training` summary."""
        parts = training.get("data", {}).get("parts", {})
        last = [parts[name]["last_at"] for name in ("train", "validation") if name in parts]
        return cls(version, max(last, default=None))


def evaluate(
    part: TestPart,
    thresholds: Mapping[str, float],
    *,
    baselines: Mapping[str, Array],
    costs: Costs | None,
    seed: int,
    champion: ChampionFacts | None = None,
) -> dict[str, Any]:
    """The metrics of the test part.

    Args:
        part: with both classes.
        thresholds: `review` and `block` on the risk.
        baselines: (rows,) scores by name, higher = more like a fraud: `logistic`, and `champion`
            (its risks) when one serves. The rules alone are added.
        costs: that the thresholds were set by, if they were.
        champion: whose risks `baselines` has.

    Returns:
        Top level: the risk's `FIGURES` (see `Ranking` and `DailyWallets`), precision and recall at
        BLOCK, and what `Decisions.figures` gives (`review` includes BLOCK). `supervised`,
        `unsupervised`, and each of `baselines`: the same figures of other scores.
        `differences`: by baseline and figure, how much better the risk is, with its interval.
        `intervals`: `[low, high]` of 95 %, nested like the figures. A figure that is not defined,
        and its interval, is None.
    """
    wallets = wallet_codes(part)
    rankings = {"risk": part.scores.risk} | baseline_scores(part, baselines)
    rankings |= {"supervised": part.scores.supervised, "unsupervised": part.scores.unsupervised}
    days = WalletDays(part.labels, wallets, part.created_at)
    ranked = {
        name: _Ranked(Ranking(scores, part.labels, wallets), DailyWallets(scores, days))
        for name, scores in rankings.items()
    }
    decisions = Decisions(part, thresholds, costs, wallets)
    estimates = Estimates(
        lambda weights: {
            "rankings": {name: each.figures(weights) for name, each in ranked.items()},
            "decisions": decisions.figures(weights),
        },
        wallets=int(wallets.max()) + 1,
        replicates=REPLICATES,
        seed=seed,
    )
    names = ("rules", *baselines)
    found = _arranged(estimates.values(), names)
    return {
        **_with_counts(found),
        "precision": found["block"]["precision"],
        "recall": found["block"]["recall"],
        "rows": len(part.labels),
        "frauds": int(part.labels.sum()),
        "fraud_rate": float(part.labels.mean()),
        "test_from": _moment(part.created_at[0]),
        "test_until": _moment(part.created_at[-1]),
        "compromised_wallets_a_day": days.compromised_a_day,
        "costs": None
        if costs is None
        else {"review": costs.review, "block_legitimate": costs.block_legitimate},
        "champion": None if champion is None else champion._asdict(),
        "differences": {
            name: {
                figure: estimates.difference(
                    ("rankings", "risk", figure), ("rankings", name, figure)
                )
                for figure in FIGURES
            }
            for name in names
        },
        "intervals": _without_counts(_arranged(estimates.intervals(), names)),
        "bootstrap": {
            "replicates": REPLICATES,
            "wallets": int(wallets.max()) + 1,
            "level": LEVEL,
        },
    }


def rank(scores: Array, labels: Mask) -> dict[str, float]:
    """`Ranking.FIGURES` of a score, every row counting once."""
    ranking = Ranking(scores, labels, np.zeros(len(labels), np.int64))
    found = ranking.figures(np.ones(1, np.uint8))
    return dict(zip(Ranking.FIGURES, found.tolist(), strict=True))


def wallet_codes(part: TestPart) -> Codes:
    """(rows,) the source wallets, numbered from 0 on."""
    codes: Codes = np.unique(part.source, return_inverse=True)[1]
    return codes


def baseline_scores(part: TestPart, baselines: Mapping[str, Array]) -> dict[str, Array]:
    """The rules alone, and the given ones."""
    return {RULES: part.scores.rules, **baselines}


class _Ranked(NamedTuple):
    """A score's figures, by row and by day's wallet."""

    by_row: Ranking
    by_day: DailyWallets

    def figures(self, weights: Weights) -> dict[str, float]:
        found = [*self.by_row.figures(weights), self.by_day.precision(weights)]
        return dict(zip(FIGURES, found, strict=True))


def _moment(time_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=int(time_us))).isoformat().replace("+00:00", "Z")


def _arranged(found: dict[str, Any], baselines: tuple[str, ...]) -> dict[str, Any]:
    """Figures or intervals as the report has them."""
    rankings = found["rankings"]
    return {
        **rankings["risk"],
        **found["decisions"],
        "supervised": rankings["supervised"],
        "unsupervised": rankings["unsupervised"],
        "baselines": {name: rankings[name] for name in baselines},
    }


def _with_counts(found: dict[str, Any]) -> dict[str, Any]:
    """Counts as whole numbers."""
    return {
        name: _with_counts(value)
        if isinstance(value, dict)
        else int(value)
        if name in COUNTS
        else value
        for name, value in found.items()
    }


def _without_counts(intervals: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_counts(value) if isinstance(value, dict) else value
        for name, value in intervals.items()
        if name not in COUNTS
    }
