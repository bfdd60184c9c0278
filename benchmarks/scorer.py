"""How long a decision takes: a decoded request and its wallet's history in, a decision out.

    python -m benchmarks.scorer [--calls N]

Both ensembles have 300 trees. Prints a table of microseconds, then the same figures as JSON.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.features import DAY, history
from engine.features.live import EMPTY_HISTORY
from engine.fraud_bundle import load_bundle
from engine.rules import RuleSet
from engine.scorer import Scorer
from engine.store import LocalStore
from engine.transaction import ScoreRequest, decode_score_request
from tests.engine.bundles import bundle_files, write_small_bundle
from tests.engine.requests import body, request
from tests.engine.test_rules import QUIET

TREES = 300


def percentiles(call: Callable[[], object], calls: int) -> dict[str, float]:
    """The median and the 99th percentile of one call, in microseconds."""
    call()
    measured = np.empty(calls)
    for turn in range(calls):
        started = time.perf_counter()
        call()
        measured[turn] = time.perf_counter() - started
    p50, p99 = np.percentile(measured * 1e6, (50, 99))
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}


def make_scorer() -> Scorer:
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        digest = write_small_bundle(store, files=bundle_files(TREES))
        return Scorer(load_bundle(store, "fraud/v1.0.0", digest), RuleSet.default())


def after(events: int) -> ScoreRequest:
    """The request that follows `history(events)`, which is one event every 36 minutes."""
    last = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=events * DAY // 40)
    return request({"transaction.created_at": last.isoformat()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=3_000)
    calls = parser.parse_args().calls
    scorer = make_scorer()
    raw = body()
    blocked = request({"transaction.amount": 301})
    past = {n: history(n) if n else EMPTY_HISTORY for n in (0, 100, 1_000)}
    row = np.full(len(scorer.bundle.schema.names), 10.0)
    figures = {
        f"decision, {n:,} events": percentiles(partial(scorer.score, after(n), p), calls)
        for n, p in past.items()
    }
    figures |= {
        "decision by a rule, 100 events": percentiles(
            lambda: scorer.score(blocked, past[100]), calls
        ),
        "  decoding the request": percentiles(lambda: decode_score_request(raw), calls),
        "  rules, R1 to R15": percentiles(lambda: scorer.rules.evaluate(QUIET), calls),
        "  supervised model": percentiles(lambda: scorer.bundle.supervised.predict_one(row), calls),
        "  unsupervised model": percentiles(
            lambda: scorer.bundle.unsupervised.predict_one(row), calls
        ),
    }
    print(f"{'µs, of ' + format(calls, ',') + ' calls':<40}{'p50':>10}{'p99':>10}")
    for name, figure in figures.items():
        print(f"{name:<40}{figure['p50']:>10,.1f}{figure['p99']:>10,.1f}")
    print(json.dumps({name.strip(): figure for name, figure in figures.items()}))


if __name__ == "__main__":
    main()
