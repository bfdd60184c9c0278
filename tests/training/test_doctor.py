"""`manage.py doctor`: each planted fault is found, and its advice, followed, mends it."""

import io
import json
import re
import shlex
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from deployments.models import Alias, RegisteredModel
from deployments.tasks import mend_pointers
from engine.champions import pointer_name, read_champion, write_champion
from engine.store import open_store
from tests import bundles, classifiers
from training.doctor import Check, Fault, here, look
from training.doctor.explain import UNKNOWN, explain
from training.models import Dataset, RunState, TrainingRun

pytestmark = pytest.mark.django_db
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def place(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of its own; workers, which no test here starts, are not waited for."""
    for name in ("ARTIFACTS_DIR", "DATA_DIR", "RUNS_DIR"):
        setattr(settings, name, str(tmp_path / name.lower()))
    monkeypatch.setattr("training.doctor.here.WORKER_SECONDS", 0.02)
    bundles.seed_registry()
    return tmp_path


@pytest.fixture
def serving() -> None:
    bundles.register("1.0.0")
    bundles.promote("1.0.0")


def findings(*options: str) -> dict[str, dict[str, str]]:
    """What the doctor finds, by the name of the check."""
    out = io.StringIO()
    with pytest.raises(CommandError, match="are not as they should be"):
        call_command("doctor", "--json", "--url", NOBODY, *options, stdout=out)
    return {each["name"]: each for each in json.loads(out.getvalue())}


def fault(check: str) -> dict[str, str]:
    found = findings()[check]
    assert found["state"] == "fault", found
    return found


def mended(check: str) -> None:
    found = findings()[check]
    assert found["state"] == "ok", found


def follow(advice: str) -> None:
    """Run the command that an advice names."""
    written = re.search(r"manage\.py ([^.]*(?:\.\d[^.]*)*)", advice)
    assert written is not None, advice
    call_command(*shlex.split(re.sub(r"[“”]", '"', written[1])), stdout=io.StringIO())


def test_what_is_right_is_said_and_nothing_is_written(serving: None) -> None:
    before = {name: each for name, each in findings().items() if each["state"] == "ok"}
    assert set(before) >= {
        "settings", "disk", "database", "migrations", "broker", "versions", "model", "rules",
        "data sets", "classifiers",
    }  # fmt: skip
    assert "fraud v1.0.0" in before["model"]["words"]


def test_a_migration_that_is_missing(transactional_db: None) -> None:
    latest = MigrationExecutor(connection).loader.graph.leaf_nodes()
    MigrationExecutor(connection).migrate([("scoring", "0005_control_group")])
    try:
        found = fault("migrations")
        assert "scoring.0006_predictions" in found["words"]
        follow(found["advice"])
        mended("migrations")
    finally:
        MigrationExecutor(connection).migrate(latest)


def test_nobody_has_a_key() -> None:
    found = fault("keys")
    follow(found["advice"])
    mended("keys")


def test_no_version_was_promoted(serving: None) -> None:
    Alias.objects.all().delete()
    bundles.register("1.1.0")
    found = fault("model")
    assert "503" in found["words"]
    follow(found["advice"])
    mended("model")


def test_the_disk_is_nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.doctor.here.LEAST_FREE_BYTES", 10**18)
    assert "MB free" in fault("disk")["words"]
    monkeypatch.undo()
    mended("disk")


def test_no_version_was_trained() -> None:
    assert "manage.py train" in fault("model")["advice"]


def test_a_pinned_version_that_is_not_registered(serving: None, settings: Any) -> None:
    settings.MODEL_VERSION = "9.9.9"
    found = fault("model")
    assert "v9.9.9 is not registered" in found["words"]
    assert "Unset MODEL_VERSION" in found["advice"]
    settings.MODEL_VERSION = "latest"
    mended("model")


def test_files_of_a_version_are_lost(serving: None, place: Path, settings: Any) -> None:
    kept = place / "kept" / "fraud" / "v1.0.0"
    call_command("artifacts", "pull", "fraud", "1.0.0", str(kept), stdout=io.StringIO())
    folder = Path(settings.ARTIFACTS_DIR) / "fraud" / "v1.0.0"
    for file in folder.iterdir():
        file.unlink()
    found = fault("versions")
    assert "fraud v1.0.0 is missing" in found["words"]
    assert fault("model")["words"].endswith("has no manifest.")
    follow(found["advice"].replace("FOLDER", str(kept)).partition(". See")[0])
    mended("versions")
    mended("model")


def test_a_damaged_champion_is_rolled_back(serving: None, settings: Any) -> None:
    bundles.register("1.1.0")
    bundles.promote("1.1.0")
    model = Path(settings.ARTIFACTS_DIR) / "fraud" / "v1.1.0" / "supervised.treelite"
    model.write_bytes(model.read_bytes()[:-1])
    found = fault("model")
    assert "supervised.treelite" in found["words"]
    follow(found["advice"].rpartition("nobody has the files: ")[2])
    mended("model")


def test_the_function_would_serve_another_version(settings: Any) -> None:
    classifiers.register("1.0.0")
    classifiers.promote("1.0.0")
    name = pointer_name("sponsor")
    store = open_store(settings.ARTIFACTS_DIR)
    store.delete(name)
    found = fault("classifiers")
    assert "does not say v1.0.0" in found["words"]
    assert "Wait a minute" in found["advice"]
    mend_pointers()  # as beat does
    mended("classifiers")
    told = read_champion(store, "sponsor")
    later = {"promotion": 10**6, "promoted_at": timezone.now() + timedelta(hours=1)}
    write_champion(store, msgspec.structs.replace(told, manifest_sha256="0" * 64, **later))
    mend_pointers()
    found = fault("classifiers")
    assert "another registry" in found["words"]
    assert f"delete {store.location}/{name}" in found["advice"]
    store.delete(name)
    mend_pointers()
    mended("classifiers")


def test_the_file_of_a_data_set_is_gone(place: Path) -> None:
    file = place / "two.csv"
    call_command("simulate", str(file), "--rows", "2000", stdout=io.StringIO())
    call_command("import_dataset", "two", str(file), stdout=io.StringIO(), stderr=io.StringIO())
    mended("data sets")
    data = Path(Dataset.objects.get().file)
    backup = data.read_bytes()
    data.unlink()
    found = fault("data sets")
    assert str(data) in found["advice"]
    data.write_bytes(backup)
    mended("data sets")


@pytest.mark.parametrize("setting", ["ARTIFACTS_DIR", "DATA_DIR", "RUNS_DIR"])
def test_a_place_that_cannot_be_written(setting: str, place: Path, settings: Any) -> None:
    (place / "file").touch()
    setattr(settings, setting, str(place / "file"))
    found = fault(f"store {setting}")
    assert f"set {setting} to another" in found["advice"]
    setattr(settings, setting, str(place / "folder"))
    mended(f"store {setting}")


def test_the_broker_does_not_answer(settings: Any, place: Path) -> None:
    right = settings.REDIS_URL
    settings.REDIS_URL = f"unix://{place}/nobody.sock"
    found = findings()
    assert found["broker"]["state"] == "fault"
    assert "REDIS_URL" in found["broker"]["advice"]
    assert found["workers"]["state"] == "not looked at"
    settings.REDIS_URL = right
    mended("broker")


def test_an_address_of_the_broker_that_is_none(settings: Any) -> None:
    settings.REDIS_URL = "redis://localhost:no-port/0"
    found = findings()
    assert found["broker"]["advice"] == "Correct REDIS_URL."
    assert "health" in found


def test_what_no_check_knows_ends_no_walk() -> None:
    def strange() -> str:
        raise KeyError("model_version")

    found = list(look([Check("one", strange), Check("two", lambda: "well", ("one",))]))
    assert [each.state for each in found] == ["fault", "not looked at"]
    assert "KeyError: 'model_version'" in found[0].words


@pytest.mark.parametrize("body", [b"[]", b"{}"], ids=["list", "empty"])
def test_another_program_has_the_port(serving: None, body: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(Fault, match="another program"):
            here._health(f"http://127.0.0.1:{server.server_port}")
        thread.join()


def test_a_training_that_failed() -> None:
    model = RegisteredModel.objects.get(name="fraud")
    data = Dataset.objects.create(name="d", location="d", preset="canonical", rows=1)
    run = TrainingRun.objects.create(
        model=model, version="1.0.0", dataset=data, launcher="local", state=RunState.FAILED,
        stage="load", error="The data set is empty.",
    )  # fmt: skip
    found = fault("last training")
    assert "The data set is empty." in found["words"]
    assert f"manage.py runs logs {run.pk}" in found["advice"]


def test_settings_that_are_not_safe(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Which the tests in a browser set, for good.
    monkeypatch.delenv("DJANGO_ALLOW_ASYNC_UNSAFE", raising=False)
    settings.HTTPS = True
    settings.SECRET_KEY = "short"
    assert "security.W009" in fault("settings")["words"]
    settings.SECRET_KEY = "x1Y2z3" * 12
    settings.SECURE_SSL_REDIRECT = settings.SESSION_COOKIE_SECURE = True
    settings.CSRF_COOKIE_SECURE = settings.SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    settings.SECURE_HSTS_PRELOAD, settings.SECURE_HSTS_SECONDS = True, 3600
    mended("settings")


def test_workers_beat_and_server_that_are_not_there(serving: None) -> None:
    found = findings()
    assert "sentinelle and training" in found["workers"]["words"]
    assert "celery --app sentinelle worker --queues training" in found["workers"]["advice"]
    assert found["beat"]["state"] == "not looked at"
    assert NOBODY in found["health"]["words"]
    assert "make run" in found["health"]["advice"]
    assert found["test score"] == {
        "name": "test score", "state": "not looked at", "words": "it needs: health", "advice": "",
    }  # fmt: skip


def test_what_is_found_is_shown_line_by_line(serving: None) -> None:
    out = io.StringIO()
    with pytest.raises(CommandError, match=r"\d of \d+ are not as they should be"):
        call_command("doctor", "--url", NOBODY, stdout=out)
    assert "✓ model: fraud v1.0.0" in out.getvalue()
    assert "✗ health: " in out.getvalue()
    assert "    → Start Sentinelle" in out.getvalue()
    assert "– test score: it needs: health" in out.getvalue()


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("ERROR: (gcloud.run.services.describe) Service not found", "manage.py services list"),
        ("Erreur : Modèle non disponible", "manage.py artifacts list"),
        ('{"code": "NO_MODEL", "status": 503}', "manage.py promote fraud"),
        ("PERMISSION_DENIED: Permission denied", "gcloud projects add-iam-policy-binding"),
        ("403 Permission 'storage.objects.get' denied", "roles/storage.objectAdmin"),
        ("The Job sentinelle-training failed", "manage.py runs logs"),
        ("429 Quota exceeded for total CPU in region", "quotas"),
        ("SERVICE_DISABLED: run.googleapis.com/x has not been used", "gcloud services enable run"),
        ("The user-provided container failed to start and listen on the port", "services logs"),
        ("no such table: scoring_attempt", "manage.py migrate"),
        ("DisallowedHost: Invalid HTTP_HOST header", "ALLOWED_HOSTS"),
        ("the moon is full", UNKNOWN),
    ],
)
def test_errors_that_people_paste_are_explained(error: str, advice: str) -> None:
    assert advice in explain(error)
    out = io.StringIO()
    call_command("doctor", "--explain", error, stdout=out)
    assert advice in out.getvalue()
