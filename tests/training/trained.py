"""A real run whose report has everything that one can have."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tests.training.pipeline_support import make_columns, run_here, write_dataset, write_spec

ROWS = 12_000
CHAMPION = {"supervised": {"max_iter": 3}, "unsupervised": {"n_estimators": 20}}


class Trained(NamedTuple):
    """What a run left behind."""

    folder: Path
    report: dict[str, Any]
    predictions: pd.DataFrame
    log: bytes


def train_beside_a_champion(folder: Path) -> Trained:
    """Train v1.0.0 with three trees, then v1.1.0 with a search and costs while v1.0.0 serves."""
    dataset = write_dataset(folder / "data", make_columns(ROWS, fraud_rate=0.02))
    serving = run_here(
        write_spec(folder / "serving", dataset, options={"hyperparameters": CHAMPION})
    )
    assert serving["status"] == "succeeded", serving
    run = write_spec(
        folder / "run",
        dataset,
        version="1.1.0",
        options={
            "search": {"configurations": 3, "minutes": 5},
            "costs": {"review": 1.0, "block_legitimate": 20.0},
        },
        champion={
            "version": "1.0.0",
            "location": str(folder / "serving" / "bundle"),
            "manifest_sha256": serving["manifest_sha256"],
        },
    )
    report = run_here(run)
    assert report["status"] == "succeeded", report
    log = b"".join(path.read_bytes() for path in sorted((run / "log").iterdir()))
    return Trained(run, report, pd.read_parquet(run / "predictions.parquet"), log)
