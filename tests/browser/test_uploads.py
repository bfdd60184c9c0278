"""A person uploads a file in the admin and trains on what it became."""

import threading
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from playwright.sync_api import Page, expect

from sentinelle.storages import storages
from tests.browser.test_registry import picture
from tests.training.datasets.support import line, text
from training import uploads
from training.models import DatasetUpload

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _storage(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DATA_DIR = str(tmp_path / "data")
    settings.STORAGES = storages("", tmp_path / "uploads")
    monkeypatch.setattr(uploads, "send_task", lambda *_, **__: None)


def work() -> None:
    """What a worker does, in a thread: the browser holds this one's event loop."""
    (pk,) = DatasetUpload.objects.filter(state="queued").values_list("pk", flat=True)

    def run() -> None:
        uploads.upload_import(pk, worker="w", now=timezone.now())
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_upload_a_file_mend_it_and_follow_it_to_the_data_set(operator: Page, tmp_path: Path):
    page, file = operator, tmp_path / "january.csv"
    file.write_bytes(text(line(1), line(2, amount="x"), line(3, is_fraud="true")))
    page.goto("/admin/training/dataset/")
    page.get_by_role("link", name="Upload a data set").click()
    page.get_by_label("Name").fill("january")
    page.get_by_label("File:", exact=True).set_input_files(file)
    picture(page, "upload-form")
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_text("It waits for a worker.")).to_be_visible()

    work()
    # Without a reload by hand.
    expect(page.get_by_text("1 bad row, so nothing was imported")).to_be_visible()
    expect(page.get_by_text("january.csv, line 3: amount: not a finite number")).to_be_visible()
    picture(page, "upload-failed")
    page.get_by_role("button", name="Try again without the bad rows").click()
    expect(page.get_by_text("It waits for a worker.")).to_be_visible()

    work()
    expect(page.get_by_text("has 2 transactions, 1 of them fraud")).to_be_visible()
    expect(page.get_by_role("row", name="1 amount: not a finite number")).to_be_visible()
    picture(page, "upload-succeeded")
    page.get_by_role("link", name="The data set “january”").click()
    picture(page, "upload-dataset")
    with page.expect_download() as download:
        page.get_by_role("link", name="rejects.csv").click()
    assert download.value.suggested_filename == "january-rejects.csv"
