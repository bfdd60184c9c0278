"""How fast a file is scored once it is read, and what the rules cost of it.

    python -m benchmarks.bulk [--rows N] [--seed S]

Simulates N transactions, imports them, fits models of the usual size on the first of them (300
trees, 100 isolation trees) and scores all of them into a Parquet file. Prints a table, then the
same figures as JSON. `CPU` is of all threads: half of it is the least that two cores can take.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest

from engine.features.catalogue import FEATURE_INDEX, LABEL_DELAY
from engine.fraud_bundle import SUPERVISED, UNSUPERVISED, Bundle, load_bundle
from engine.policy import Policy
from engine.rules import RuleSet, rule_context
from engine.store import LocalStore
from engine.trees import serialize
from tests.engine.bundles import write_small_bundle
from training.pipeline.datasets import import_files
from training.pipeline.features import Features
from training.pipeline.memory import peak_memory_mb
from training.pipeline.prepare import choose_schema
from training.pipeline.rules_replay import RuleReplay, countries_before
from training.pipeline.score_file import write_scores
from training.pipeline.simulate import simulate
from training.pipeline.table import Transactions, read_transactions

FITTED_ROWS = 60_000
RULE_ROWS = 100_000
ONE_BY_ONE_ROWS = 5_000


class Clock:
    """Seconds of what it times, by the wall and by the processors."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, float]] = {}

    @contextmanager
    def measure(self, name: str, rows: int) -> Iterator[None]:
        """Time what is done for `rows`."""
        wall, processors = time.perf_counter(), time.process_time()
        yield
        wall, processors = time.perf_counter() - wall, time.process_time() - processors
        self.figures[name] = {
            "rows_per_second": round(rows / wall),
            "cpu_us_per_row": round(processors / rows * 1e6, 1),
        }


def make_bundle(folder: Path, data: Transactions) -> Bundle:
    """A version fitted on the first rows."""
    train = slice(0, min(FITTED_ROWS, len(data) // 2))
    schema = choose_schema(data, train, ())
    matrix = Features(data, schema, LABEL_DELAY, labels_after=LABEL_DELAY).matrix(
        np.arange(train.stop)
    )
    boosting = HistGradientBoostingClassifier(
        max_iter=300, max_leaf_nodes=15, early_stopping=False, random_state=0
    ).fit(matrix, data.is_fraud[train])
    forest = IsolationForest(n_estimators=100, max_samples=1_024, random_state=0)
    forest.fit(np.nan_to_num(matrix))
    store = LocalStore(folder)
    digest = write_small_bundle(
        store,
        files={SUPERVISED: serialize(boosting), UNSUPERVISED: serialize(forest)},
        schema=schema,
        policy=Policy(review=0.2, block=0.5),
        fill=np.zeros(len(schema.names)),
    )
    return load_bundle(store, "fraud/v1.0.0", digest)


def time_rules(clock: Clock, rules: RuleSet, bundle: Bundle, data: Transactions) -> None:
    """The rules over rows, and the same rules asked row by row."""
    rows = slice(0, min(RULE_ROWS, len(data)))
    history = Features(data, bundle.schema, LABEL_DELAY, labels_after=None).history(
        np.arange(rows.stop)
    )
    with clock.measure("rules over a data set", rows.stop):
        RuleReplay(rules, data, history, rows)
    some = slice(0, min(ONE_BY_ONE_ROWS, rows.stop))
    evaluate = row_by_row(rules, data, history, some)
    with clock.measure("rules row by row", some.stop):
        evaluate()


def row_by_row(
    rules: RuleSet, data: Transactions, history: np.ndarray, rows: slice
) -> Callable[[], None]:
    """What evaluates the rules as live does, on values that are there already."""
    text = {name: column.values(rows) for name, column in data.text.items()}
    lists, codes = countries_before(data, rows)
    columns = {
        "amount": data.amount[rows].tolist(),
        "created_at": data.created_at[rows].tolist(),
        "same_wallet": (data.source[rows] == data.destination[rows]).tolist(),
        "currency": text["currency"],
        "direction": text["direction"],
        "transaction_type": text["transaction_type"],
        "country": text["country"],
        "source_balance": data.numbers["source_balance"][rows].tolist(),
        "source_status": text["source_wallet_status"],
        "account_age_minutes": data.numbers["account_age_minutes"][rows].tolist(),
        "destination_status": text["destination_wallet_status"],
        "user_status": text["user_status"],
        "user_risk_level": text["user_risk_level"],
        **{
            name: history[rows, FEATURE_INDEX[name]].tolist()
            for name in (
                "avg_amount_30d",
                "tx_last_10min",
                "is_new_beneficiary",
                "blocked_tx_last_24h",
            )
        },
        "user_country_history": [lists[code] for code in codes.tolist()],
    }

    def evaluate() -> None:
        for values in zip(*columns.values(), strict=True):
            rules.evaluate(rule_context(**dict(zip(columns, values, strict=True))))

    return evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    clock, rules = Clock(), RuleSet.default()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(folder / "file.parquet", options.rows, options.seed)
        with clock.measure("import", options.rows):
            import_files([folder / "file.parquet"], folder / "data", "canonical")
        with clock.measure("load", options.rows):
            data = read_transactions(str(folder / "data" / "data.parquet"))
        bundle = make_bundle(folder / "store", data)
        time_rules(clock, rules, bundle, data)
        for features in (False, True):
            with clock.measure("score, with features" if features else "score", options.rows):
                write_scores(
                    folder / "scores.parquet",
                    bundle,
                    rules,
                    data,
                    labels_after=None,
                    features=features,
                    progress=lambda _: None,
                )
    print(f"{options.rows:,} rows{'rows/s':>31}{'CPU, µs a row':>18}")
    for label, figure in clock.figures.items():
        print(f"{label:<26}{figure['rows_per_second']:>16,}{figure['cpu_us_per_row']:>18,.1f}")
    print(f"peak memory {peak_memory_mb():,} MB")
    print(json.dumps({**clock.figures, "peak_memory_mb": peak_memory_mb()}))


if __name__ == "__main__":
    main()
