"""Looking for better hyperparameters of the supervised model: successive halving.

Many configurations are fitted on a small share of the rows, the best third of them on three times
as many, and so on; what is left is fitted on all. All are judged by average precision on the
validation part, which is later in time than what they are fitted on: a search by cross-validation
would shuffle time. The default configuration takes part in every round, so what is chosen was
better than the default where both had the same rows.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training.pipeline.fit import MAX_TREES, FitPart, Supervised, fit_supervised
from training.pipeline.spec import Search

KEPT = 3
"""One in so many goes on to the next round, which has so many times the rows."""
LEAST_ROWS = 20_000
# The search's share of the stage's progress; the rest is for the last fit.
SEARCHING = 0.7
# What is drawn, each on a logarithmic scale, between the values that are worth trying.
RANGES: dict[str, tuple[float, float]] = {
    "learning_rate": (0.03, 0.3),
    "max_leaf_nodes": (7, 63),
    "min_samples_leaf": (10, 200),
    "l2_regularization": (0.1, 30.0),
}
WHOLE = ("max_leaf_nodes", "min_samples_leaf")

Progress = Callable[[float, str], None]


class _OutOfTime(Exception):
    """The budget is used up in the middle of a fit."""


@dataclass
class Trial:
    """One configuration and how it did."""

    number: int
    """0 is the default."""
    hyperparameters: dict[str, Any]
    rounds: list[dict[str, float]] = field(default_factory=list)
    """Of each round that it completed: `rows`, `trees`, `average_precision`, `seconds`."""
    model: Supervised | None = None
    """When it was fitted on all rows."""

    @property
    def score(self) -> float:
        """Average precision in the last round that it completed; 0 before the first."""
        return self.rounds[-1]["average_precision"] if self.rounds else 0.0


@dataclass(frozen=True)
class Found:
    """The model that is kept, and everything that was tried."""

    best: Supervised
    chosen: int = 0
    trials: tuple[Trial, ...] = ()
    seconds: float = 0.0
    complete: bool = True
    """False when the budget ended the search."""

    def describe(self) -> dict[str, Any] | None:
        """For the report; None without a search."""
        if not self.trials:
            return None
        return {
            "chosen": self.chosen,
            "complete": self.complete,
            "seconds": round(self.seconds, 1),
            "trials": [
                {
                    "number": trial.number,
                    "hyperparameters": trial.hyperparameters,
                    "rounds": trial.rounds,
                }
                for trial in self.trials
            ],
        }


def search(
    train: FitPart,
    validation: FitPart,
    asked: Search | None,
    *,
    seed: int,
    hyperparameters: dict[str, Any],
    progress: Progress,
) -> Found:
    """The supervised model, its hyperparameters searched for if that is asked.

    The budget bounds the search; the configuration that is chosen is then fitted on all rows. With
    enough time for all rounds the result depends on the seed alone.

    Args:
        asked: how many configurations, and minutes at most; None: only the default.
        hyperparameters: of the default, over `fit.SUPERVISED_DEFAULTS`; the others keep what they
            do not draw.
        progress: called with the share done and what is being done.

    Raises:
        InvalidSpec: as `fit_supervised`.
    """
    if asked is None:
        return Found(_fit(train, validation, seed, hyperparameters, progress, 0.0, 1.0, ""))
    began = time.monotonic()
    trials = [
        Trial(number, {**hyperparameters, **drawn})
        for number, drawn in enumerate(_configurations(asked.configurations, seed))
    ]
    halving = _Halving(train, validation, seed, progress, began + asked.minutes * 60, asked.minutes)
    complete = halving.run(trials)
    furthest = max(len(trial.rounds) for trial in trials)
    finalists = [trial for trial in trials if len(trial.rounds) == furthest]
    best = max(finalists, key=lambda trial: (trial.score, -trial.number))
    seconds = time.monotonic() - began
    told = f"configuration {best.number} on all rows, "
    model = best.model or _fit(
        train, validation, seed, best.hyperparameters, progress, SEARCHING, 1.0, told
    )
    return Found(model, best.number, tuple(trials), seconds, complete)


class _Halving:
    """The rounds of one search."""

    def __init__(
        self,
        train: FitPart,
        validation: FitPart,
        seed: int,
        progress: Progress,
        deadline: float,
        minutes: float,
    ) -> None:
        self._train = train
        self._validation = validation
        self._seed = seed
        self._progress = progress
        self._deadline = deadline
        self._seconds = minutes * 60

    def run(self, trials: list[Trial]) -> bool:
        """Give the trials their rounds; False when the time was over before the end."""
        sizes = _round_sizes(len(trials), len(self._train.labels))
        taking_part = trials
        for number, rows in enumerate(sizes):
            part = _thinned(self._train, rows, self._seed)
            for place, trial in enumerate(taking_part):
                told = (
                    f"round {number + 1} of {len(sizes)} on {len(part.labels):,} rows, "
                    f"configuration {place + 1} of {len(taking_part)}, "
                )
                if not self._try(trial, part, told):
                    return False
            ranked = sorted(taking_part, key=lambda trial: (-trial.score, trial.number))
            kept = ranked[: max(1, len(ranked) // KEPT)]
            # The default first: whenever the time is over, it has been measured.
            taking_part = trials[:1] + [trial for trial in kept if trial.number]
        return True

    def _try(self, trial: Trial, part: FitPart, told: str) -> bool:
        began = time.monotonic()

        def check(_done: float, message: str) -> None:
            left = self._deadline - time.monotonic()
            if left < 0:
                raise _OutOfTime
            self._progress(SEARCHING * (1 - left / self._seconds), message)

        try:
            fitted = _fit(
                part, self._validation, self._seed, trial.hyperparameters, check, 0.0, 1.0, told
            )
        except _OutOfTime:
            return False
        if part is self._train:
            trial.model = fitted
        trial.rounds.append(
            {
                "rows": len(part.labels),
                "trees": fitted.model.n_iter_,
                "average_precision": round(max(fitted.learning_curve), 6),
                "seconds": round(time.monotonic() - began, 3),
            }
        )
        return True


def _configurations(count: int, seed: int) -> list[dict[str, Any]]:
    """What each configuration changes; the first is the default."""
    rng = np.random.default_rng(seed)
    drawn: list[dict[str, Any]] = [{}]
    for _ in range(count - 1):
        values = {
            name: float(np.exp(rng.uniform(np.log(low), np.log(high))))
            for name, (low, high) in RANGES.items()
        }
        drawn.append(
            {
                name: round(value) if name in WHOLE else float(f"{value:.3g}")
                for name, value in values.items()
            }
        )
    return drawn


def _round_sizes(trials: int, rows: int) -> list[int]:
    """Rows of each round, three times as many in each, until one or two trials are left.

    The least number of rows can make the first rounds equal: a second fit of the same rows would
    tell nothing, so there is one of them.
    """
    rounds = 1
    while trials // KEPT**rounds >= 1:
        rounds += 1
    least = min(rows, LEAST_ROWS)
    return sorted({max(rows // KEPT**back, least) for back in range(rounds)})


def _thinned(part: FitPart, rows: int, seed: int) -> FitPart:
    """Every fraud of the part and as many legitimate rows, drawn at random, as make up `rows`."""
    if rows >= len(part.labels):
        return part
    legitimate = np.flatnonzero(~part.labels)
    wanted = min(len(legitimate), max(rows - int(part.labels.sum()), rows // 2))
    drawn = np.random.default_rng(seed).choice(legitimate, wanted, replace=False)
    kept = np.sort(np.concatenate([np.flatnonzero(part.labels), drawn]))
    labels = part.labels[kept]
    share = wanted / len(legitimate)
    return FitPart(part.matrix[kept], labels, part.weights[kept] / np.where(labels, 1.0, share))


def _fit(
    train: FitPart,
    validation: FitPart,
    seed: int,
    hyperparameters: dict[str, Any],
    progress: Progress,
    begin: float,
    end: float,
    told: str,
) -> Supervised:
    trees = int(hyperparameters.get("max_iter", MAX_TREES))
    return fit_supervised(
        train,
        validation,
        seed=seed,
        hyperparameters=hyperparameters,
        progress=lambda done: progress(begin + (end - begin) * done / trees, f"{told}{done} trees"),
    )
