"""Nobody runs the benchmarks every day: each of them still starts."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_starts(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
