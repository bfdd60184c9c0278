"""Neither the bundle nor the memory of a training grows with the rows without bound.

The figures for 1,000,000 rows are of `python -m benchmarks.classifier`, and in docs/classifiers.md.
"""

from pathlib import Path
from typing import Any

from engine.classifier.definition import read_definition
from tests.training.classifier.support import run_program, write_spec
from training.pipeline.classifier.definitions import shipped_definition
from training.pipeline.classifier.simulators import simulate_rows
from training.pipeline.classifier.sizes import FOREST_BYTES, most_leaves

SPONSOR = shipped_definition("sponsor")
# A quarter of the trees have four times the leaves each: as large a forest, in less time.
OPTIONS = {"trees": 25}
LIMIT_MB = 60
MEMORY_MB = 1_000
ROWS = 150_000


def trained(folder: Path, rows: int) -> tuple[dict[str, Any], float]:
    """The report, and the MB of the bundle."""
    data = simulate_rows(read_definition(SPONSOR), folder / f"{rows}.parquet", rows, 0).path
    report = run_program(
        write_spec(folder / f"run-{rows}", str(data), SPONSOR, options=OPTIONS),
        prefix=["prlimit", f"--data={MEMORY_MB * 2**20}"],
    )
    assert report["status"] == "succeeded", report
    files = (folder / f"run-{rows}" / "bundle").iterdir()
    return report, sum(file.stat().st_size for file in files) / 1e6


def test_bundle_and_memory_are_bounded_and_the_accuracy_is_near_the_best(tmp_path):
    # One test, so that the two runs are made once on however many workers.
    (half, half_mb), (whole, whole_mb) = (trained(tmp_path, rows) for rows in (ROWS // 2, ROWS))
    check_sizes(half_mb, whole_mb)
    check_memory(half, whole)
    check_accuracy(whole["metrics"])
    leaves = OPTIONS["trees"] * most_leaves(OPTIONS["trees"], 12)
    assert half["forest"]["leaves"] <= whole["forest"]["leaves"] <= leaves


def check_sizes(half_mb: float, whole_mb: float) -> None:
    assert FOREST_BYTES / 1e6 < LIMIT_MB
    assert max(half_mb, whole_mb) < LIMIT_MB
    # Full already with the fewer rows, or nearly.
    assert whole_mb < 1.05 * half_mb


def check_memory(half: dict[str, Any], whole: dict[str, Any]) -> None:
    assert whole["peak_memory_mb"] < 600
    # The rows themselves are 64 bytes each; the rest is what the allocator happens to keep.
    assert whole["peak_memory_mb"] - half["peak_memory_mb"] < 80


def check_accuracy(metrics: dict[str, Any]) -> None:
    assert 0.873 < metrics["best_possible_accuracy"] < 0.9
    low, high = metrics["accuracy_interval"]
    assert low > metrics["best_possible_accuracy"] - 0.02
    assert metrics["accuracy"] < metrics["best_possible_accuracy"] < high + 0.01
    assert metrics["most_frequent_accuracy"] < 0.25
