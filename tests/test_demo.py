"""The first thing a newcomer does: `make demo`, twice, as a process of its own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def demo(home: Path) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end in `home`, with nothing of the tests' own environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: os.environ[name] for name in ("PATH", "NUMBA_CACHE_DIR")}
    environment |= {"SENTINELLE_HOME": str(home), "PORT": str(port), "DEMO_EXIT": "1"}
    return subprocess.run(
        [sys.executable, "-m", "sentinelle.demo"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=420,
    )


def processes_of(home: Path) -> list[str]:
    """The command lines that name this home, by their process id."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if str(home) in line]


def test_demo_answers_as_expected_then_is_reused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = demo(home)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "4 of 4 answers were as expected" in first.stdout
    assert "Train v1.0.0" in first.stdout
    assert processes_of(home) == []

    second = demo(home)
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-3000:]
    assert "Train v1.0.0" not in second.stdout
    assert "4 of 4 answers were as expected" in second.stdout
