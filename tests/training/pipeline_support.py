"""A small data set with frauds that can be learnt, and runs on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.rules import default_rules_text
from engine.store import LocalStore
from training.pipeline.job import execute
from training.pipeline.run_folder import RunFolder

START_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
DAYS = 60
COUNTRIES = np.array(["FR", "BE", "SN", "KP", None], dtype=object)
TYPES = np.array(["TRANSFER", "PAYMENT", "CASH_OUT"], dtype=object)


def make_columns(rows: int, seed: int = 0, fraud_rate: float = 0.01) -> dict[str, Any]:
    """Columns of the canonical schema. Frauds are larger, at night and to new wallets, mostly."""
    rng = np.random.default_rng(seed)
    fraud = rng.random(rows) < fraud_rate
    time = np.sort(rng.integers(0, DAYS * 86_400, rows)) * 1_000_000
    night = fraud & (rng.random(rows) < 0.6)
    time[night] -= time[night] % 86_400_000_000 - 3 * 3_600_000_000
    order = np.argsort(time, kind="stable")
    fraud, time = fraud[order], time[order]
    wallets = max(20, rows // 100)
    source = rng.integers(0, wallets, rows)
    usual = (source * 7 + rng.integers(0, 5, rows)) % wallets
    amount = np.round(rng.lognormal(3.0, 0.8, rows) * np.where(fraud, 3.0, 1.0), 2)
    balance = np.round(amount * rng.uniform(1.0, 30.0, rows) - 5.0, 2)
    balance[rng.random(rows) < 0.1] = np.nan
    failed = rng.random(rows) < 0.03
    status = np.where(rng.random(rows) < 0.99, "active", "locked").astype(object)
    return {
        "transaction_id": [f"t{row}" for row in range(rows)],
        "created_at": pa.array(START_US + time).cast(pa.timestamp("us")),
        "amount": np.round(amount * 10_000).astype(np.int64),
        "currency": ["PYC"] * rows,
        "source_wallet_id": [f"w{wallet}" for wallet in source],
        "destination_wallet_id": [
            f"new{row}" if is_fraud and row % 3 else f"w{wallet}"
            for row, (is_fraud, wallet) in enumerate(zip(fraud, usual, strict=True))
        ],
        "transaction_type": TYPES[rng.integers(0, 3, rows)],
        "direction": ["outgoing"] * rows,
        "country": COUNTRIES[rng.choice(5, rows, p=[0.8, 0.1, 0.05, 0.002, 0.048])],
        "status": np.where(failed, "FAILED", "SUCCESS").astype(object),
        "source_balance": pa.array(balance, from_pandas=True),
        "source_wallet_status": status,
        "account_age_minutes": rng.integers(1, 500_000, rows).astype(np.float64),
        "is_fraud": fraud,
    }


def write_dataset(folder: Path, columns: dict[str, Any]) -> Path:
    """The columns as `data.parquet`, in two row groups or more."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data.parquet"
    table = pa.table(columns)
    pq.write_table(table, path, row_group_size=max(1, len(table) // 3))
    return path


QUICK = {"supervised": {"max_iter": 40}, "unsupervised": {"n_estimators": 20}}


def write_spec(
    folder: Path,
    dataset: Path | str,
    rules: str | None = None,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """`spec.json` in a run folder; the default rules and small models unless told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "run_id": folder.name,
        "model": "fraud",
        "version": "1.0.0",
        "dataset": str(dataset),
        "dataset_fingerprint": "f" * 64,
        "rules": {"name": "default", "toml": default_rules_text() if rules is None else rules},
        "options": {"hyperparameters": QUICK} | (options or {}),
    }
    (folder / "spec.json").write_text(json.dumps(spec | changes))
    return folder


def run_here(folder: Path) -> dict[str, Any]:
    """Execute a run folder in this process; its report."""
    run = RunFolder(LocalStore(folder), "test")
    run.claim()
    _, report = execute(run)
    return report


def failure(tmp_path: Path, columns: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The report of a run on these columns, which must fail and leave nothing behind."""
    dataset = write_dataset(tmp_path / "data", columns)
    folder = write_spec(tmp_path / "run", dataset, **changes)
    report = run_here(folder)
    assert report["status"] == "failed", report
    assert not (folder / "bundle" / "manifest.json").exists()
    assert not (folder / "predictions.parquet").exists()
    return report
