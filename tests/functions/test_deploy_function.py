"""`manage.py deploy_function`, against a local Google that builds and runs what it is given."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from django.core.management import CommandError, call_command

from deployments.gcp.errors import CloudError
from deployments.gcp.functions import DEFAULTS, function_source, function_steps
from deployments.gcp.grants import Names
from deployments.gcp.rest import Waits
from deployments.gcp.setup import calls
from engine.store import open_store
from tests.engine.classifiers import INPUTS, promote
from tests.google.functions import FunctionsApi
from tests.google.local import talking_to
from tests.google.server import GoogleServer
from tests.google.setup import ProjectApi
from tests.training.provisioning.test_calls_fit_googles_apis import faults, sdk

NAME = "projects/test-project/locations/europe-west1/functions/sponsor-ai"
SERVICE = NAME.replace("functions", "services")
QUICK = Waits(first=0.001, longest=0.01, retry_for=2.0, operation=5.0)


@pytest.fixture
def project() -> ProjectApi:
    return ProjectApi()


@pytest.fixture
def api(project: ProjectApi, gcs: Any, bucket: str) -> FunctionsApi:
    return FunctionsApi(project, {**gcs.environment(), "CHAMPION_CHECK_SECONDS": "0.1"})


@pytest.fixture
def google(
    api: FunctionsApi, project: ProjectApi, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GoogleServer]:
    server = api.google = GoogleServer(api, project)
    settings.GOOGLE_API_ENDPOINT = server.url
    monkeypatch.setattr("deployments.management.cloud.WAITS", QUICK)
    monkeypatch.setattr("deployments.gcp.functions.SETTLING_SECONDS", 1.0)
    with talking_to(server):
        yield server
    server.close()


def deploy(bucket: str, *options: str, name: str = "sponsor-ai") -> str:
    out = io.StringIO()
    call_command(
        "deploy_function", "test-project", name, "europe-west1", "--bucket", bucket, "--yes",
        *options, stdout=out, stderr=out, no_color=True,
    )  # fmt: skip
    return out.getvalue()


def changed(text: str) -> list[str]:
    """What the steps say that changed something."""
    return [line for line in text.splitlines() if "changed: " in line or ": created" in line]


def test_from_an_empty_project_to_an_answer_and_then_step_by_step(
    google: GoogleServer, api: FunctionsApi, project: ProjectApi, bucket: str
) -> None:
    """One deployment after the other, as an operator makes them."""
    promote(open_store(f"gs://{bucket}/artifacts"))
    text = deploy(bucket)
    found = api.functions[NAME]
    url = found["url"]
    assert f"URL: {url}" in text
    assert "v1.0.0 of sponsor serves." in text
    assert "cloudfunctions.googleapis.com" in project.apis
    config = found["serviceConfig"]
    account = "sentinelle-function@test-project.iam.gserviceaccount.com"
    assert config["serviceAccountEmail"] == account
    assert (config["availableMemory"], config["timeoutSeconds"]) == ("512Mi", 540)
    assert config["maxInstanceCount"] == 10
    assert config["environmentVariables"] == {
        "BUCKET_NAME": bucket, "MODEL_NAME": "sponsor", "CORS_ALLOWED_ORIGINS": "",
    }  # fmt: skip

    # Closed, unless one shows a token for it; then it answers.
    assert requests.post(url, json=INPUTS, timeout=20).status_code == 403
    token = {"Authorization": f"Bearer {google.identity(url)}"}
    answer = requests.post(url, json=INPUTS, headers=token, timeout=20)
    assert answer.json()["recommended_sponsor"] == "Glace"

    # The same again changes nothing.
    assert changed(deploy(bucket)) == []

    # One thing at a time; what is not named stays, and so does what somebody else has set.
    config["environmentVariables"]["LOG_LEVEL"] = "debug"
    text = deploy(bucket, "--memory", "1Gi", "--origins", "https://shop.example")
    assert changed(text) == [
        "function sponsor-ai: changed: serviceConfig.availableMemory, "
        "serviceConfig.environmentVariables"
    ]
    config = api.functions[NAME]["serviceConfig"]
    assert (config["availableMemory"], config["timeoutSeconds"]) == ("1024Mi", 540)
    assert config["environmentVariables"]["LOG_LEVEL"] == "debug"
    preflight = requests.options(
        url,
        headers={**token, "Origin": "https://shop.example", "Access-Control-Request-Method": "GET"},
        timeout=20,
    )
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://shop.example"

    # Open to everybody when that is said, and closed again when it is not.
    assert "access: everybody may call it" in deploy(bucket, "--allow-unauthenticated")
    assert requests.post(url, json=INPUTS, timeout=20).status_code == 200
    assert "access: nobody may call it without the role" in deploy(bucket)
    assert requests.post(url, json=INPUTS, timeout=20).status_code == 403


def test_the_function_may_read_bundles_and_nothing_else(
    google: GoogleServer, api: FunctionsApi, project: ProjectApi, bucket: str
) -> None:
    promote(open_store(f"gs://{bucket}/artifacts"))
    deploy(bucket)
    member = "serviceAccount:sentinelle-function@test-project.iam.gserviceaccount.com"
    held = [
        (place, bind["role"], bind.get("condition", {}).get("expression", ""))
        for place, policy in project.policies.items()
        for bind in policy.get("bindings", ())
        if member in bind["members"]
    ]
    ((place, role, condition),) = held
    assert place.endswith(f"/b/{bucket}")
    assert role == "roles/storage.objectViewer"
    assert f"projects/_/buckets/{bucket}/objects/artifacts/" in condition
    # Its build reads the copy of the source that Google makes, and our images' repository.
    build = "serviceAccount:sentinelle-build@test-project.iam.gserviceaccount.com"
    assert project.members("/projects/test-project", "roles/storage.objectViewer") == [build]


def test_before_anything_is_promoted_it_says_so(
    google: GoogleServer, api: FunctionsApi, bucket: str
) -> None:
    text = deploy(bucket)
    assert "It serves nothing yet: no version of “sponsor” is promoted" in text
    assert "manage.py promote sponsor VERSION" in text


def test_a_damaged_champion_fails_the_command(
    google: GoogleServer, api: FunctionsApi, bucket: str
) -> None:
    store = open_store(f"gs://{bucket}/artifacts")
    promote(store)
    store.write("sponsor/v1.0.0/definition.toml", b"name = 3")
    with pytest.raises(CommandError, match=r"answers 503: .*definition.toml .* not the one in the"):
        deploy(bucket)


def test_a_role_that_is_not_known_everywhere_yet_is_waited_for(
    google: GoogleServer, api: FunctionsApi, bucket: str, gcs: Any
) -> None:
    promote(open_store(f"gs://{bucket}/artifacts"))
    gcs.fault("GET .*champion.json", "PERMISSION_DENIED", times=2)
    assert "v1.0.0 of sponsor serves." in deploy(bucket)


def test_who_may_not_call_it_is_told(google: GoogleServer, api: FunctionsApi, bucket: str) -> None:
    promote(open_store(f"gs://{bucket}/artifacts"))
    deploy(bucket)
    api.policies[SERVICE]["bindings"] = []
    text = deploy(bucket)
    assert "gcloud run services add-iam-policy-binding sponsor-ai" in text


def test_a_build_that_fails_says_why_and_is_made_again(
    google: GoogleServer, api: FunctionsApi, bucket: str
) -> None:
    promote(open_store(f"gs://{bucket}/artifacts"))
    api.build_fails = "no matching distribution for treelite"
    with pytest.raises(CommandError, match="no matching distribution for treelite"):
        deploy(bucket)
    assert api.functions[NAME]["state"] == "FAILED"
    api.build_fails = ""
    text = deploy(bucket)
    assert changed(text) == ["function sponsor-ai: changed: buildConfig.source"]
    assert "v1.0.0 of sponsor serves." in text


def test_a_function_that_does_not_start_says_why(
    google: GoogleServer, api: FunctionsApi, bucket: str
) -> None:
    api.environment["CHAMPION_CHECK_SECONDS"] = "often"
    with pytest.raises(CommandError, match="expected seconds, such as 30"):
        deploy(bucket)


def test_a_refusal_of_google_is_told(google: GoogleServer, api: FunctionsApi, bucket: str) -> None:
    google.fault("POST .*/functions", "PERMISSION_DENIED", "cloudfunctions.functions.create denied")
    with pytest.raises(CommandError, match=r"cloudfunctions\.functions\.create denied"):
        deploy(bucket)


def test_a_first_generation_function_is_left_alone(
    google: GoogleServer, api: FunctionsApi, bucket: str
) -> None:
    api.functions[NAME] = {"name": NAME, "environment": "GEN_1", "state": "ACTIVE"}
    with pytest.raises(CommandError, match="a function of the 1st generation"):
        deploy(bucket)


@pytest.mark.skipif(sdk() is None, reason="Google's SDK is not installed here")
def test_every_call_is_one_of_googles_with_fields_that_it_knows() -> None:
    names = Names("test-project", "europe-west1", "b", "training", function="sponsor-ai")
    before, (function,) = function_steps(names, DEFAULTS, function_source())
    changes = [function.fix(None), function.fix({"state": "ACTIVE"}), function.fix({"state": "X"})]
    requests = [request for _, request in calls(before)]
    requests += [function.look, *(change.request for change in changes if change)]
    assert {request.method for request in requests[-3:]} == {"POST", "PATCH"}
    assert faults(requests) == []


def test_a_dry_run_calls_nobody_and_prints_every_call(
    google: GoogleServer, api: FunctionsApi, bucket: str
) -> None:
    text = deploy(bucket, "--dry-run", "--model", "churn")
    assert google.calls == []
    assert "functions?functionId=sponsor-ai" in text
    assert '"MODEL_NAME": "churn"' in text
    assert "the function's source, to gs://" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--memory", "128Mi"], "not between 256Mi and 32Gi"),
        (["--memory", "much"], "no amount of memory"),
        (["--timeout", "0"], "no whole number from 1 to 3600"),
        (["--max-instances", "-1"], "no whole number from 1 to 1000"),
        (["--model", "../fraud"], "no name of a classifier"),
        (["--origins", "https://a.example,https://B.example"], "“https://B.example” is no origin"),
        (["--origins", "https://a.example/page"], "no origin such as https://"),
    ],
    ids=["small", "memory", "timeout", "instances", "model", "case", "path"],
)
def test_wrong_options_are_refused(options: list[str], told: str) -> None:
    with pytest.raises(CommandError, match=told):
        call_command("deploy_function", "test-project", "sponsor-ai", "europe-west1", *options)


def test_a_name_that_google_would_not_take_is_refused() -> None:
    with pytest.raises(CommandError, match="The function is “Sponsor”"):
        call_command("deploy_function", "test-project", "Sponsor", "europe-west1", "--yes")


def test_the_archive_has_what_the_function_imports_and_nothing_else() -> None:
    made_of = function_source()
    with zipfile.ZipFile(io.BytesIO(made_of.archive)) as archive:
        names = archive.namelist()
    assert {"main.py", "requirements.txt", "engine/classifier/live.py"} <= set(names)
    assert not [name for name in names if "fraud" in name or "features" in name or "trees" in name]
    function_source.cache_clear()
    assert function_source() == made_of
    assert len(made_of.archive) < 60_000


def test_without_the_function_there_is_nothing_to_deploy(tmp_path: Path) -> None:
    with pytest.raises(CloudError, match="Deploy the function from a clone"):
        function_source(tmp_path)
    function_source.cache_clear()
