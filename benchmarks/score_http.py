"""`/score` over HTTP beside an empty DRF view: requests a second, latencies, and their ratio.

    python -m benchmarks.score_http [--seconds S] [--wallets N]

gunicorn with 2 workers, PostgreSQL with synchronous_commit on, 8 connections, wallets drawn from a
Zipf law with about 100 prior attempts each, every transaction new and durable before its answer.
Client, server and database share the machine. Prints a table, then the figures as a line of JSON.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count, cycle, islice

import numpy as np

from benchmarks.server import load
from benchmarks.server.site import ROOT, make_history, microseconds, promote_a_model, site

CONNECTIONS = 8
PRIOR = 100
MOST_A_SECOND = 4_000
PAYEES = 5_000


def preload(wallets: int) -> None:
    """Give each wallet about 100 attempts, one every few hours until now."""
    rng = np.random.default_rng(1)
    now = datetime.now(UTC)
    source = np.repeat(np.arange(wallets), rng.poisson(PRIOR, wallets))
    ages = rng.integers(0, 40 * 86_400_000_000, len(source))
    payees = rng.integers(0, PAYEES, len(source))
    by_time = np.argsort(-ages)
    make_history(
        [f"wallet_{number}" for number in source[by_time]],
        [f"payee_{number}" for number in payees],
        microseconds(now) - ages[by_time],
        rng.integers(10_000, 1_000_000, len(source)),
        now,
    )


def score_requests(key: str, wallets: int) -> Iterator[bytes]:
    """Endless distinct requests, from wallets drawn by a Zipf law (exponent 1)."""
    rng = np.random.default_rng(2)
    weights = 1 / np.arange(1, wallets + 1)
    created_at = datetime.now(UTC).isoformat()
    chosen = cycle(rng.choice(wallets, 100_000, p=weights / weights.sum()).tolist())
    amounts = cycle(rng.integers(1, 60, 9_973).tolist())  # the models are asked, too
    payees = cycle(rng.integers(0, PAYEES, 99_991).tolist())
    for number in count():
        body = {
            "transaction": {
                "transaction_id": f"tx_{number}",
                "amount": next(amounts),
                "currency": "PYC",
                "source_wallet_id": f"wallet_{next(chosen)}",
                "destination_wallet_id": f"payee_{next(payees)}",
                "transaction_type": "TRANSFER",
                "direction": "outgoing",
                "created_at": created_at,
                "initiator_user_id": "user_001",
                "country": "FR",
                "city": "Paris",
            },
            "context": {
                "source_wallet": {
                    "balance": 1000.0, "status": "active", "account_age_minutes": 525600
                },
                "destination_wallet": {"status": "active"},
                "user": {"status": "active", "risk_level": "low"},
            },
        }  # fmt: skip
        yield load.http_request(
            "/score", json.dumps(body).encode(), {"Authorization": f"Api-Key {key}"}
        )


def empty_requests(key: str) -> Iterator[bytes]:
    """The same request, to the empty view."""
    first = next(score_requests(key, 10)).replace(b"POST /score", b"POST /empty", 1)
    return cycle([first])


@contextmanager
def gunicorn() -> Iterator[int]:
    """A server; yields its port once it can decide."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py", "sentinelle.wsgi"],
        cwd=ROOT,
        env=os.environ | {"PORT": str(port)},
    )
    try:
        _wait_until_healthy(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(300):
        if process.poll() is not None:
            sys.exit("gunicorn did not start (its output is above)")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    sys.exit("gunicorn had no model after 30 s")


def measure(port: int, key: str, wallets: int, seconds: float) -> dict[str, dict[str, float]]:
    """Both views in turns of a second, so that what else the machine does falls on both."""
    # Made beforehand: the client shares the machine with the server.
    made = list(islice(score_requests(key, wallets), int(seconds * MOST_A_SECOND)))
    streams = {"empty view": empty_requests(key), "/score": iter(made)}
    loads = {name: load.Load() for name in streams}
    for requests in streams.values():
        load.run(load.Load(), port, requests, connections=CONNECTIONS, seconds=1.0)
    for _ in range(max(1, round(seconds))):
        for name, requests in streams.items():
            load.run(loads[name], port, requests, connections=CONNECTIONS, seconds=1.0)
    return {name: each.figures() for name, each in loads.items()}


def report(results: dict[str, dict[str, float]]) -> None:
    """The table, and a line of JSON."""
    print(f"{'':12}{'requests/s':>12}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}{'failed':>8}")
    for name, each in results.items():
        times = "".join(f"{each[key]:10.2f}" for key in ("p50", "p95", "p99"))
        print(f"{name:12}{each['rate']:12.0f}{times}{each['failures']:8.0f}")
    ratio = results["/score"]["rate"] / results["empty view"]["rate"]
    print(f"ratio {ratio:.3f}")
    print(json.dumps({"benchmark": "score_http", "ratio": ratio} | results))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Throughput and latency of /score.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--wallets", type=int, default=5_000)
    options = parser.parse_args()
    with site():
        key = promote_a_model()
        preload(options.wallets)
        with gunicorn() as port:
            results = measure(port, key, options.wallets, options.seconds)
    report(results)


if __name__ == "__main__":
    main()
