"""The training program with its run folder and its data in a bucket, and nothing else."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.bundle import verify_bundle
from engine.store import BucketStore, open_store
from tests.google.gcs import CloudStorage
from tests.training.pipeline_support import make_columns, write_dataset, write_spec
from training.launchers.base import LogReader, program_log, program_log_tail
from training.pipeline.run_folder import Heartbeat, RunFolder

ROOT = Path(__file__).resolve().parents[2]
FORGOTTEN = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "SENTINELLE_HOME", "CLOUD_RUN_EXECUTION")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), make_columns(3_000, fraud_rate=0.05))


@pytest.fixture
def run(cloud_folders: str, dataset: Path, tmp_path: Path) -> str:
    """The location of a run folder whose data is in the bucket too."""
    stored = f"gs://{cloud_folders}/data/some/data.parquet"
    open_store(stored.rpartition("/")[0]).upload("data.parquet", dataset)
    local = write_spec(tmp_path / "run-1", stored)
    location = f"gs://{cloud_folders}/runs/run-1"
    open_store(location).upload("spec.json", local / "spec.json")
    return location


def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start the program as a job does: with variables only."""
    kept = {key: value for key, value in os.environ.items() if key not in FORGOTTEN}
    return subprocess.Popen(
        [sys.executable, "-m", "training.pipeline.job", *arguments],
        cwd=ROOT,
        env={**kept, "PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_job_needs_its_variables_and_the_bucket_and_survives_an_outage(
    run: str, gcs: CloudStorage
) -> None:
    job = start(RUN_FOLDER=run, VERSION="v1.0.0", CLOUD_RUN_EXECUTION="execution-1")
    store = open_store(run)
    deadline = time.monotonic() + 60
    while not any("features" in line for line in logged(store)):
        assert time.monotonic() < deadline
        assert job.poll() is None, job.stdout and job.stdout.read()
        time.sleep(0.1)
    gcs.unreachable(3)
    time.sleep(3)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output
    report = json.loads(store.read("report.json"))
    assert report["status"] == "succeeded"
    assert verify_bundle(store, "bundle", report["manifest_sha256"]).version == "1.0.0"
    assert json.loads(store.read("claim.json"))["execution"] == "execution-1"
    lines = logged(store)
    times = [line.partition(" ")[0] for line in lines]
    assert times == sorted(times)
    assert sum("features: done" in line for line in lines) == 1
    assert not [name for name in store.list() if "partial" in name]


def logged(store: BucketStore) -> list[str]:
    text = b"".join(store.read(name) for name in store.list("log"))
    return text.decode().splitlines()


def test_another_version_than_was_meant_is_refused(run: str) -> None:
    job = start(RUN_FOLDER=run, VERSION="v2.0.0")
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 2
    assert "The run folder is of version 1.0.0, but VERSION is v2.0.0." in output
    assert open_store(run).list() == ["spec.json"]


def test_without_a_run_folder_the_program_teaches() -> None:
    job = start()
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 2
    assert "no run folder is given" in output
    assert "RUN_FOLDER" in output


def test_a_run_folder_without_a_spec_is_refused(cloud_folders: str) -> None:
    job = start(RUN_FOLDER=f"gs://{cloud_folders}/runs/nothing", VERSION="1.0.0")
    output, _ = job.communicate(timeout=60)
    assert (job.returncode, "no spec.json" in output) == (2, True)


def claimed(bucket: str) -> RunFolder:
    store = BucketStore(bucket, "run", call_seconds=0.2, transfer_seconds=0.2)
    store.write("spec.json", b"{}")
    folder = RunFolder(store, "e1")
    folder.claim()
    return folder


@pytest.mark.parametrize("calls", ["", "POST /upload"], ids=["all", "writes"])
def test_a_heartbeat_outlives_an_outage_and_keeps_the_log(
    bucket: str, gcs: CloudStorage, calls: str
) -> None:
    folder, lost = claimed(bucket), threading.Event()
    with Heartbeat(folder, lambda _: lost.set(), seconds=0.02, patience=20):
        gcs.fault(calls, "drop", times=1_000)
        for number in range(10):
            folder.log(f"line {number}")
            time.sleep(0.05)
        gcs.calm()
        assert not lost.is_set()
    folder.flush()
    assert [line.partition(" ")[2] for line in logged(folder.store)] == [
        f"line {number}" for number in range(10)
    ]


def test_a_heartbeat_gives_up_in_time_and_says_why(bucket: str, gcs: CloudStorage) -> None:
    folder, reasons = claimed(bucket), []
    lost = threading.Event()

    def lose(reason: str) -> None:
        reasons.append(reason)
        lost.set()

    with Heartbeat(folder, lose, seconds=0.02, patience=0.3):
        gcs.revoke()
        assert lost.wait(5)
    (reason,) = reasons
    assert reason.startswith("the run folder can't be written: Access to gs://")
    assert "roles/storage.objectUser" in reason


def test_the_log_of_a_run_is_read_chunk_by_chunk_once(bucket: str, gcs: CloudStorage) -> None:
    folder = claimed(bucket)
    for number in range(3):
        folder.log(f"line {number}")
        folder.flush()
    assert [line[-6:] for line in program_log(folder.store).splitlines()] == [
        "line 0", "line 1", "line 2",
    ]  # fmt: skip
    folder.log("line 3")
    folder.flush()
    gcs.calls.clear()
    assert program_log(folder.store).splitlines()[-1].endswith("line 3")
    assert len(gcs.calls) == 2  # the list, and the new chunk


def test_of_the_end_of_a_log_only_the_last_chunks_are_read(bucket: str, gcs: CloudStorage) -> None:
    folder = claimed(bucket)
    for number in range(5):
        folder.log(f"line {number}")
        folder.flush()
    gcs.calls.clear()
    tail = program_log_tail(folder.store, 1).splitlines()
    assert [line[-6:] for line in tail] == ["line 4"]
    assert len(gcs.calls) <= 3  # the list, and two chunks


def test_who_follows_a_log_is_told_what_is_new(bucket: str, gcs: CloudStorage) -> None:
    folder = claimed(bucket)
    reader = LogReader(folder.store)
    folder.log("line 0")
    folder.flush()
    assert reader.read().endswith("line 0\n")
    assert reader.read() == ""
    folder.store.write("log/output.txt", b"one\n")
    assert reader.read() == "one\n"
    folder.store.write("log/output.txt", b"one\ntwo\n")
    gcs.calls.clear()
    assert reader.read() == "two\n"
    assert len(gcs.calls) == 2  # the list, and what changed
