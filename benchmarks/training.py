"""How long a training takes and how much memory it needs, stage by stage, as data grows.

    python -m benchmarks.training [--rows N …] [--seed S] [--rules default|none] [--keep FOLDER]

Simulates N transactions, imports them and trains on them with the training program itself, each in
a process of its own, for 100 thousand and 1 million rows unless told otherwise. Prints a table,
then the same figures as one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from engine.rules import default_rules_text
from training.pipeline.simulate import simulate

ROWS = (100_000, 1_000_000)
IMPORT = """
import sys
from pathlib import Path
from training.pipeline.datasets import import_files
from training.pipeline.memory import peak_memory_mb

import_files([Path(sys.argv[1])], Path(sys.argv[2]), "canonical")
print(); print(peak_memory_mb())
"""


class Failed(Exception):
    """A process ended with an error."""


def imported(file: Path, folder: Path) -> dict[str, float]:
    """Seconds and peak MB of the import."""
    started = time.perf_counter()
    output = run("-c", IMPORT, str(file), str(folder))
    return {"seconds": time.perf_counter() - started, "peak_mb": int(output.split()[-1])}


def trained(dataset: Path, folder: Path, rules: str) -> dict[str, Any]:
    """The report of a training on the data set, and the `seconds` that the program took."""
    folder.mkdir()
    spec = {
        "run_id": folder.name,
        "model": "fraud",
        "version": "1.0.0",
        "dataset": str(dataset / "data.parquet"),
        "dataset_fingerprint": "",
        "rules": {"name": rules, "toml": default_rules_text() if rules == "default" else ""},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    started = time.perf_counter()
    run("-m", "training.pipeline.job", str(folder))
    seconds = time.perf_counter() - started
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report | {"seconds": seconds}


def run(*arguments: str) -> str:
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        report = Path(arguments[-1]) / "report.json"
        raise Failed(report.read_text() if report.exists() else done.stderr)
    return done.stdout


def measured(rows: int, seed: int, rules: str, folder: Path) -> dict[str, Any]:
    """The figures for one size: `stages` (seconds and peak MB of each, import first) and totals."""
    file = folder / f"{rows}.csv"
    simulate(file, rows, seed)
    stages = {"import": imported(file, folder / f"data-{rows}")}
    file.unlink()
    report = trained(folder / f"data-{rows}", folder / f"run-{rows}", rules)
    timings, peaks = report["timings"], report["peaks_mb"]
    stages |= {name: {"seconds": timings[name], "peak_mb": peaks[name]} for name in timings}
    return {
        "rows": rows,
        "stages": stages,
        "seconds": stages["import"]["seconds"] + report["seconds"],
        "peak_mb": max(stage["peak_mb"] for stage in stages.values()),
        "fitted_on": report["sampling"]["fit_rows"],
        "trees": len(report["learning_curve"]) - 1,
        "pr_auc": report["metrics"]["pr_auc"],
        "supervised_pr_auc": report["metrics"]["supervised"]["pr_auc"],
        "logistic_pr_auc": report["metrics"]["baselines"]["logistic"]["pr_auc"],
    }


def show(figures: list[dict[str, Any]]) -> None:
    header = f"{'':<16}" + "".join(f"{each['rows']:>22,}" for each in figures)
    print(header + "\n" + f"{'':<16}" + f"{'seconds      MB':>22}" * len(figures))
    names = figures[-1]["stages"]
    for name in names:
        cells = [each["stages"][name] for each in figures]
        print(
            f"{name:<16}"
            + "".join(f"{cell['seconds']:>14.1f}{cell['peak_mb']:>8,}" for cell in cells)
        )
    print(
        f"{'in all':<16}"
        + "".join(f"{each['seconds']:>14.1f}{each['peak_mb']:>8,}" for each in figures)
    )
    for name in ("fitted_on", "trees", "pr_auc", "supervised_pr_auc", "logistic_pr_auc"):
        print(f"{name:<16}" + "".join(f"{each[name]:>22,.4g}" for each in figures))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rules", choices=("default", "none"), default="default")
    parser.add_argument("--keep", type=Path, help="an empty folder for the files, kept afterwards")
    options = parser.parse_args()
    kept = nullcontext(str(options.keep)) if options.keep else tempfile.TemporaryDirectory()
    with kept as folder:
        try:
            figures = [
                measured(rows, options.seed, options.rules, Path(folder)) for rows in options.rows
            ]
        except Failed as failure:
            print(failure, file=sys.stderr)
            return 1
    show(figures)
    print(json.dumps({"benchmark": "training", "cores": os.cpu_count(), "sizes": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
