"""A web process pays for no library of Google's, whatever pages it has shown."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments import services
from scoring.live_model import live_model
from tests import bundles
from tests.scoring.requests import request
from tests.scoring.server import ROOT, database_url
from tests.training.support import make_dataset, make_run
from training.models import TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)

PROGRAM = """
import io, json, sys
from sentinelle.wsgi import application
asked = json.load(sys.stdin)
statuses = []
for method, path, headers, body in asked:
    environ = {
        "REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body.encode()),
        "SERVER_NAME": "localhost", "SERVER_PORT": "80", "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr, "REMOTE_ADDR": "127.0.0.1", **headers,
    }
    answer = application(environ, lambda line, headers: statuses.append(line[:3]))
    b"".join(answer)
print(json.dumps([statuses, sorted(name for name in sys.modules if name.startswith("google"))]))
"""
VIEWS = (
    "training_trainingrun_changelist", "training_trainingrun_add", "training_trainingrun_costs",
    "training_retrainingschedule_changelist", "training_dataset_changelist",
    "deployments_modelversion_changelist", "deployments_deployment_changelist",
    "deployments_deployment_add", "deployments_cloudservice_changelist",
)  # fmt: skip


@pytest.fixture
def _site(transactional_db: None, settings: Any, tmp_path: Any) -> None:
    settings.ARTIFACTS_DIR = str(tmp_path / "artifacts")
    bundles.seed_registry()
    live_model.forget()
    bundles.register("1.0.0")
    bundles.promote("1.0.0")


def runs_elsewhere() -> list[str]:
    """A run on each of Google's places, going on."""
    make_dataset()
    job = "projects/shop/locations/europe-west1/jobs/sentinelle-training/executions/x-1"
    machine = "projects/shop/zones/us-central1-a/instances/ml?run=r&folder=f"
    made = []
    for version, launcher, handle, resources in (
        ("2.0.0", "cloud-run", job, {"region": "europe-west1", "job": "sentinelle-training"}),
        ("2.1.0", "vm", machine, {"zone": "us-central1-a", "machine": "ml"}),
    ):
        run = make_run(version)
        TrainingRun.objects.filter(pk=run.pk).update(
            launcher=launcher,
            handle=handle,
            resources={"project": "shop", **resources},
            state="running",
            started_at=timezone.now(),
        )
        made.append(str(run.pk))
    return made


@pytest.mark.usefixtures("_site")
def test_no_client_of_google_is_loaded_by_a_decision_and_the_pages_of_the_admin() -> None:
    _, key = services.api_key_create(name="s", scopes=["score"], created_by="test")
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    session = {"HTTP_COOKIE": f"sessionid={client.cookies['sessionid'].value}"}
    asked = [["POST", "/score", {"HTTP_AUTHORIZATION": f"Api-Key {key}"}, json.dumps(request())]]
    asked += [["GET", reverse(f"admin:{view}"), session, ""] for view in VIEWS]
    _, key = services.api_key_create(name="t", scopes=["train"], created_by="test")
    for run in runs_elsewhere():
        asked.append(["GET", reverse("admin:training_trainingrun_change", args=[run]), session, ""])
        allowed = {"HTTP_AUTHORIZATION": f"Api-Key {key}"}
        asked.append(["GET", f"/training-runs/{run}/log", allowed, ""])
    environment = {
        "DATABASE_URL": database_url(),
        "ARTIFACTS_DIR": settings.ARTIFACTS_DIR,
        "GOOGLE_CLOUD_PROJECT": "shop",
    }
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(asked).encode(),
        capture_output=True,
        cwd=ROOT,
        env=os.environ | environment,
    )
    assert process.returncode == 0, process.stderr.decode()
    statuses, modules = json.loads(process.stdout)
    assert statuses == ["200"] * len(asked), process.stderr.decode()
    # Two names without anything in them: a package of the tests makes them at every start.
    assert set(modules) <= {"google", "google.cloud"}
