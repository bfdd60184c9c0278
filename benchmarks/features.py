"""How fast features are computed: generated data sets replayed, and one transaction at a time.

    python -m benchmarks.features [--rows N]

Prints a table, then the same figures as one line of JSON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from engine.features.catalogue import CATALOGUE
from engine.features.live import (
    EMPTY_HISTORY,
    History,
    compute_live,
    decode_events,
    decode_incoming,
    next_event,
    next_incoming,
)
from engine.features.replay import replay, visible_at_once
from engine.features.schema import FeatureSchema

DAY = 86_400_000_000
SCHEMA = FeatureSchema(("TRANSFER", "PAYMENT", "CASH_OUT"), ("FR", "US", "DE"))


def data_set(sources: np.ndarray, destinations: np.ndarray) -> dict[str, np.ndarray]:
    """90 days of payments between the given wallets, 2 % of them failed and 1 % frauds."""
    rng = np.random.default_rng(7)
    rows = len(sources)
    return {
        "created_at": np.sort(rng.integers(0, 90 * DAY, rows)),
        "amount": rng.integers(1, 10_000_000, rows),
        "source": sources,
        "destination": destinations,
        "country": rng.integers(-1, 20, rows),
        "failed_visible_from": visible_at_once(rng.random(rows) < 0.02),
        "fraud_visible_from": visible_at_once(rng.random(rows) < 0.01),
    }


def rows_per_second(columns: dict[str, np.ndarray], threads: int) -> float:
    started = time.perf_counter()
    replay(**columns, threads=threads)
    return len(columns["source"]) / (time.perf_counter() - started)


def history(events: int) -> History:
    """A wallet that pays 40 times a day, and another that is paid as often."""
    sent: list[bytes] = []
    received: list[bytes] = []
    for i in range(events):
        common = {"created_at_us": i * DAY // 40, "amount": 100 + i}
        before = decode_events(sent[-1] if sent else b"")
        sent.append(
            next_event(before, **common, destination=i * i % 311, country=147, blocked=False)
        )
        before = decode_incoming(received[-1] if received else b"")
        received.append(next_incoming(before, **common, source=i * i % 307))
    return EMPTY_HISTORY._replace(
        events=decode_events(b"".join(sent)), incoming=decode_incoming(b"".join(received))
    )


def microseconds(call: Callable[[], object], calls: int = 20_000) -> float:
    """The median of five measurements of one call."""
    measured = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(calls // 5):
            call()
        measured.append((time.perf_counter() - started) / (calls // 5) * 1e6)
    return sorted(measured)[2]


def live_figures() -> dict[str, float]:
    figures = {}
    for events in (0, 100, 1_000):
        past = history(events)

        def compute(past: History = past, now: int = events * DAY // 40) -> np.ndarray:
            return compute_live(created_at_us=now, destination=5, country=147, history=past)

        figures[f"live, {events:,} events each side (µs)"] = microseconds(compute)
    values = np.zeros(len(CATALOGUE))
    figures["model row from features (µs)"] = microseconds(
        lambda: SCHEMA.assemble_one(
            amount=15_000, created_at=DAY, currency="PYC", direction="outgoing",
            transaction_type="TRANSFER", country=147, source_balance=3.0, history=values,
        )
    )  # fmt: skip
    return figures


def replay_figures(rows: int) -> dict[str, float]:
    rng = np.random.default_rng(1)
    zipf = data_set(rng.zipf(1.3, rows) % 100_000, rng.zipf(1.3, rows) % 100_000)
    few = rng.integers(0, max(rows // 50, 1), (2, rows))
    single = data_set(*np.zeros((2, rows // 5), dtype=np.int64))
    cores = os.cpu_count() or 1
    return {
        "replay, Zipf wallets, 1 thread (rows/s)": rows_per_second(zipf, 1),
        f"replay, Zipf wallets, {cores} threads (rows/s)": rows_per_second(zipf, cores),
        "replay, 50 rows a wallet, 1 thread (rows/s)": rows_per_second(data_set(*few), 1),
        "replay, into one wallet, 1 thread (rows/s)": rows_per_second(
            data_set(few[0], np.zeros(rows, dtype=np.int64)), 1
        ),
        "replay, a single pair, 1 thread (rows/s)": rows_per_second(single, 1),
    }


def import_seconds() -> float:
    """What a process pays to import the live path, with a warm cache."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import engine.features.live"], check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    figures = {**live_figures(), **replay_figures(rows)}
    figures["import, warm cache (s)"] = import_seconds()
    figures["peak memory (MB)"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(CATALOGUE)} features, {rows:,} rows, {os.cpu_count()} cores")
    for name, figure in figures.items():
        print(f"{name:<48}{figure:>14,.2f}" if figure < 100 else f"{name:<48}{figure:>14,.0f}")
    print(json.dumps({name: round(figure, 3) for name, figure in figures.items()}))


if __name__ == "__main__":
    main()
