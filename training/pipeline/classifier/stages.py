"""The stages of a classifier's training run, from a data set to a bundle and a report."""

from typing import Any

from training.pipeline.run_folder import RunFolder
from training.pipeline.spec import ClassifierSpec


def train(spec: ClassifierSpec, folder: RunFolder) -> dict[str, Any]:
    """Train, evaluate and write `bundle/` and `predictions.parquet`; return the report."""
    raise NotImplementedError
