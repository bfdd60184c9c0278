"""A small classifier with every type of input, and runs on its rows."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.classifier.definition import Definition, read_definition
from engine.store import LocalStore
from training.pipeline.classifier.datasets import ImportResult, import_rows
from training.pipeline.job import execute
from training.pipeline.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[3]
CHURN = """
name = "churn"
description = "Who leaves"
target = "outcome"

[inputs.age]
type = "integer"
minimum = 18
maximum = 120

[inputs.balance]
type = "number"
minimum = -1000
maximum = 1e6
default = 0.0

[inputs.active]
type = "boolean"

[inputs.plan]
type = "category"
values = ["free", "paid", "it's \\"{big}\\", or so"]
default = "free"

[classes.stays]
message = "Leave them alone"

[classes.leaves]
message = "Call them"

[classes.unsure]
message = "Write to them"
"""
PLANS = ("free", "paid", 'it\'s "{big}", or so')
INPUTS = ("age", "balance", "active", "plan")


def churn() -> Definition:
    return read_definition(CHURN)


def churn_rows(rows: int, seed: int = 0) -> dict[str, list[Any]]:
    """Columns by name. Old people without a plan leave, mostly; rich ones are unsure."""
    random = np.random.default_rng(seed)
    age = random.integers(18, 100, rows)
    balance = np.round(random.lognormal(6.0, 1.5, rows), 2).clip(max=1e6)
    active = random.random(rows) < 0.6
    plan = random.choice(3, rows)
    best = np.where((age > 60) & (plan == 0), 1, np.where((balance > 1500) & ~active, 2, 0))
    outcome = np.where(random.random(rows) < 0.85, best, random.integers(0, 3, rows))
    return {
        "age": age.tolist(),
        "balance": balance.tolist(),
        "active": active.tolist(),
        "plan": [PLANS[code] for code in plan],
        "outcome": [churn().labels[code] for code in outcome],
    }


def write_csv(path: Path, columns: Mapping[str, Iterable[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def import_churn(
    folder: Path, columns: Mapping[str, Iterable[Any]], **changes: Any
) -> ImportResult:
    """Import columns by way of a CSV file into `folder`/data."""
    file = write_csv(folder / "rows.csv", columns)
    return import_rows(churn(), [file], folder / "data", **changes)


def write_spec(folder: Path, dataset: str, definition: str = CHURN, **changes: Any) -> Path:
    """`spec.json` in a run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "kind": "classifier",
        "run_id": folder.name,
        "model": read_definition(definition).name,
        "version": "1.0.0",
        "definition": definition,
        "dataset": dataset,
        "dataset_fingerprint": "f" * 64,
    }
    (folder / "spec.json").write_text(json.dumps(spec | changes))
    return folder


def run_here(folder: Path) -> dict[str, Any]:
    """Run a run folder in this process; its report."""
    run = RunFolder(LocalStore(folder), "test")
    run.claim()
    _, report = execute(run)
    return report


def run_program(folder: Path, *, prefix: Sequence[str] = (), **environment: str) -> dict[str, Any]:
    """Run the training program on a run folder; its report."""
    command = [*prefix, sys.executable, "-m", "training.pipeline.job", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    environment.pop("CLOUD_RUN_EXECUTION", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    report = folder / "report.json"
    assert report.exists(), done.stderr
    found: dict[str, Any] = json.loads(report.read_bytes())
    assert done.returncode == (0 if found["status"] == "succeeded" else 1)
    return found
