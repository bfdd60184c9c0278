"""Whether a busy wallet costs what a new one does, and how fast past transactions become history.

    python -m benchmarks.history [--received N] [--sent N] [--frauds N] [--scored N]

On PostgreSQL: a shop that received N payments in 30 days, some of them confirmed frauds, and a
payer that sent N; then transactions of new wallets and of those two in turns, each decided and
durable. Checks that the values are what replay computes. Prints a table and a line of JSON. On a
machine that does other things too, the tenth percentile says more than the median.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count

import numpy as np

from benchmarks.server.site import make_history, microseconds, promote_a_model, site
from engine.features.catalogue import CATALOGUE, DAY, LABEL_DELAY
from engine.features.replay import NEVER, replay
from engine.transaction import amount_to_units, wallet_code

SPAN = 30 * DAY
OTHERS = 20_000
AMOUNT = 12.5
WARM_UP = 20


class Past:
    """30 days of payments to a shop and of a payer, by time; some of the shop's are frauds."""

    def __init__(self, received: int, sent: int, frauds: int) -> None:
        rng = np.random.default_rng(1)
        rows = received + sent
        self.now = datetime.now(UTC)
        end = microseconds(self.now)
        self.created_at = np.sort(rng.integers(end - SPAN, end, rows))
        self.amount = rng.integers(10_000, 1_000_000, rows)
        to_shop = rng.permutation(rows) < received
        other = rng.integers(0, OTHERS, rows).tolist()
        sides = list(zip(to_shop.tolist(), other, strict=True))
        self.source = [f"payer_{at}" if to_it else "payer" for to_it, at in sides]
        self.destination = ["shop" if to_it else f"payee_{at}" for to_it, at in sides]
        old = np.flatnonzero(to_shop & (self.created_at < end - LABEL_DELAY))
        self.frauds = rng.choice(old, min(frauds, len(old)), replace=False)

    def load(self) -> float:
        """Make it history; returns rows a second."""
        return make_history(
            self.source, self.destination, self.created_at, self.amount, self.now, self.frauds
        )


def scorer(now: datetime) -> Callable[[str, str], float]:
    """Scores one more transaction between two wallets; returns the milliseconds that it took."""
    from scoring.services import score

    numbers = count()

    def run(source: str, destination: str) -> float:
        number = next(numbers)
        body = json.dumps({
            "transaction": {
                "transaction_id": f"live_{number}", "amount": AMOUNT, "currency": "PYC",
                "source_wallet_id": source or f"new_{number}",
                "destination_wallet_id": destination or f"fresh_{number}",
                "transaction_type": "TRANSFER", "created_at": now.isoformat(), "country": "AB",
            }
        }).encode()  # fmt: skip
        started = time.perf_counter()
        score(body, now)
        return (time.perf_counter() - started) * 1e3

    return run


KINDS = {
    "two new wallets": ("", ""),
    "to the shop": ("", "shop"),
    "of the payer": ("payer", ""),
    "of the payer, to the shop": ("payer", "shop"),
}


def measure(now: datetime, scored: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each kind, taken in turns so that what else the machine does falls on all."""
    run = scorer(now)
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(WARM_UP + scored):
        for kind, wallets in KINDS.items():
            taken = run(*wallets)
            if number >= WARM_UP:
                times[kind].append(taken)
    figures = {}
    for kind, each in times.items():
        p10, p50, p95 = np.percentile(each, (10, 50, 95)).tolist()
        figures[kind] = {"p10": p10, "p50": p50, "p95": p95}
    new = figures["two new wallets"]
    for each in figures.values():
        each |= {f"ratio {part}": each[part] / new[part] for part in ("p10", "p50")}
    return figures


def check(past: Past) -> int:
    """Compare the last decision, between the two, with what replay computes; returns how many
    features there are."""
    from scoring.models import ScoreRecord

    records = list(ScoreRecord.objects.order_by("attempt"))
    sent = [record.transaction for record in records]
    source = [*past.source, *(each["source_wallet_id"] for each in sent)]
    destination = [*past.destination, *(each["destination_wallet_id"] for each in sent)]
    codes = {wallet: wallet_code(wallet) for wallet in {*source, *destination}}
    visible = np.full(len(source), NEVER)
    visible[past.frauds] = len(past.source)
    blocked = np.zeros(len(source), np.bool_)
    blocked[len(past.source) :] = [record.decision == "BLOCK" for record in records]
    live = np.ones(len(records), np.int64)
    (values,) = replay(
        np.concatenate([past.created_at, microseconds(past.now) * live]),
        np.concatenate([past.amount, amount_to_units(AMOUNT) * live]),
        np.array([codes[wallet] for wallet in source]),
        np.array([codes[wallet] for wallet in destination]),
        np.ones(len(source), np.int64),
        fraud_visible_from=visible,
        blocked=blocked,
        rows=np.array([len(source) - 1]),
    )
    for feature, value in zip(CATALOGUE, values.tolist(), strict=True):
        expected, found = None if np.isnan(value) else value, records[-1].features[feature.name]
        if found != expected:
            sys.exit(f"{feature.name} is {found}, but replay computes {expected}")
    return len(CATALOGUE)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--received", type=int, default=50_000, help="by the shop")
    parser.add_argument("--sent", type=int, default=10_000, help="by the payer")
    parser.add_argument("--frauds", type=int, default=2_000, help="confirmed, of the shop's")
    parser.add_argument("--scored", type=int, default=200, help="transactions of each kind")
    options = parser.parse_args()
    with site():
        promote_a_model()
        past = Past(options.received, options.sent, options.frauds)
        rate = past.load()
        figures = measure(past.now, options.scored)
        features = check(past)
    print(f"{'':28}{'p10 ms':>10}{'p50 ms':>10}{'p95 ms':>10}{'ratio p10':>12}{'ratio p50':>12}")
    for kind, each in figures.items():
        times = "".join(f"{each[part]:10.2f}" for part in ("p10", "p50", "p95"))
        print(f"{kind:28}{times}{each['ratio p10']:12.2f}{each['ratio p50']:12.2f}")
    print(f"{features} features are what replay computes; history was made at {rate:,.0f} rows/s")
    print(json.dumps({"benchmark": "history", "rows_per_second": rate} | figures))


if __name__ == "__main__":
    main()
