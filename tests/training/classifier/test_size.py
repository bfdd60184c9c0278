"""Neither the bundle nor the memory of a training grows with the rows without bound.

The figures for 1,000,000 rows are of `python -m benchmarks.classifier`, and in docs/classifiers.md.
"""

from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(scope="module")
def sizes(tmp_path_factory) -> dict[int, tuple[dict[str, Any], float]]:
    folder = tmp_path_factory.mktemp("sizes")
    return {rows: trained(folder, rows) for rows in (ROWS // 2, ROWS)}


def test_the_bundle_is_bounded_and_no_larger_for_more_rows(sizes):
    assert all(size < LIMIT_MB for _, size in sizes.values())
    assert FOREST_BYTES / 1e6 < LIMIT_MB
    # Full already with the fewer rows, or nearly.
    assert sizes[ROWS][1] < 1.05 * sizes[ROWS // 2][1]
    leaves = [report["forest"]["leaves"] for report, _ in sizes.values()]
    assert max(leaves) <= OPTIONS["trees"] * most_leaves(OPTIONS["trees"], 12)


def test_the_memory_grows_by_little_more_than_the_rows_themselves(sizes):
    peaks = [report["peak_memory_mb"] for report, _ in sizes.values()]
    assert max(peaks) < 600
    # 16 columns of 4 bytes, and what sorting them takes: at 1,000,000 rows 400 MB more at most.
    assert (peaks[1] - peaks[0]) * 2**20 < 400 * ROWS / 2


def test_the_accuracy_is_near_the_best_possible(sizes):
    metrics = sizes[ROWS][0]["metrics"]
    assert 0.873 < metrics["best_possible_accuracy"] < 0.9
    low, high = metrics["accuracy_interval"]
    assert low > metrics["best_possible_accuracy"] - 0.02
    assert metrics["accuracy"] < metrics["best_possible_accuracy"] < high + 0.01
    assert metrics["most_frequent_accuracy"] < 0.25
