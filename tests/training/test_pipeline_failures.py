"""Memory and disks that end: a run says at which stage, and what to do."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from engine.errors import InvalidDataset
from engine.store import LocalStore
from tests.training.pipeline_support import QUICK, make_columns, write_dataset, write_spec
from training.pipeline.job import execute
from training.pipeline.memory import peak_memory_mb, restart_peak, used_memory_mb, watch_memory
from training.pipeline.run_folder import RunFolder
from training.pipeline.sampling import draw, plan_legitimate_rows

ROOT = Path(__file__).resolve().parents[2]

# Everything is loaded first: what runs out is what the run itself asks for.
WITHIN = """
import resource, sys
from pathlib import Path
from engine.store import LocalStore
from training.pipeline import stages
from training.pipeline.job import execute
from training.pipeline.run_folder import RunFolder

status = open("/proc/self/status").read()
used = int(status.split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 60 * 2**20,) * 2)
folder = RunFolder(LocalStore(Path(sys.argv[1])), "test")
folder.claim()
code, report = execute(folder)
folder.finish(report)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), make_columns(3_000, fraud_rate=0.05))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_that_runs_out_is_told_with_the_stage(tmp_path):
    dataset = write_dataset(tmp_path / "data", make_columns(200_000))
    folder = write_spec(tmp_path / "run", dataset)
    done = subprocess.run(
        [sys.executable, "-c", WITHIN, str(folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert report["stage"] in ("load", "features")
    assert report["error"].startswith("Out of memory (")
    assert "--memory-limit" in report["error"]
    assert "--sample" in report["error"]


class FullStore(LocalStore):
    """A disk that has no room for what is large."""

    def write(self, name: str, data: bytes) -> None:
        if name.startswith(("predictions", "bundle")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(name, data)


def test_a_full_disk_is_told_with_the_stage_and_leaves_nothing(tmp_path, dataset):
    folder = write_spec(tmp_path / "run", dataset)
    run = RunFolder(FullStore(folder), "test")
    run.claim()
    status, report = execute(run)
    assert (status, report["stage"]) == (1, "evaluate")
    assert report["error"].startswith("The disk is full. Free some space")
    assert not (folder / "predictions.parquet").exists()
    assert not (folder / "bundle").exists()


def test_a_disk_that_is_really_full(tmp_path, dataset):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a file system can't be mounted here")
    try:
        folder = write_spec(disk / "run", dataset)
        done = subprocess.run(
            [sys.executable, "-m", "training.pipeline.job", str(folder)],
            cwd=ROOT, timeout=200, capture_output=True, text=True,
        )  # fmt: skip
        report = folder / "report.json"
        said = report.read_text() if report.exists() else done.stderr
        assert done.returncode in (1, 3)
        assert "The disk is full" in said
        assert any(stage in said for stage in ("evaluate", "export", "bundle"))
        assert not (folder / "bundle" / "manifest.json").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_limit_that_is_passed_is_noticed():
    noticed = threading.Event()
    used: list[int] = []

    def exceeded(mb: int) -> None:
        used.append(mb)
        noticed.set()

    limit = used_memory_mb() + 50
    watch_memory(limit, exceeded)
    assert not noticed.wait(0.3)
    held = np.ones(120 * 2**17)
    assert noticed.wait(5)
    assert used[0] > limit
    assert held.nbytes == 120 * 2**20


def test_peaks_are_told_stage_by_stage():
    held = np.ones(200 * 2**17)
    del held
    high = restart_peak()
    low = restart_peak()
    assert low <= high <= peak_memory_mb()


@pytest.mark.parametrize("limit", [None, 100_000])
def test_with_memory_enough_as_many_rows_as_wanted_are_fitted_on(limit):
    facts = {"rows": 1_000_000, "others": 60_000, "columns": 90}
    assert plan_legitimate_rows(700_000, **facts, limit_mb=limit) == 700_000


def test_less_memory_means_fewer_rows_and_then_a_refusal():
    facts = {"rows": 1_000_000, "others": 60_000, "columns": 90}
    planned = [
        plan_legitimate_rows(700_000, **facts, limit_mb=limit) for limit in (1_700, 1_800, 1_900)
    ]
    assert 20_000 < planned[0] < planned[1] < planned[2] < 700_000
    with pytest.raises(InvalidDataset, match=r"about 1,\d{3} MB .*--memory-limit is 1,000 MB"):
        plan_legitimate_rows(700_000, **facts, limit_mb=1_000)


def test_a_limit_that_is_too_low_stops_the_run_at_its_features(tmp_path, dataset):
    options = {"hyperparameters": QUICK, "memory_limit_mb": 500}
    folder = write_spec(tmp_path / "run", dataset, options=options)
    # A process of its own: what goes over the limit is ended, and this one is over it already.
    done = subprocess.run([sys.executable, "-m", "training.pipeline.job", folder], cwd=ROOT)
    assert done.returncode == 1
    report = json.loads((folder / "report.json").read_text())
    assert (report["status"], report["stage"]) == ("failed", "features")
    assert "--memory-limit is 500 MB" in report["error"]


def test_a_drawn_row_counts_for_those_that_were_not():
    labels = np.zeros(10_000, bool)
    labels[::100] = True
    sample = draw(np.arange(1_000, 9_000), labels, 2_000, np.random.default_rng(0))
    assert sample.labels.sum() == 80
    assert len(sample.rows) == 2_080
    assert (np.diff(sample.rows) > 0).all()
    assert 1_000 <= sample.rows[0] < sample.rows[-1] < 9_000
    assert sample.weights[sample.labels].tolist() == [1.0] * 80
    assert sample.weights[~sample.labels].sum() == pytest.approx(7_920)
    assert sample.rate == pytest.approx(2_000 / 7_920)
    everything = draw(np.arange(10_000), labels, 10_000, np.random.default_rng(0))
    assert everything.rate == 1.0
    assert everything.rows.tolist() == list(range(10_000))
