"""The first thing a newcomer does: `make demo`, twice, as a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(home: Path) -> dict[str, str]:
    """What the demo in `home` needs, with nothing of the tests' own, and a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: os.environ[name] for name in ("PATH", "NUMBA_CACHE_DIR")}
    return kept | {"SENTINELLE_HOME": str(home), "PORT": str(port)}


def demo(home: Path) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sentinelle.demo"],
        env=environment(home) | {"DEMO_EXIT": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=420,
        start_new_session=True,
    )


@contextmanager
def demo_that_stays(home: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Run the demo, and go on once it has printed its login link: its environment and output."""
    where = environment(home)
    log = home.parent / "stays.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sentinelle.demo"], env=where, cwd=ROOT, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(4200):
            if "one-time-login" in log.read_text():
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield where, log.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def doctor(where: dict[str, str]) -> tuple[int, str]:
    """Exit status and findings of `manage.py doctor` beside a running demo."""
    done = subprocess.run(
        [sys.executable, "manage.py", "doctor"], env=where, cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def processes_of(home: Path) -> list[str]:
    """The command lines that name this home, by their process id, however wide the terminal is."""
    command = ["ps", "-eww", "-o", "pid=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if str(home) in line]


def test_demo_answers_as_expected_then_is_reused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = demo(home)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "4 of 4 answers were as expected" in first.stdout
    assert "Train v1.0.0" in first.stdout
    assert processes_of(home) == []

    with demo_that_stays(home) as (where, told):
        assert "Train v1.0.0" not in told
        assert "4 of 4 answers were as expected" in told
        for _ in range(5):  # the workers may still be starting
            status, found = doctor(where)
            if status == 0:
                break
        assert status == 0, found
        lines = found.strip().splitlines()
        assert lines[-1] == "All is well."
        assert len(lines) > 15
        assert all(line.startswith("✓ ") for line in lines[:-1]), found
        assert "nothing was kept" in found
    assert processes_of(home) == []
