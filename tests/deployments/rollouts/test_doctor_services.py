"""`manage.py doctor --cloud` looks at the services that were deployed."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from deployments.gcp import run_services
from deployments.gcp.services import ServiceName, Traffic
from tests.google.runs import PROJECT, REGION

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("sqlite" in os.environ["DATABASE_URL"], reason="a rollout is refused there"),
]
ENGINE = ServiceName(PROJECT, REGION, "engine")


@pytest.fixture(autouse=True)
def place(cloud: Any, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.GOOGLE_CLOUD_PROJECT, settings.GOOGLE_CLOUD_REGION = PROJECT, REGION
    settings.BUCKET_NAME = settings.ARTIFACTS_DIR.removeprefix("gs://").partition("/")[0]
    monkeypatch.setattr("training.doctor.here.WORKER_SECONDS", 0.02)
    # What a set-up sees to has tests of its own.
    monkeypatch.setattr("training.doctor.cloud._steps", lambda names: [])


def service() -> dict[str, str]:
    """What is found about the service “engine”, or about there being none."""
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("doctor", "--cloud", "--json", "--url", "http://127.0.0.1:9", stdout=out)
    found: list[dict[str, str]] = json.loads(out.getvalue())
    return next(each for each in found if each["name"].startswith("service"))


def test_a_service_that_decides_is_well(cloud: Any) -> None:
    assert "none was deployed from here" in service()["words"]
    cloud.deploy("1.0.0")
    found = service()
    assert found["state"] == "ok", found
    assert "decides" in found["words"]
    assert "v1.0.0" in found["words"]


def test_a_service_that_is_gone_is_deployed_again_by_the_advice(cloud: Any) -> None:
    cloud.deploy("1.0.0")
    run_services.service_delete(ENGINE)
    found = service()
    assert found["words"] == "there is none of that name"
    command = f"manage.py deploy_ml_engine {PROJECT} engine {REGION} 1.0.0"
    assert found["advice"] == f"Deploy it: {command}"
    cloud.deploy("1.0.0")
    assert service()["state"] == "ok"


def test_traffic_that_somebody_moved_is_told(cloud: Any) -> None:
    first = cloud.deploy("1.0.0")
    cloud.deploy("1.1.0")
    run_services.traffic_set(ENGINE, [Traffic(first.revision, 100, first.tag)])
    found = service()
    assert "has 0 % of the traffic; 100 % were given" in found["words"]
    assert "manage.py services status engine" in found["advice"]
