"""The metrics of a version on its test part, with intervals and beside the baselines."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import numpy as np

from training.pipeline.evaluate.bootstrap import LEVEL, Estimates, Side
from training.pipeline.evaluate.decisions import Decisions
from training.pipeline.evaluate.part import Array, Codes, Mask, TestPart, numbered
from training.pipeline.evaluate.ranking import Ranking, Weights
from training.pipeline.evaluate.wallets import DailyWallets, WalletDays
from training.pipeline.spec import Costs

REPLICATES = 200
# Of each score.
FIGURES = (*Ranking.FIGURES, DailyWallets.FIGURE)
RULES = "rules"
LOGISTIC = "logistic"
CHAMPION = "champion"
# As far as scikit-learn and what serves may differ on one model.
SAME_SCORES = 1e-6
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Whole numbers, which have no interval.
COUNTS = ("alerts", "true_positives", "false_positives", "false_negatives")


class ChampionFacts(NamedTuple):
    """Which version served when the run was evaluated, and what it had seen."""

    version: str
    fitted_until: str | None
    """The time of the last row that it was fitted or tuned on, ISO 8601; None when its bundle does
    not say."""
    same_dataset: bool | None
    """Whether it was fitted on the data set that the test part is of; None when its bundle does
    not say."""

    @classmethod
    def of(cls, version: str, training: Mapping[str, Any], fingerprint: str) -> "ChampionFacts":
        """From a bundle's `training` summary, and the fingerprint of the test part's data set."""
        data = training.get("data", {})
        parts = data.get("parts", {})
        last = [parts[name]["last_at"] for name in ("train", "validation") if name in parts]
        same = data["fingerprint"] == fingerprint if "fingerprint" in data else None
        return cls(version, max(last, default=None), same)


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
    source, destination = numbered(part.source), numbered(part.destination)
    days = WalletDays(part.labels, source, part.created_at)
    scores = _compared(part, baselines)
    by_source = _Figures(part, scores, thresholds, costs, source, days)
    by_destination = _Figures(part, scores, thresholds, costs, destination)
    sides = [
        Side(int(source.max()) + 1, by_source),
        Side(int(destination.max()) + 1, by_destination),
    ]
    estimates = Estimates(sides, replicates=REPLICATES, seed=seed)
    names = (RULES, *baselines)
    found = _arranged(estimates.values(), names)
    return {
        **_with_counts(found),
        "precision": found["block"]["precision"],
        "recall": found["block"]["recall"],
        **_facts(part),
        "compromised_wallets_a_day": days.compromised_a_day,
        "costs": None if costs is None else msgspec.structs.asdict(costs),
        "champion": None if champion is None else _champion(champion, part, baselines[CHAMPION]),
        "differences": {name: _differences(estimates, name) for name in names},
        "intervals": _without_counts(_arranged(estimates.intervals(), names)),
        "bootstrap": {
            "replicates": REPLICATES,
            "wallets": sides[0].wallets,
            "destinations": sides[1].wallets,
            "level": LEVEL,
        },
    }


def _champion(facts: ChampionFacts, part: TestPart, risk: Array) -> dict[str, Any]:
    """The facts, and whether its risk of each row is the one of this version."""
    farthest = np.max(np.abs(part.scores.risk - risk), initial=0.0)
    return facts._asdict() | {"same_scores": bool(farthest <= SAME_SCORES)}


def rank(scores: Array, labels: Mask) -> dict[str, float]:
    """`Ranking.FIGURES` of a score, every row counting once."""
    ranking = Ranking(scores, labels, np.zeros(len(labels), np.int64))
    found = ranking.figures(np.ones(1, np.uint8))
    return dict(zip(Ranking.FIGURES, found.tolist(), strict=True))


def baseline_scores(part: TestPart, baselines: Mapping[str, Array]) -> dict[str, Array]:
    """The rules alone, and the given ones."""
    return {RULES: part.scores.rules, **baselines}


class _Figures:
    """The figures of a part, for weights of the wallets of one side.

    Args:
        scores: (rows,) by name.
        wallets: (rows,) the wallets of that side, from 0 on.
        days: of the same wallets, for the figure that is of days and wallets; without them it is
            left out.
    """

    def __init__(
        self,
        part: TestPart,
        scores: Mapping[str, Array],
        thresholds: Mapping[str, float],
        costs: Costs | None,
        wallets: Codes,
        days: WalletDays | None = None,
    ) -> None:
        self._by_row = {
            name: Ranking(values, part.labels, wallets) for name, values in scores.items()
        }
        self._by_day = (
            {name: DailyWallets(values, days) for name, values in scores.items()} if days else {}
        )
        self._decisions = Decisions(part, thresholds, costs, wallets)

    def __call__(self, weights: Weights) -> dict[str, Any]:
        rankings = {
            name: dict(zip(Ranking.FIGURES, ranking.figures(weights).tolist(), strict=True))
            for name, ranking in self._by_row.items()
        }
        for name, daily in self._by_day.items():
            rankings[name][DailyWallets.FIGURE] = daily.precision(weights)
        return {"rankings": rankings, "decisions": self._decisions.figures(weights)}


def _compared(part: TestPart, baselines: Mapping[str, Array]) -> dict[str, Array]:
    """Every score whose ranking is judged, by name."""
    return {
        "risk": part.scores.risk,
        **baseline_scores(part, baselines),
        "supervised": part.scores.supervised,
        "unsupervised": part.scores.unsupervised,
    }


def _facts(part: TestPart) -> dict[str, Any]:
    return {
        "rows": len(part.labels),
        "frauds": int(part.labels.sum()),
        "fraud_rate": float(part.labels.mean()),
        "test_from": _moment(part.created_at[0]),
        "test_until": _moment(part.created_at[-1]),
    }


def _differences(estimates: Estimates, name: str) -> dict[str, Any]:
    return {
        figure: estimates.difference(("rankings", "risk", figure), ("rankings", name, figure))
        for figure in FIGURES
    }


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
