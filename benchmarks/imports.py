"""What Google's client libraries would cost each web process, were they imported where it starts.

    python -m benchmarks.imports [--times N]

Imports `sentinelle.wsgi` in a new process, alone and with each library and all of them, in turns;
the least processor time and memory of each, and their ratios to it alone. Ends with status 1 if a
web process loads one of them by itself. Prints a table and a line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = {
    "run": "google.cloud.run_v2",
    "compute": "google.cloud.compute_v1",
    "logging": "google.cloud.logging",
    "storage": "google.cloud.storage",
}
ALONE = "web process alone"
VARIANTS = {
    ALONE: [],
    **{f"with {name}": [module] for name, module in LIBRARIES.items()},
    "with all four": list(LIBRARIES.values()),
}
PROGRAM = """
import importlib, json, sys, time
started = time.process_time()
import sentinelle.wsgi
own = sorted(name for name in sys.modules if name.startswith("google."))
for name in sys.argv[1:]:
    importlib.import_module(name)
seconds = time.process_time() - started
status = open("/proc/self/status").read().splitlines()
memory = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
print(json.dumps({"seconds": seconds, "memory_mb": memory / 1024, "own": own}))
"""


def start(modules: list[str], home: str) -> dict[str, Any]:
    """Start one process and return what it says of itself."""
    environment = os.environ | {
        "SECRET_KEY": "only-for-a-benchmark-" + "x" * 40,
        "SENTINELLE_HOME": home,
        "HTTPS": "false",
        "NUMBA_CACHE_DIR": str(ROOT / "var" / "cache" / "numba"),
    }
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, *modules],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    said: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return said


def measure(times: int) -> dict[str, dict[str, float]]:
    """The best of each variant, taken in turns; the first round only warms the disk's cache."""
    best: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="sentinelle-bench-") as home:
        for number in range(times + 1):
            for name, modules in VARIANTS.items():
                said = start(modules, home)
                if said["own"]:
                    sys.exit(f"a web process loads {', '.join(said['own'][:5])}… by itself")
                if number:
                    known = best.get(name, said)
                    best[name] = {
                        key: min(known[key], said[key]) for key in ("seconds", "memory_mb")
                    }
    alone = best[ALONE]
    return {
        name: each | {f"{key}_ratio": each[key] / alone[key] for key in ("seconds", "memory_mb")}
        for name, each in best.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5, help="processes of each variant")
    figures = measure(parser.parse_args().times)
    print(f"{'':20}{'CPU s':>8}{'ratio':>8}{'MB':>8}{'ratio':>8}")
    for name, each in figures.items():
        print(
            f"{name:20}{each['seconds']:8.2f}{each['seconds_ratio']:8.2f}"
            f"{each['memory_mb']:8.0f}{each['memory_mb_ratio']:8.2f}"
        )
    print("A web process loads none of them by itself.")
    print(json.dumps({"benchmark": "imports"} | figures))


if __name__ == "__main__":
    main()
