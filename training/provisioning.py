"""A Google Cloud project that Sentinelle trains in: everything that is set up there, and the data
sets that are put there."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from deployments.gcp import machines
from deployments.gcp.builds import build_step, image_name, source, source_upload
from deployments.gcp.control_data import data_steps
from deployments.gcp.grants import ARTIFACTS, DATA, TRAINING, Names
from deployments.gcp.rest import Body, Hidden, Request
from deployments.gcp.run_jobs import JobSpec
from deployments.gcp.setup import Change, Step, as_json, job_steps, plan
from deployments.standing import Size
from engine.errors import InvalidDataset, RunRefused
from engine.store import open_store
from training.launchers.resources import JOB_SIZE, VmResources, describe_resources, resources_for
from training.machines import attributes
from training.models import Dataset

UPLOADS = f"{DATA}/processed"
SAMPLE_IMAGE = "us-docker.pkg.dev/cloudrun/container/job:latest"
"""Google's own, for a job that is made before its image is built: roles are given on the job."""

Progress = Callable[[str, float, str], None]


class Upload(NamedTuple):
    """One file of data sets and its name in the bucket."""

    path: Path
    name: str
    size: int


def setup_steps(
    names: Names, image: str = "", version: str = "", keep: Size | None = None
) -> list[Step]:
    """Every step from an empty project to a job that can be executed; with `names.database`, also
    where a control plane keeps things.

    Args:
        image: the job's; one that is there keeps its own without it.
        version: the job's VERSION; each run gives its own.
        keep: the size of what a control plane keeps things in.
    """
    env = {
        "DATA_DIR": f"gs://{names.bucket}/{DATA}",
        "ARTIFACTS_DIR": f"gs://{names.bucket}/{ARTIFACTS}",
        "BUCKET_NAME": names.bucket,
    }
    if version:
        env["VERSION"] = version
    wanted = JobSpec(image=image or None, service_account=names.account(TRAINING), env=env)
    place = {"project": names.project, "region": names.region, "job": names.job}
    size = resources_for("cloud-run", place)
    new = wanted._replace(
        image=image or SAMPLE_IMAGE, **{name: getattr(size, name) for name in JOB_SIZE}
    )
    machine = [machine_step(names)] if names.vm else []
    data = data_steps(names, keep or Size()) if names.database else []
    return [*plan(names), *machine, *data, *job_steps(names, wanted, new)]


def machine_step(names: Names) -> Step:
    """The training machine. It boots once and, having no run, switches itself off."""
    place = {"project": names.project, "zone": names.zone, "machine": names.vm}
    size = resources_for("vm", place)
    assert isinstance(size, VmResources)
    path = f"compute/v1/projects/{names.project}/zones/{names.zone}"

    def fix(found: Body | None) -> Change | None:
        if found is not None:
            return None
        message = machines.new_instance(
            machines.Place(names.project, names.zone, names.vm),
            machine_type=size.machine_type,
            disk_gb=size.disk_gb,
            max_run_s=size.max_run_s,
            metadata=attributes(size.max_run_s),
            service_account=names.account(TRAINING),
        )
        body = as_json(message)
        for item in body["metadata"]["items"]:
            if item["key"] == "startup-script":
                item["value"] = Hidden(item["value"], "(training/launchers/startup.sh)")
        request = Request("POST", "compute", f"{path}/instances", body, f"{path}/operations")
        return Change("created", request)

    look = Request("GET", "compute", f"{path}/instances/{names.vm}")
    why = f"{describe_resources(size)}; without a run it switches itself off"
    return Step(f"machine {names.vm}", why, look, fix)


def image_step(names: Names) -> tuple[str, Step]:
    """The image of this source, and the step that builds it unless it is there."""
    made_of = source()
    return image_name(names, made_of), build_step(names, made_of)


def upload_source(names: Names) -> None:
    """Put what the image is made of into the bucket. Raises StoreUnavailable."""
    source_upload(names, source())


def files_to_upload(paths: Sequence[Path]) -> list[Upload]:
    """The files, and those of the folders: CSV, also gzipped, and Parquet.

    Raises InvalidDataset: something is not there, nothing fits, or two have the same name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        for file in _files(path):
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            if name in found:
                raise InvalidDataset(
                    f"{found[name]} and {file} would both be {name} in the bucket: rename one."
                )
            found[name] = file
    return [Upload(path, name, path.stat().st_size) for name, path in sorted(found.items())]


def upload_files(bucket: str, uploads: Sequence[Upload], progress: Progress) -> int:
    """Put the files into the bucket but those that are there with the same content; how many were
    sent. One that was interrupted is sent anew, those before it are not.

    Raises StoreUnavailable.
    """
    store = open_store(f"gs://{bucket}/{UPLOADS}")
    whole = sum(upload.size for upload in uploads) or 1
    done, sent = 0, 0
    for upload in uploads:
        progress(f"Comparing {upload.name}", done / whole, "")
        if not store.holds(upload.name, upload.path):
            store.upload(upload.name, upload.path, progress=_shown(upload, done, whole, progress))
            sent += 1
        done += upload.size
    progress("Uploaded", 1.0, "")
    return sent


def dataset_to_train_on(name: str | None) -> str:
    """The data set of that name, or the newest one. Raises RunRefused when there is none."""
    if name is not None:
        return name
    newest = Dataset.objects.filter(model=None).first()
    if newest is None:
        raise RunRefused("There is no data set yet. Import one: manage.py import_dataset NAME FILE")
    return newest.name


def bucket_of_settings(names: Names) -> None:
    """Raises RunRefused unless the servers' own settings say the bucket of this project."""
    if names.bucket != settings.BUCKET_NAME:
        found = settings.BUCKET_NAME or "not set"
        raise RunRefused(
            f"BUCKET_NAME is {found}; expected {names.bucket}, where the job reads and writes."
        )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InvalidDataset(f"There is no {path}.")
    kinds = (".csv", ".csv.gz", ".parquet")
    found = [file for file in sorted(path.rglob("*")) if file.name.lower().endswith(kinds)]
    if not found:
        raise InvalidDataset(f"There is no CSV or Parquet file in {path}.")
    return found


def _shown(
    upload: Upload, before: int, whole: int, progress: Progress
) -> Callable[[int, int], None]:
    def show(done: int, _size: int) -> None:
        megabytes = f"{(before + done) / 1e6:,.0f} of {whole / 1e6:,.0f} MB"
        progress(f"Uploading {upload.name}", (before + done) / whole, megabytes)

    return show
