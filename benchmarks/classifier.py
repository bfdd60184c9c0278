"""How long the training of a classifier takes, and how much memory and disk, as data grows.

    python -m benchmarks.classifier [--rows N …] [--seed S] [--keep FOLDER]

Simulates N rows of the sponsor model, imports them and trains on them with the training program
itself, each in a process of its own, for 10 thousand, 100 thousand and 1 million rows unless told
otherwise. Prints a table, then the same figures as one line of JSON.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.training import Failed, run
from training.pipeline.classifier.definitions import shipped_definition

MODEL = "sponsor"
ROWS = (10_000, 100_000, 1_000_000)
IMPORT = """
import sys, time
from pathlib import Path
from engine.classifier.definition import read_definition
from training.pipeline.classifier.datasets import import_rows
from training.pipeline.classifier.definitions import shipped_definition
from training.pipeline.classifier.simulators import simulate_rows
from training.pipeline.memory import peak_memory_mb, restart_peak

definition = read_definition(shipped_definition(sys.argv[1]))
file, folder, rows, seed = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
started = time.perf_counter()
simulate_rows(definition, file, rows, seed)
simulated = time.perf_counter() - started
peak = restart_peak()
import_rows(definition, [file], folder)
print(); print(simulated, peak, time.perf_counter() - started - simulated, peak_memory_mb())
"""


def imported(rows: int, seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """Seconds and peak MB of making the rows up and of importing them into `folder`/data-N."""
    file = folder / f"{rows}.csv"
    target = folder / f"data-{rows}"
    output = run("-c", IMPORT, MODEL, str(file), str(target), str(rows), str(seed))
    file.unlink()
    figures = [float(text) for text in output.splitlines()[-1].split()]
    return {
        "simulate": {"seconds": figures[0], "peak_mb": figures[1]},
        "import": {"seconds": figures[2], "peak_mb": figures[3]},
    }


def trained(dataset: Path, folder: Path) -> dict[str, Any]:
    """The report of a training on the data set, and the `seconds` that the program took."""
    folder.mkdir()
    spec = {
        "kind": "classifier",
        "run_id": folder.name,
        "model": MODEL,
        "version": "1.0.0",
        "definition": shipped_definition(MODEL),
        "dataset": str(dataset / "data.parquet"),
        "dataset_fingerprint": "",
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    started = time.perf_counter()
    run("-m", "training.pipeline.job", str(folder))
    seconds = time.perf_counter() - started
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report | {"seconds": seconds}


def measured(rows: int, seed: int, folder: Path) -> dict[str, Any]:
    """The figures for one size: `stages` (seconds and peak MB of each), and the training's."""
    stages = imported(rows, seed, folder)
    report = trained(folder / f"data-{rows}", folder / f"run-{rows}")
    timings, peaks = report["timings"], report["peaks_mb"]
    stages |= {name: {"seconds": timings[name], "peak_mb": peaks[name]} for name in timings}
    files = [path.stat().st_size for path in (folder / f"run-{rows}" / "bundle").iterdir()]
    metrics = report["metrics"]
    return {
        "rows": rows,
        "stages": stages,
        "seconds": report["seconds"],
        "peak_mb": report["peak_memory_mb"],
        "bundle_mb": sum(files) / 1e6,
        "leaves": report["forest"]["leaves"],
        "accuracy": metrics["accuracy"],
        "best_possible": metrics["best_possible_accuracy"],
        "most_frequent": metrics["most_frequent_accuracy"],
    }


def show(figures: list[dict[str, Any]]) -> None:
    header = f"{'':<16}" + "".join(f"{each['rows']:>22,}" for each in figures)
    print(header + "\n" + f"{'':<16}" + f"{'seconds      MB':>22}" * len(figures))
    for name in figures[-1]["stages"]:
        cells = [each["stages"][name] for each in figures]
        print(
            f"{name:<16}"
            + "".join(f"{cell['seconds']:>14.1f}{cell['peak_mb']:>8,.0f}" for cell in cells)
        )
    print(
        f"{'training':<16}"
        + "".join(f"{each['seconds']:>14.1f}{each['peak_mb']:>8,}" for each in figures)
    )
    for name in ("bundle_mb", "leaves", "accuracy", "best_possible", "most_frequent"):
        print(f"{name:<16}" + "".join(f"{each[name]:>22,.4g}" for each in figures))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="an empty folder for the files, kept afterwards")
    options = parser.parse_args()
    kept = nullcontext(str(options.keep)) if options.keep else tempfile.TemporaryDirectory()
    with kept as folder:
        try:
            figures = [measured(rows, options.seed, Path(folder)) for rows in options.rows]
        except Failed as failure:
            print(failure, file=sys.stderr)
            return 1
    show(figures)
    print(json.dumps({"benchmark": "classifier", "cores": os.cpu_count(), "sizes": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
