"""How fast data sets are made and imported, and how hard the simulated frauds are to find.

    python -m benchmarks.simulate [--rows N] [--seed S]

Detection: of the frauds in the last 15 % of the time, the share among the 1 % of rows with the
highest score, by the default rules alone, by a logistic regression and by gradient boosting as the
pipeline fits it. Both models see every feature and learn from the first 70 %. Prints a table, then
the same figures as one line of JSON.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from engine.features.catalogue import LABEL_DELAY
from engine.policy import Policy
from engine.rules import RuleSet
from training.pipeline.datasets import import_files
from training.pipeline.evaluate import rank
from training.pipeline.features import Features
from training.pipeline.fit import FitPart, fit_supervised, supervised_score
from training.pipeline.prepare import choose_schema, split_data
from training.pipeline.rules_replay import Replayed, RuleReplay
from training.pipeline.simulate import simulate
from training.pipeline.spec import Options
from training.pipeline.table import Transactions, read_transactions

NEVER = Policy(review=2.0, block=2.0)


def replayed_rules(data: Transactions, features: Features, test: slice) -> Replayed:
    """The default rules over the test part."""
    history = features.history(np.arange(test.start, test.stop))
    nothing = np.zeros(test.stop - test.start)
    return RuleReplay(RuleSet.default(), data, history, test).replay(NEVER, nothing, nothing)


def logistic_scores(train: FitPart, test: NDArray[np.float64]) -> NDArray[np.float64]:
    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(train.matrix, train.labels)
    return model.predict_proba(test)[:, 1]


def boosted_scores(
    train: FitPart, validation: FitPart, test: NDArray[np.float64]
) -> NDArray[np.float64]:
    fitted = fit_supervised(train, validation, seed=0, hyperparameters={}, progress=lambda _: None)
    return supervised_score(fitted.model, test)


def speeds(rows: int, seed: int, folder: Path) -> tuple[dict[str, float], Path]:
    file = folder / "simulated.csv"
    simulate(folder / "warm.csv", 1_000, seed)  # compiles the walk
    started = time.perf_counter()
    simulate(file, rows, seed)
    simulated = time.perf_counter()
    summary = import_files([file], folder / "set", "canonical")
    imported = time.perf_counter()
    return {
        "simulate_rows_per_second": round(rows / (simulated - started)),
        "import_rows_per_second": round(rows / (imported - simulated)),
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }, Path(summary.path)


def detection(path: Path) -> dict[str, float]:
    parts = split_data(read_transactions(str(path)), Options(), LABEL_DELAY)
    data, split = parts.data, parts.split
    schema, delay = choose_schema(data, split.train, ()), parts.label_delay
    features = Features(data, schema, delay, labels_after=delay)

    def fit_part(part: slice) -> FitPart:
        rows = np.arange(part.start, part.stop)
        return FitPart(features.matrix(rows), parts.labels[part], np.ones(len(rows)))

    train, validation = fit_part(split.train), fit_part(split.validation)
    test = features.matrix(np.arange(split.test.start, split.test.stop))
    tested = data.is_fraud[split.test]
    rules = replayed_rules(data, features, split.test)
    scores = {
        "rules": rules.rule_score + rules.rule_blocked,
        "logistic_regression": logistic_scores(train, test),
        "gradient_boosting": boosted_scores(train, validation, test),
    }
    return {
        "fraud_rate": float(data.is_fraud.mean()),
        "honest_blocked_by_rules": float(rules.rule_blocked[~tested].mean()),
        **{f"recall_{name}": rank(s, tested)["recall_at_1_percent"] for name, s in scores.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures, path = speeds(options.rows, options.seed, Path(folder))
        figures |= detection(path)
    print(f"{options.rows:,} simulated rows, seed {options.seed}")
    for name, value in figures.items():
        print(f"  {name:<32} {value:>12,.4g}" if value < 1_000 else f"  {name:<32} {value:>12,}")
    print(json.dumps({"benchmark": "simulate", "rows": options.rows, **figures}))


if __name__ == "__main__":
    main()
