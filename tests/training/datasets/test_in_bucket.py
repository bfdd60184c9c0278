"""Data sets that are kept in a bucket."""

from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from engine.errors import InvalidDataset, StoreUnavailable
from engine.store import open_store
from tests.google.gcs import CloudStorage
from tests.training.datasets.support import line, text
from training.datasets import dataset_delete, dataset_import
from training.models import Dataset
from training.pipeline.local_file import local_file
from training.pipeline.simulate import simulate
from training.pipeline.table import read_transactions

pytestmark = pytest.mark.django_db


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "demo.csv.gz"
    simulate(path, 5_000, seed=2)
    return path


def stored(bucket: str) -> list[str]:
    return open_store(f"gs://{bucket}").list()


def test_an_import_puts_the_files_into_the_bucket(
    cloud_folders: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("import_dataset", "demo", str(file))
    dataset = Dataset.objects.get(name="demo")
    folder = f"data/{dataset.location}"
    assert stored(cloud_folders) == [
        f"{folder}/data.parquet", f"{folder}/rejects.csv", f"{folder}/summary.json",
    ]  # fmt: skip
    assert dataset.file == f"gs://{cloud_folders}/{folder}/data.parquet"
    assert dataset.summary["path"] == dataset.file
    assert "uploading data.parquet" in capsys.readouterr().out
    assert len(read_transactions(dataset.file)) == dataset.rows == 5_000


def test_rejects_are_told_where_they_are(
    cloud_folders: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(text(line(1), line(2, amount="x")))
    call_command("import_dataset", "some", str(path), "--on-bad-rows", "skip")
    dataset = Dataset.objects.get()
    assert f"gs://{cloud_folders}/data/{dataset.location}/rejects.csv" in capsys.readouterr().out


def test_a_deleted_data_set_leaves_the_bucket(
    cloud_folders: str, file: Path, django_capture_on_commit_callbacks
) -> None:
    dataset = dataset_import(name="demo", files=[file])
    open_store(f"gs://{cloud_folders}/data").write("other/data.parquet", b"x")
    with django_capture_on_commit_callbacks(execute=True):
        dataset_delete(dataset)
    assert stored(cloud_folders) == ["data/other/data.parquet"]


def test_a_bad_file_puts_nothing_into_the_bucket(cloud_folders: str, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(text(line(1, amount="x")))
    with pytest.raises(InvalidDataset, match="1 bad row, so nothing was imported"):
        dataset_import(name="bad", files=[path])
    assert stored(cloud_folders) == []
    assert not Dataset.objects.exists()


@pytest.mark.parametrize("which", ["data.parquet", "summary.json"])
def test_an_upload_that_fails_leaves_nothing(
    cloud_folders: str, gcs: CloudStorage, file: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.setattr("training.datasets.PATIENT_SECONDS", 0.2)
    # The name is in the body of an upload: the nth file is the nth call.
    for _ in range(0 if which == "data.parquet" else 2):
        gcs.fault("POST /upload", "slow", seconds=0)
    gcs.fault("POST /upload", "UNAVAILABLE", times=50)
    with pytest.raises(StoreUnavailable):
        dataset_import(name="demo", files=[file])
    gcs.calm()
    assert stored(cloud_folders) == []
    assert not Dataset.objects.exists()


def test_an_import_survives_a_bucket_that_was_out_of_reach(
    cloud_folders: str, gcs: CloudStorage, file: Path
) -> None:
    gcs.fault("POST /upload", "unreachable", seconds=1)
    assert dataset_import(name="demo", files=[file]).rows == 5_000


def test_a_refusal_of_the_bucket_is_told(cloud_folders: str, gcs: CloudStorage, file: Path) -> None:
    gcs.revoke("POST /upload")
    with pytest.raises(CommandError, match=r"was refused: 403 .*roles/storage.objectUser"):
        call_command("import_dataset", "demo", str(file))


def test_a_data_set_that_is_gone_is_named(cloud_folders: str) -> None:
    missing = f"gs://{cloud_folders}/data/x/data.parquet"
    with pytest.raises(InvalidDataset, match=f"not there: {missing}"), local_file(missing):
        pass


def test_a_copy_is_verified_shown_and_deleted(
    cloud_folders: str, gcs: CloudStorage, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 4096
    open_store(f"gs://{cloud_folders}/data").write("x/data.parquet", content)
    gcs.fault("GET /download", "damage")
    told: list[tuple[float, str]] = []
    location = f"gs://{cloud_folders}/data/x/data.parquet"
    with local_file(location, lambda *step: told.append(step)) as path:
        assert path.read_bytes() == content
    assert not path.exists()
    assert told[-1] == (1.0, "1 of 1 MB")


def test_a_data_set_in_the_bucket_can_become_history(
    cloud_folders: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(text(line(1), line(2)))
    dataset_import(name="some", files=[path])
    call_command("backfill_history", "some")
    assert "“some” is history: 2 transactions" in capsys.readouterr().out
