"""The training program as a process: whose a run is, how it dies, what it leaves."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.store import LocalStore
from tests.training.pipeline_support import make_columns, write_dataset, write_spec
from training.pipeline.run_folder import ClaimRefused, Heartbeat, RunFolder

ROOT = Path(__file__).resolve().parents[2]
# A forest that takes half a minute to grow: long enough to be met in mid-work on any machine.
LONG = {"supervised": {"max_iter": 5}, "unsupervised": {"n_estimators": 10_000}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), make_columns(20_000))


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the program on a run folder; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start_job(folder: Path, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "training.pipeline.job", str(folder), *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("CLOUD_RUN_EXECUTION", None)
        with (folder / "output.txt").open("ab") as output:
            started.append(
                subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
            )
        return started[-1]

    yield start_job
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.05)


def progress(folder: Path) -> dict:
    path = folder / "progress.json"
    return json.loads(path.read_text()) if path.exists() else {"stage": None, "fraction": 0}


def at_work(folder: Path) -> Callable[[], bool]:
    return lambda: progress(folder)["stage"] == "unsupervised"


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_run_killed_in_mid_work_leaves_no_result_and_its_retry_finishes(tmp_path, dataset, start):
    folder = write_spec(tmp_path / "run", dataset, options={"hyperparameters": LONG})
    killed = start(folder, "--execution", "e1")
    wait_for(at_work(folder), "fitting")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (folder / "report.json").exists()
    assert not (folder / "bundle").exists()
    lines_before = "".join(path.read_text() for path in sorted((folder / "log").iterdir()))
    # What a kill between the bundle and the report would leave.
    (folder / "bundle").mkdir()
    (folder / "bundle" / "manifest.json").write_text("{}")

    write_spec(folder, dataset)
    retry = start(folder, "--execution", "e1")
    assert retry.wait(120) == 0, (folder / "output.txt").read_text()
    assert report(folder)["status"] == "succeeded"
    lines = "".join(path.read_text() for path in sorted((folder / "log").iterdir()))
    assert lines.startswith(lines_before)
    assert lines.count("features: done") == 2


def test_another_execution_is_refused_and_touches_nothing(tmp_path, dataset, start):
    folder = write_spec(tmp_path / "run", dataset)
    RunFolder(LocalStore(folder), "first").claim()
    before = (folder / "claim.json").read_bytes()
    assert start(folder, "--execution", "second").wait(60) == 2
    assert "claimed by the execution 'first'" in (folder / "output.txt").read_text()
    assert (folder / "claim.json").read_bytes() == before
    assert not (folder / "report.json").exists()


def test_without_a_name_every_start_is_another_execution(tmp_path, dataset):
    folder = write_spec(tmp_path / "run", dataset)
    RunFolder(LocalStore(folder), "first").claim()
    with pytest.raises(ClaimRefused):
        RunFolder(LocalStore(folder), "second").claim()


def test_a_finished_run_stays_finished(tmp_path, dataset, start):
    folder = write_spec(tmp_path / "run", dataset)
    (folder / "report.json").write_text('{"status": "failed"}')
    assert start(folder, "--execution", "e1").wait(60) == 2
    assert report(folder) == {"status": "failed"}


def test_of_two_starts_at_once_one_has_the_run(tmp_path):
    folder = write_spec(tmp_path / "run", tmp_path)
    outcomes: list[str] = []

    def claim(name: str) -> None:
        try:
            RunFolder(LocalStore(folder), name).claim()
            outcomes.append("claimed")
        except ClaimRefused:
            outcomes.append("refused")

    threads = [threading.Thread(target=claim, args=(f"e{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["claimed"] + ["refused"] * 7


def test_the_first_attempt_stops_when_its_retry_takes_over(tmp_path, dataset, start):
    folder = write_spec(tmp_path / "run", dataset, options={"hyperparameters": LONG})
    first = start(folder, "--execution", "e1")
    wait_for(at_work(folder), "fitting")
    RunFolder(LocalStore(folder), "e1").claim()
    assert first.wait(30) == 3
    assert not (folder / "report.json").exists()
    assert "taken the run over" in (folder / "output.txt").read_text()


def test_a_run_told_to_stop_reports_it_at_once(tmp_path, dataset, start):
    folder = write_spec(tmp_path / "run", dataset, options={"hyperparameters": LONG})
    process = start(folder)
    wait_for(at_work(folder), "fitting")
    process.terminate()
    assert process.wait(10) == 1
    assert report(folder)["status"] == "failed"
    assert report(folder)["stage"] == "unsupervised"
    assert "told to stop (SIGTERM)" in report(folder)["error"]


def test_a_run_ends_with_the_process_that_started_it(tmp_path, dataset):
    """A worker killed with SIGKILL can't stop its training: the training has to notice."""
    folder = write_spec(tmp_path / "run", dataset, options={"hyperparameters": LONG})
    parent_code = (
        "import os, subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-m', 'training.pipeline.job', sys.argv[1],"
        " '--parent-pid', str(os.getpid())])\n"
        "time.sleep(600)"
    )
    command = [sys.executable, "-c", parent_code, str(folder)]
    parent = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for(at_work(folder), "fitting")
    finally:
        parent.kill()
    # Not waited for: a dead parent that nobody has reaped yet is gone all the same.
    pid = json.loads((folder / "claim.json").read_text())["pid"]
    wait_for(lambda: not running(pid), "the training to end", 10)
    parent.wait()
    assert not (folder / "report.json").exists()


def test_a_parent_that_is_already_gone_stops_the_run(tmp_path, dataset, start):
    gone = subprocess.Popen(["true"])
    gone.wait()
    folder = write_spec(tmp_path / "run", dataset)
    assert start(folder, "--parent-pid", str(gone.pid)).wait(60) == 3
    assert not (folder / "report.json").exists()


def test_progress_beats_and_only_grows(tmp_path, dataset, start):
    folder = write_spec(tmp_path / "run", dataset)
    process = start(folder)
    seen: list[tuple[str, float]] = []
    while process.poll() is None:
        now = progress(folder)
        if now["stage"] is not None and (now["heartbeat_at"], now["fraction"]) not in seen:
            seen.append((now["heartbeat_at"], now["fraction"]))
        time.sleep(0.05)
    assert process.returncode == 0
    assert len(seen) >= 3
    assert seen == sorted(seen)
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0 or progress(folder)["fraction"] == 1.0


def test_without_a_spec_nothing_is_touched(tmp_path, start):
    assert start(tmp_path).wait(60) == 2
    assert "no spec.json" in (tmp_path / "output.txt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["output.txt"]


def test_a_folder_that_can_not_be_written_any_more_stops_the_work(tmp_path):
    folder = RunFolder(LocalStore(write_spec(tmp_path / "run", tmp_path)), "e1")
    folder.claim()
    lost: list[str] = []
    with Heartbeat(folder, lost.append, seconds=0.05):
        (tmp_path / "run" / "claim.json").unlink()
        wait_for(lambda: bool(lost), "the heartbeat to notice", 10)
    assert "can't be written" in lost[0]


def test_log_lines_are_kept_in_order_and_never_twice(tmp_path):
    folder = RunFolder(LocalStore(write_spec(tmp_path, tmp_path)), "e1")
    folder.claim()

    def write(name: str) -> None:
        for number in range(40):
            folder.log(f"{name}-{number}")
            folder.flush()

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chunks = sorted((tmp_path / "log").iterdir())
    lines = [line.split(" ", 1)[1] for path in chunks for line in path.read_text().splitlines()]
    for name in "ab":
        assert [line for line in lines if line.startswith(name)] == [
            f"{name}-{number}" for number in range(40)
        ]
