"""How long the function of a classifier takes to start and to answer, and what memory it has.

    python -m benchmarks.function [--rows N] [--calls N]

Fits the shipped sponsor model on N simulated rows, of which its size hardly depends, puts the
bundle into a local storage emulator, and serves it by the functions framework, a process of its own
as at Google. Prints a table, then the same figures as JSON. Limits of a function: 540 s, 512 MB.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import requests

from engine.champions import Champion, write_champion
from engine.classifier.bundle import MODEL, load_served, write_classifier_bundle
from engine.classifier.definition import Definition, read_definition
from engine.store import Store, open_store
from tests.google.emulator import start_emulator
from tests.google.function_server import FunctionServer
from training.pipeline.classifier.definitions import shipped_definition
from training.pipeline.classifier.export import export_forest
from training.pipeline.classifier.forest import fit_forest
from training.pipeline.classifier.rows import read_rows
from training.pipeline.classifier.simulators import simulate_rows

ROOT = Path(__file__).resolve().parent.parent
NAME, BUCKET = "sponsor", "artifacts-of-a-benchmark"
INPUTS = {
    "match_minute": 42, "score_diff": -1, "temperature": 21.5, "crowd_density": 0.8,
    "zone": "VIP", "event": "Goal",
}  # fmt: skip


def fitted(definition: Definition, rows: int) -> dict[str, bytes]:
    """The files of a bundle, fitted as training fits them."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.parquet"
        simulate_rows(definition, data, rows, 0)
        found = read_rows(str(data), definition, None, _quiet)
    model = fit_forest(
        found.matrix, found.labels, len(definition.labels),
        trees=definition.training.trees, seed=0, progress=_quiet,
    )  # fmt: skip
    return export_forest(model, definition)


def promoted(store: Store, files: dict[str, bytes], version: str, promotion: int) -> str:
    """Write a version and make it the champion; its digest."""
    location = f"{NAME}/v{version}"
    digest = write_classifier_bundle(
        store, location, files, source=shipped_definition(NAME), version=version, training={},
        libraries={},
    )  # fmt: skip
    write_champion(
        store,
        Champion(
            model=NAME, version=version, location=location, manifest_sha256=digest,
            promotion=promotion,
        ),
    )  # fmt: skip
    return digest


def measured(store: Store, files: dict[str, bytes], calls: int) -> dict[str, float]:
    """The figures of a function that starts, answers, and changes to another version."""
    environment = {
        "STORAGE_EMULATOR_HOST": os.environ["STORAGE_EMULATOR_HOST"], "BUCKET_NAME": BUCKET,
        "GOOGLE_CLOUD_PROJECT": "test-project", "CHAMPION_CHECK_SECONDS": "0.5",
    }  # fmt: skip
    figures: dict[str, float] = {}
    began = time.perf_counter()
    server = FunctionServer(ROOT / "functions", environment, path=str(ROOT))
    try:
        figures["start to listening, s"] = time.perf_counter() - began
        began = time.perf_counter()
        assert server.post(INPUTS).status_code == 200
        figures["first answer: download, check, load, s"] = time.perf_counter() - began
        figures["memory with one version, MB"] = server.memory_mb()
        with requests.Session() as session:
            times = timed(lambda: session.post(server.url, json=INPUTS, timeout=60), calls)
        figures["an answer over HTTP, p50, ms"], figures["p99, ms"] = times
        promoted(store, files, "1.0.1", 2)
        began = time.perf_counter()
        while server.post(INPUTS).json()["model_version"] != "v1.0.1":
            time.sleep(0.05)
        figures["change to another version, s"] = time.perf_counter() - began
        figures["most memory, at that change, MB"] = server.memory_mb(most=True)
    finally:
        server.close()
    return figures


def timed(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """p50 and p99 of one call, in milliseconds."""
    found = np.empty(calls)
    for turn in range(calls):
        began = time.perf_counter()
        call()
        found[turn] = time.perf_counter() - began
    p50, p99 = np.percentile(found * 1e3, (50, 99))
    return float(p50), float(p99)


def _quiet(*_told: Any) -> None:
    """Show no progress."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=1_000)
    options = parser.parse_args()
    definition = read_definition(shipped_definition(NAME))
    files = fitted(definition, options.rows)
    emulator, port = start_emulator()
    try:
        os.environ |= {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
            "GOOGLE_CLOUD_PROJECT": "test-project",
        }
        bucket = f"http://127.0.0.1:{port}/storage/v1/b?project=test-project"
        requests.post(bucket, json={"name": BUCKET}, timeout=20).raise_for_status()
        store = open_store(f"gs://{BUCKET}/artifacts")
        digest = promoted(store, files, "1.0.0", 1)
        bundle = load_served(store, f"{NAME}/v1.0.0", digest)
        p50, p99 = timed(lambda: bundle.predict(INPUTS), options.calls)
        figures = {
            "bundle, MB": sum(map(len, files.values())) / 1e6,
            "  of which the function reads, MB": len(files[MODEL]) / 1e6,
            "an answer without HTTP, p50, ms": p50,
            "an answer without HTTP, p99, ms": p99,
            **measured(store, files, options.calls),
        }
    finally:
        emulator.kill()
        emulator.wait()
    for name, figure in figures.items():
        print(f"{name:<45}{figure:>10,.2f}")
    print(json.dumps({name.strip(): round(figure, 3) for name, figure in figures.items()}))


if __name__ == "__main__":
    main()
