"""From an empty project and a folder of CSV to a job, and a run of it."""

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from deployments.gcp.builds import source
from engine.store import open_store
from tests.google.run import RunApi
from tests.google.server import GoogleServer
from tests.google.setup import ProjectApi
from training.models import Dataset, TrainingRun

PLACES = ["test-project", "sentinelle-training", "europe-west1", "1.0.0"]
JOB = "projects/test-project/locations/europe-west1/jobs/sentinelle-training"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two files like those of the seeds."""
    folder = tmp_path / "processed"
    (folder / "2025").mkdir(parents=True)
    (folder / "train.csv").write_bytes(b"transaction_id,amount\n" + b"t1,1.0\n" * 20_000)
    (folder / "2025" / "test.csv").write_bytes(b"transaction_id,amount\nt2,2.0\n")
    (folder / "notes.txt").write_text("not data")
    return folder


def deploy(bucket: str, *options: str) -> str:
    out = io.StringIO()
    call_command(
        "deploy_training_job",
        *PLACES,
        "--bucket",
        bucket,
        "--yes",
        *options,
        stdout=out,
        stderr=out,
    )
    return out.getvalue()


def variables(run: RunApi) -> dict[str, str]:
    return {item.name: item.value for item in run.jobs[JOB].template.template.containers[0].env}


def test_from_nothing_to_a_job_with_its_image_and_its_data(
    google: GoogleServer, project: ProjectApi, run: RunApi, bucket: str, data: Path
) -> None:
    text = deploy(bucket, "--data", str(data))
    box = run.jobs[JOB].template.template.containers[0]
    tag = source().digest[:12]
    assert box.image == f"europe-west1-docker.pkg.dev/test-project/sentinelle/sentinelle:{tag}"
    assert list(box.command) == ["python", "-m", "training.pipeline.job"]
    assert variables(run) == {
        "DATA_DIR": f"gs://{bucket}/data", "ARTIFACTS_DIR": f"gs://{bucket}/artifacts",
        "BUCKET_NAME": bucket, "VERSION": "1.0.0",
    }  # fmt: skip
    uploaded = open_store(f"gs://{bucket}/data/processed")
    assert uploaded.list() == ["2025/test.csv", "train.csv"]
    assert uploaded.read("train.csv") == (data / "train.csv").read_bytes()
    assert "2 files uploaded, 0 were there already" in text
    assert f"TRAINING_IMAGE={box.image}" in text


def test_the_build_gets_the_source(
    google: GoogleServer, project: ProjectApi, bucket: str, tmp_path: Path
) -> None:
    deploy(bucket)
    (build,) = project.builds
    where = build["source"]["storageSource"]
    assert where["bucket"] == bucket
    archive = open_store(f"gs://{bucket}").read(where["object"])
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        names = files.getnames()
    assert {"Dockerfile", "manage.py", "training/pipeline/job.py"} <= set(names)
    assert build["images"][0] in build["steps"][0]["args"]
    assert build["serviceAccount"].endswith("sentinelle-build@test-project.iam.gserviceaccount.com")


def test_a_second_time_nothing_is_sent_again(
    google: GoogleServer, project: ProjectApi, bucket: str, data: Path, gcs: Any
) -> None:
    deploy(bucket, "--data", str(data))
    (data / "2025" / "test.csv").write_bytes(b"transaction_id,amount\nt3,3.0\n")
    before = len(gcs.calls)
    text = deploy(bucket, "--data", str(data))
    assert "1 files uploaded, 1 were there already" in text
    assert len(project.builds) == 1
    uploads = [call for call in gcs.calls[before:] if call.startswith("POST /upload")]
    assert len(uploads) == 1


def test_an_upload_that_broke_off_goes_on_with_what_is_missing(
    google: GoogleServer, bucket: str, data: Path, gcs: Any
) -> None:
    deploy(bucket, "--data", str(data))
    (data / "valid.csv").write_bytes(b"transaction_id,amount\n")
    gcs.fault("POST /upload/", "PERMISSION_DENIED")
    with pytest.raises(CommandError, match=r"/data/processed/valid\.csv was refused"):
        deploy(bucket, "--data", str(data))
    assert "1 files uploaded, 2 were there already" in deploy(bucket, "--data", str(data))


def test_a_new_version_changes_the_job_and_keeps_its_size(
    google: GoogleServer, run: RunApi, bucket: str
) -> None:
    deploy(bucket, "--image", "example.com/other:1")
    run.jobs[JOB].template.template.containers[0].resources.limits["cpu"] = "4"
    out = io.StringIO()
    places = [*PLACES[:3], "1.1.0"]
    options = ["--bucket", bucket, "--image", "example.com/other:2", "--yes"]
    call_command("deploy_training_job", *places, *options, stdout=out)
    assert variables(run)["VERSION"] == "1.1.0"
    box = run.jobs[JOB].template.template.containers[0]
    assert (box.image, box.resources.limits["cpu"]) == ("example.com/other:2", "4")
    assert "changed: image example.com/other:2, env VERSION 1.1.0" in out.getvalue()


def test_no_secret_is_in_the_job(
    google: GoogleServer, project: ProjectApi, run: RunApi, bucket: str
) -> None:
    text = deploy(bucket)
    values = [value for values in project.values.values() for value in values]
    described = str(run.jobs[JOB]) + text
    assert values
    assert not any(value in described for value in values)


def test_a_build_that_fails_is_told_and_the_job_is_left(
    google: GoogleServer, project: ProjectApi, run: RunApi, bucket: str
) -> None:
    project.build_fails = "Build failed: step 0 exited with 1"
    with pytest.raises(CommandError, match="step 0 exited with 1"):
        deploy(bucket)
    assert run.jobs == {}
    project.build_fails = ""
    deploy(bucket)
    assert [*run.jobs] == [JOB]


def test_a_dry_run_names_calls_files_and_sizes(google: GoogleServer, data: Path) -> None:
    out = io.StringIO()
    call_command("deploy_training_job", *PLACES, "--data", str(data), "--dry-run", stdout=out)
    assert google.calls == []
    text = out.getvalue()
    assert f"upload {data / 'train.csv'} 0.1 MB" in text
    order = ["services:batchEnable", "upload ", "/builds\n", "jobs?jobId=sentinelle-training"]
    found = [text.index(words) for words in order]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda folder: [folder / "missing"], "There is no"),
        (lambda folder: [folder], "There is no CSV or Parquet file in"),
    ],
    ids=["missing", "empty"],
)
def test_what_can_not_be_uploaded_is_told_before_anything_is_done(
    make: Any, wanted: str, google: GoogleServer, tmp_path: Path
) -> None:
    paths = [str(path) for path in make(tmp_path)]
    with pytest.raises(CommandError, match=wanted):
        deploy("test-bucket", "--data", *paths)
    assert google.calls == []


def test_two_files_of_one_name_are_refused(google: GoogleServer, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.csv").write_text("x")
    with pytest.raises(CommandError, match=r"would both be x\.csv"):
        deploy("test-bucket", "--data", str(tmp_path / "a/x.csv"), str(tmp_path / "b/x.csv"))


@pytest.mark.parametrize("command", ["deploy_training_job", "run_training"])
@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "newest"])
def test_a_version_that_is_none_is_wrong_usage(command: str, version: str) -> None:
    with pytest.raises(CommandError, match=f"version: “{version}” is not a semantic") as refused:
        call_command(command, *PLACES[:3], version)
    assert refused.value.returncode == 2


@pytest.mark.django_db
def test_run_training_makes_a_run_on_the_newest_data_set(settings: Any, cloud_folders: str) -> None:
    settings.GOOGLE_CLOUD_PROJECT = "test-project"
    for name in ("older", "newer"):
        Dataset.objects.create(
            name=name, location=name, preset="canonical", fingerprint="f" * 64, rows=1000, frauds=10
        )
    out = io.StringIO()
    call_command("run_training", *PLACES, "--bucket", cloud_folders, stdout=out)
    run = TrainingRun.objects.get()
    assert (run.launcher, run.version, run.dataset.name) == ("cloud-run", "1.0.0", "newer")
    assert (run.resources["job"], run.resources["region"]) == (PLACES[1], PLACES[2])
    assert re.search(rf"Run {run.pk}: fraud v1.0.0 on “newer”", out.getvalue())


@pytest.mark.django_db
def test_run_training_refuses_another_bucket_and_no_data(settings: Any) -> None:
    settings.BUCKET_NAME = ""
    with pytest.raises(CommandError, match="BUCKET_NAME is not set; expected test-project-ml-data"):
        call_command("run_training", *PLACES, "--bucket", "test-project-ml-data")
    settings.BUCKET_NAME = "test-project-ml-data"
    with pytest.raises(CommandError, match="There is no data set yet"):
        call_command("run_training", *PLACES)
