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

from engine.policy import Policy
from engine.rules import RuleSet
from training.pipeline.datasets import import_files
from training.pipeline.evaluate import rank
from training.pipeline.fit import fit_supervised, supervised_score
from training.pipeline.prepare import Prepared, prepare, split_data
from training.pipeline.rules_replay import Replayed, RuleReplay
from training.pipeline.simulate import simulate
from training.pipeline.split import Split
from training.pipeline.table import Transactions, read_transactions

NEVER = Policy(review=2.0, block=2.0)


def replayed_rules(data: Transactions, prepared: Prepared, split: Split) -> Replayed:
    """The default rules over the test part."""
    rows = slice(split.test.start, len(data))
    history = prepared.rule_history[split.test.start - split.train.stop :]
    nothing = np.zeros(rows.stop - rows.start)
    return RuleReplay(RuleSet.default(), data, history, rows).replay(NEVER, nothing, nothing)


def logistic_scores(
    matrix: NDArray[np.float64], labels: NDArray[np.bool_], split: Split
) -> NDArray[np.float64]:
    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(matrix[split.train], labels[split.train])
    return model.predict_proba(matrix[split.test])[:, 1]


def boosted_scores(
    matrix: NDArray[np.float64], labels: NDArray[np.bool_], split: Split
) -> NDArray[np.float64]:
    fitted = fit_supervised(
        matrix[split.train],
        labels[split.train],
        matrix[split.validation],
        labels[split.validation],
        seed=0,
        hyperparameters={},
        progress=lambda _: None,
    )
    return supervised_score(fitted.model, matrix[split.test])


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
    data = read_transactions(str(path))
    split = split_data(data, (0.7, 0.15, 0.15))
    prepared = prepare(data, split, lambda _share, _message: None)
    labels = data.is_fraud
    tested = labels[split.test]
    rules = replayed_rules(data, prepared, split)
    scores = {
        "rules": rules.rule_score + rules.rule_blocked,
        "logistic_regression": logistic_scores(prepared.matrix, labels, split),
        "gradient_boosting": boosted_scores(prepared.matrix, labels, split),
    }
    return {
        "fraud_rate": float(labels.mean()),
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
