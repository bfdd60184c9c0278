"""Every call of the plan, against the descriptions of Google's APIs in its SDK."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from deployments.gcp.builds import build_step, source
from deployments.gcp.control_plane import program_steps
from deployments.gcp.grants import Names
from deployments.gcp.rest import Request, send
from deployments.gcp.setup import calls
from deployments.standing import Size
from tests.google.server import GoogleServer
from tests.training.provisioning.conftest import PLACE
from training.provisioning import setup_steps

NAMES = Names(
    "test-project", "europe-west1", "test-project-ml-data", "sentinelle-training",
    vm="ml-training-vm", zone="us-central1-a", database="sentinelle",
)  # fmt: skip


def sdk() -> Path | None:
    gcloud = shutil.which("gcloud")
    root = Path(gcloud).resolve().parent.parent if gcloud else Path()
    return root if (root / "lib/googlecloudsdk/generated_clients").is_dir() else None


def faults(requests: list[Request]) -> list[str]:
    written = [{"method": r.method, "api": r.api, "path": r.path, "body": r.body} for r in requests]
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("sdk_check.py"), str(sdk())],
        # An etag is base64 at Google.
        input=re.sub(r"\(as it is read\)|etag-\d+", "ACAB", json.dumps(written)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr == ""
    return run.stdout.splitlines()


@pytest.mark.skipif(sdk() is None, reason="Google's SDK is not installed here")
def test_every_call_is_one_of_googles_with_fields_that_it_knows() -> None:
    steps = [
        *setup_steps(NAMES, version="1.0.0"),
        build_step(NAMES, source()),
        *program_steps(NAMES, Size(), "example.com/image:1"),
    ]
    requests = [request for _, request in calls(steps)]
    assert len(requests) > 70
    assert faults(requests) == []


@pytest.mark.skipif(sdk() is None, reason="Google's SDK is not installed here")
def test_the_check_finds_what_is_wrong() -> None:
    bucket = {"name": "b", "lifecycle": {"rule": [{"condition": {"ageInDays": 3}}]}}
    found = faults([
        Request("POST", "storage", "storage/v1/b?project=p", bucket),
        Request("POST", "storage", "storage/v1/b?projet=p", {}),
        Request("POST", "secretmanager", "v1/projects/p/secrets/s:addValue", {}),
    ])  # fmt: skip
    assert [fault.partition(": ")[2] for fault in found] == [
        "ConditionValue has no field lifecycle.rule.condition.ageInDays",
        "the method takes no projet",
        "the API has no such method",
    ]


@pytest.mark.skipif(sdk() is None, reason="Google's SDK is not installed here")
def test_every_call_of_a_teardown_is_one_of_googles(
    made: list[str], google: GoogleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Request] = []

    def recorded(request: Request, what: str) -> dict[str, Any]:
        requests.append(request)
        return send(request, what)

    for module in ("teardown", "buckets", "rest"):
        monkeypatch.setattr(f"deployments.gcp.{module}.send", recorded)
    call_command("teardown", *PLACE, "--yes", stdout=io.StringIO(), stderr=io.StringIO())
    assert len([request for request in requests if request.method == "DELETE"]) > 15
    assert faults([request for request in requests if "%2F" not in request.path]) == []
