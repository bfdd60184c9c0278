"""Data sets that are uploaded in the admin, on a folder and on a bucket."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from engine.store import open_store
from sentinelle.storages import storages
from tests.bundles import seed_registry
from tests.classifiers import register_model
from tests.engine.classifiers import CHURN
from tests.google.gcs import CloudStorage
from tests.training.datasets.support import line, text
from training import uploads
from training.models import Dataset, DatasetUpload, UploadState

# The worker's lease is kept by a thread with a connection of its own.
pytestmark = pytest.mark.django_db(transaction=True)
GOOD = text(line(1), line(2), line(3, is_fraud="true"))
BAD = text(line(1), line(2, amount="x"))
ROWS = b"age,paid,plan,opened_mail,left\n30,1,free,true,yes\n41,2,,,no\n"
ADD = "/admin/training/datasetupload/add/"


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, settings: Any, tmp_path: Path) -> str:
    """Where the storage and the data sets are."""
    settings.DATA_DIR, bucket = str(tmp_path / "data"), ""
    if request.param == "bucket":
        bucket = request.getfixturevalue("cloud_folders")
    settings.STORAGES = storages(bucket, tmp_path / "uploads")
    return f"gs://{bucket}/uploads" if bucket else str(tmp_path / "uploads")


@pytest.fixture(autouse=True)
def messages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The uploads that a worker was told of; no worker runs."""
    sent: list[int] = []
    monkeypatch.setattr(uploads, "send_task", lambda _, upload_id, **__: sent.append(upload_id))
    monkeypatch.setattr(uploads, "BEAT_SECONDS", 0.02)
    return sent


def send(name: str = "sales", content: bytes = GOOD, **changes: Any) -> DatasetUpload:
    file = SimpleUploadedFile(changes.pop("file_name", "sales.csv"), content)
    return uploads.upload_create(name=name, file=file, requested_by="ana", **changes)


def work(upload: DatasetUpload) -> DatasetUpload:
    uploads.upload_import(upload.pk, worker="w", now=timezone.now())
    upload.refresh_from_db()
    return upload


def files(place: str) -> list[str]:
    return open_store(place).list()


def test_rows_of_a_classifier_are_uploaded_too(place: str, admin_client: Client) -> None:
    seed_registry()
    register_model(CHURN)
    file = SimpleUploadedFile("rows.csv", ROWS)
    asked = {"name": "customers", "model": "churn", "preset": "canonical", "on_bad_rows": "stop"}
    refused = admin_client.post(ADD, {**asked, "file": file, "start": "2026-01-01"})
    assert b"are those of its definition: leave this empty" in refused.content
    file.seek(0)
    answer = admin_client.post(ADD, {**asked, "file": file})
    upload = work(DatasetUpload.objects.get())
    assert upload.state == UploadState.SUCCEEDED, upload.error
    assert upload.dataset is not None
    assert upload.dataset.model is not None
    assert (upload.dataset.model.name, upload.dataset.rows) == ("churn", 2)
    assert files(place) == []
    assert b"2 rows of churn" in admin_client.get(answer["Location"]).content


def test_an_uploaded_file_becomes_a_data_set_and_goes(place: str, messages: list[int]) -> None:
    upload = send()
    assert messages == [upload.pk]
    (kept,) = files(place)
    assert kept.startswith("datasets/")
    assert kept.endswith("-sales.csv")
    assert work(upload).state == UploadState.SUCCEEDED
    assert upload.dataset == Dataset.objects.get(name="sales", rows=3, frauds=1)
    assert upload.dataset.summary["files"] == ["sales.csv"]
    assert (upload.file.name, files(place)) == ("", [])
    work(upload)
    assert Dataset.objects.count() == 1


def test_a_bad_file_is_told_and_tried_again_without_its_bad_rows(place: str) -> None:
    upload = work(send(content=BAD))
    assert upload.state == UploadState.FAILED
    assert "1 bad row, so nothing was imported (amount: not a finite number" in upload.error
    assert "sales.csv, line 3" in upload.error
    assert "--on-bad-rows" not in upload.error
    assert len(files(place)) == 1
    uploads.upload_retry(upload, on_bad_rows="skip", now=timezone.now())
    assert work(upload).state == UploadState.SUCCEEDED
    assert (upload.error, upload.dataset.rejected) == ("", 1)


def test_a_mapping_file_counts_instead_of_the_preset(place: str) -> None:
    mapping = (Path(__file__).parent / "data" / "card.toml").read_text()
    upload = work(send(mapping=mapping, file_name="mapping.toml"))
    assert upload.state == UploadState.FAILED
    assert "mapping.toml" in upload.error  # the columns are not those of a card file


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"name": "no spaces"}, "name", "Use lower-case letters"),
        ({"content": b""}, "file", "The file is empty"),
        ({"content": b"x" * 1_000_001}, "file", "at most 1 are taken"),
        ({"on_bad_rows": "maybe"}, "on_bad_rows", "not a valid choice"),
    ],
    ids=["name", "empty", "large", "choice"],
)
def test_what_can_t_be_imported_is_not_kept(
    place: str, settings: Any, changes: dict[str, Any], field: str, said: str
) -> None:
    settings.UPLOAD_MAX_MB = 1
    with pytest.raises(uploads.InvalidDataset) as refused:
        send(**changes)
    assert [error.field for error in refused.value.errors] == [field]
    assert said in refused.value.errors[0].message
    assert files(place) == []
    assert not DatasetUpload.objects.exists()


def test_a_name_is_used_once(place: str) -> None:
    upload = send()
    with pytest.raises(uploads.InvalidDataset, match="Another file is being imported"):
        send()
    work(upload)
    with pytest.raises(uploads.InvalidDataset, match="already a data set “sales”"):
        send()


def test_a_dead_worker_s_upload_is_taken_up_by_another(
    place: str, messages: list[int], settings: Any
) -> None:
    upload = send()
    begun = timezone.now()
    DatasetUpload.objects.update(
        state=UploadState.RUNNING, claimed_by="dead", lease_until=begun - timedelta(seconds=1)
    )
    assert uploads.uploads_recover(now=begun) == 0  # its message may be on its way
    assert uploads.uploads_recover(now=begun + timedelta(minutes=2)) == 1
    assert messages == [upload.pk, upload.pk]
    assert work(upload).state == UploadState.SUCCEEDED


def test_a_worker_that_holds_its_lease_is_left_alone(place: str) -> None:
    upload = send()
    later = timezone.now() + timedelta(minutes=5)
    DatasetUpload.objects.update(state=UploadState.RUNNING, claimed_by="other", lease_until=later)
    assert work(upload).state == UploadState.RUNNING
    assert uploads.uploads_recover(now=later - timedelta(minutes=1)) == 0
    with pytest.raises(uploads.InvalidDataset, match="A worker imports this file"):
        uploads.upload_delete(upload)


def test_a_worker_that_lost_its_upload_makes_no_data_set(
    place: str, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    upload = send()
    real = uploads.dataset_import

    def stolen(**arguments: Any) -> Any:
        DatasetUpload.objects.update(claimed_by="another")
        return real(**arguments)

    monkeypatch.setattr(uploads, "dataset_import", stolen)
    assert work(upload).state == UploadState.RUNNING
    assert not Dataset.objects.exists()
    assert open_store(settings.DATA_DIR).list() == []


def test_the_lease_is_renewed_while_the_import_takes_its_time(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = send()
    seen: list[tuple[datetime, str, float]] = []
    real = uploads.dataset_import

    def slow(**arguments: Any) -> Any:
        arguments["progress"]("sorting", 0.5)
        for _ in range(100):
            row = DatasetUpload.objects.get()
            seen.append((row.lease_until, row.step, row.fraction))
            if seen[0][0] < row.lease_until and row.step == "sorting":
                break
            time.sleep(0.02)
        return real(**arguments)

    monkeypatch.setattr(uploads, "dataset_import", slow)
    assert work(upload).state == UploadState.SUCCEEDED
    assert seen[-1][0] > seen[0][0]
    assert seen[-1][1:] == ("sorting", 0.5)


def test_a_file_that_kills_its_workers_is_given_up(place: str) -> None:
    upload = send()
    DatasetUpload.objects.update(attempts=uploads.MOST_ATTEMPTS)
    assert work(upload).state == UploadState.FAILED
    assert "died 3 times" in upload.error


def test_two_workers_import_once(place: str) -> None:
    upload = send()
    start = threading.Barrier(2)

    def attempt() -> None:
        start.wait()
        uploads.upload_import(upload.pk, worker="w", now=timezone.now())
        uploads.connection.close()

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    upload.refresh_from_db()
    assert (upload.state, upload.attempts) == (UploadState.SUCCEEDED, 1)
    assert Dataset.objects.count() == 1


def test_a_deleted_upload_takes_its_file_along(place: str) -> None:
    upload = work(send(content=BAD))
    uploads.upload_delete(upload)
    assert files(place) == []
    assert not DatasetUpload.objects.exists()


# --- pages ---


@pytest.fixture
def ana(django_user_model: Any, client: Client, settings: Any) -> Client:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    client.force_login(django_user_model.objects.create_superuser("ana"))
    return client


@pytest.fixture
def staff(django_user_model: Any, client: Client) -> Callable[..., Client]:
    def with_permissions(*names: str) -> Client:
        user = django_user_model.objects.create_user("bob", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        client.force_login(user)
        return client

    return with_permissions


def form(content: bytes = GOOD, **changes: Any) -> dict[str, Any]:
    file = SimpleUploadedFile("sales.csv", content)
    return {"name": "sales", "file": file, "preset": "canonical", "on_bad_rows": "stop"} | changes


def test_the_page_uploads_follows_and_leads_to_the_data_set(place: str, ana: Client) -> None:
    page = ana.get(ADD).content.decode()
    assert "at most 500 MB" in page
    assert '<option value="canonical" selected>' in page
    answer = ana.post(ADD, form(), follow=True)
    upload = DatasetUpload.objects.get()
    assert answer.redirect_chain[-1][0] == f"/admin/training/datasetupload/{upload.pk}/change/"
    assert "It waits for a worker." in answer.content.decode()
    assert upload.requested_by == "ana"
    work(upload)
    page = ana.get(answer.redirect_chain[-1][0]).content.decode()
    assert f"/admin/training/dataset/{upload.dataset.pk}/change/" in page
    assert "3 transactions, 1 of them fraud" in page
    assert "data-refresh" not in page
    assert "sales.csv" in ana.get("/admin/training/datasetupload/").content.decode()


def test_the_page_counts_what_was_left_out(place: str, ana: Client) -> None:
    ana.post(ADD, form(BAD, on_bad_rows="skip"))
    upload = work(DatasetUpload.objects.get())
    address = f"/admin/training/datasetupload/{upload.pk}/change/"
    assert "amount: not a finite number" in ana.get(address).content.decode()


def test_a_failed_upload_is_tried_again_from_its_page(place: str, ana: Client) -> None:
    ana.post(ADD, form(BAD))
    upload = work(DatasetUpload.objects.get())
    address = f"/admin/training/datasetupload/{upload.pk}/change/"
    page = ana.get(address).content.decode()
    assert "so nothing was imported" in page
    assert "Try again without the bad rows" in page
    ana.post(reverse("admin:training_datasetupload_retry", args=[upload.pk]),
             {"on_bad_rows": "skip"})  # fmt: skip
    assert work(upload).state == UploadState.SUCCEEDED


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "no spaces"}, "Use lower-case letters"),
        ({"file": ""}, "This field is required"),
        ({"mapping": b"\xff\xfe"}, "it is not text"),
        ({"start": "yesterday"}, "Enter a valid date"),
        ({"preset": "x"}, "Select a valid choice"),
    ],
    ids=["name", "file", "mapping", "start", "preset"],
)
def test_what_is_wrong_is_said_beside_its_field(
    place: str, ana: Client, changes: dict[str, Any], said: str
) -> None:
    if "mapping" in changes:
        changes = {"mapping": SimpleUploadedFile("m.toml", changes["mapping"])}
    page = ana.post(ADD, form(**changes)).content.decode()
    assert "Nothing was uploaded" in page
    assert said in page
    assert not DatasetUpload.objects.exists()


def test_a_storage_that_does_not_take_the_file_is_told(
    cloud_folders: str, gcs: CloudStorage, settings: Any, ana: Client, tmp_path: Path
) -> None:
    settings.STORAGES = storages(cloud_folders, tmp_path)
    gcs.revoke()
    page = ana.post(ADD, form()).content.decode()
    assert f"Access to the uploads in gs://{cloud_folders} was refused: 403" in page
    assert "roles/storage.objectUser" in page
    assert not DatasetUpload.objects.exists()


def test_a_request_that_is_too_large_is_refused_before_it_is_stored(
    place: str, ana: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []
    handler = "django.core.files.uploadhandler.TemporaryFileUploadHandler.new_file"
    monkeypatch.setattr(handler, lambda *_, **__: stored.append(1))
    settings.UPLOAD_MAX_MB = 1
    file = SimpleUploadedFile("sales.csv", b"x" * 2_600_000)
    assert ana.post(ADD, {"name": "sales", "file": file}).status_code == 400
    assert stored == []
    assert not DatasetUpload.objects.exists()


def test_permissions_are_respected(place: str, staff: Callable[..., Client]) -> None:
    upload = work(send())
    dataset = upload.dataset
    client = staff("view_datasetupload", "view_dataset")
    assert client.get(f"/admin/training/datasetupload/{upload.pk}/change/").status_code == 200
    assert client.get(ADD).status_code == 403
    assert client.post(ADD, form(name="other")).status_code == 403
    assert client.post(f"/admin/training/datasetupload/{upload.pk}/retry/").status_code == 403
    assert client.get(f"/admin/training/dataset/{dataset.pk}/download/data/").status_code == 403
    assert "download/data" not in client.get(
        f"/admin/training/dataset/{dataset.pk}/change/"
    ).content.decode()  # fmt: skip


# --- downloads ---


def body(answer: Any) -> bytes:
    return b"".join(answer.streaming_content)


def test_a_data_set_and_its_rejects_are_downloaded(place: str, ana: Client, settings: Any) -> None:
    dataset = work(send(content=BAD, on_bad_rows="skip")).dataset
    page = ana.get(f"/admin/training/dataset/{dataset.pk}/change/").content.decode()
    for which, name in (("data", "sales.parquet"), ("rejects", "sales-rejects.csv")):
        address = f"/admin/training/dataset/{dataset.pk}/download/{which}/"
        assert address in page
        answer = ana.get(address)
        assert f'filename="{name}"' in answer["Content-Disposition"]
        stored = {"data": "data.parquet", "rejects": "rejects.csv"}[which]
        wanted = open_store(settings.DATA_DIR).read(f"{dataset.location}/{stored}")
        assert body(answer) == wanted
    assert ana.get(f"/admin/training/dataset/{dataset.pk}/download/other/").status_code == 404


def test_a_file_that_is_gone_is_told(place: str, ana: Client, settings: Any) -> None:
    dataset = work(send()).dataset
    open_store(settings.DATA_DIR).delete(f"{dataset.location}/data.parquet")
    answer = ana.get(f"/admin/training/dataset/{dataset.pk}/download/data/", follow=True)
    assert "downloaded now: The data set is not there" in answer.content.decode()


@pytest.fixture
def ended(db: None) -> Iterator[Any]:
    from tests import bundles
    from tests.training.support import make_run
    from training.models import RunState, TrainingRun

    bundles.seed_registry()
    run = make_run("1.0.0")
    TrainingRun.objects.update(
        state=RunState.FAILED, stage="load", error="No rows.", finished_at=datetime.now(UTC)
    )
    return run


def test_a_report_is_kept_in_the_storage(place: str, ana: Client, ended: Any) -> None:
    address = f"/admin/training/trainingrun/{ended.pk}/report/"
    first = ana.get(address)
    assert "No rows." in first.content.decode()
    assert files(place) == [f"reports/{ended.pk}.html"]
    with default_storage.open(f"reports/{ended.pk}.html") as kept:
        assert kept.read() == first.content
    type(ended).objects.update(error="Something else.")
    assert ana.get(address).content == first.content


def test_a_report_is_made_when_the_storage_does_not_answer(
    cloud_folders: str, gcs: CloudStorage, settings: Any, ana: Client, ended: Any, tmp_path: Path
) -> None:
    settings.STORAGES = storages(cloud_folders, tmp_path)
    gcs.revoke()
    answer = ana.get(f"/admin/training/trainingrun/{ended.pk}/report/")
    assert "No rows." in answer.content.decode()
