"""`manage.py services` as a person meets it, against a local Cloud Run."""

import re
from datetime import timedelta
from io import StringIO

import pytest
import requests
from django.core.management import CommandError, call_command
from django.utils import timezone

from deployments.gcp import invokers
from deployments.gcp.containers import Secret
from deployments.gcp.errors import CloudError
from deployments.gcp.run_services import service_ensure, traffic_set
from deployments.gcp.services import NEW_SERVICE, ServiceName, ServiceSpec, Traffic
from deployments.management.commands import services
from tests.google.monitoring import Usage
from tests.google.runs import PROJECT, REGION
from tests.google.services import NOT_STARTED

NAME = ServiceName(PROJECT, REGION, "ml-engine")
IMAGE = "europe-west1-docker.pkg.dev/test-project/sentinelle/sentinelle:1.0.0"
FIRST, SECOND = "ml-engine-v1-0-0-a1", "ml-engine-v1-1-0-b2"


@pytest.fixture(autouse=True)
def configuration(google_services):
    google_services.run.world.secrets["key"] = ["k"]


@pytest.fixture
def service():
    """A service with a canary."""
    spec = NEW_SERVICE._replace(
        image=IMAGE, env={"MODEL_VERSION": "1.0.0"}, secrets={"SECRET_KEY": Secret("key")}
    )
    service_ensure(NAME, spec, tag="v1-0-0-a1")
    service_ensure(NAME, ServiceSpec(env={"MODEL_VERSION": "1.1.0"}), tag="v1-1-0-b2")
    shares = [Traffic(FIRST, 90, "v1-0-0-a1"), Traffic(SECOND, 10, "v1-1-0-b2")]
    return traffic_set(NAME, shares)


def run(*arguments):
    out = StringIO()
    call_command("services", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def refused(*arguments):
    with pytest.raises(CommandError) as raised:
        run(*arguments)
    return str(raised.value)


def test_ours_are_listed_with_what_they_serve(service):
    assert re.fullmatch(
        rf"ml-engine +v1\.1\.0 +2 vCPU +2Gi  2 revisions  {service.url}\n", run("list")
    )
    assert "There is no service of ours in us-east1 of test-project" in run(
        "list", "--region", "us-east1"
    )


def test_status_shows_what_it_is_and_what_each_revision_gets(service):
    shown = run("status", "ml-engine")
    for row in (
        rf"url +{service.url}", rf"image +{re.escape(IMAGE)}", "cpu +2", "memory +2Gi",
        "callers +who has roles/run.invoker on the project", "env MODEL_VERSION +1.1.0",
        "secret SECRET_KEY +key:latest", "ingress +all", "state +as asked",
        rf"{SECOND} +v1.1.0 +ready +10 % +20.* {service.of(SECOND).url}",
        rf"{FIRST} +v1.0.0 +ready +90 % +20.* {service.of(FIRST).url}",
    ):  # fmt: skip
        assert re.search(rf"^{row}$", shown, re.M), row
    invokers.public_set(NAME, True)
    assert re.search(r"^callers +everybody$", run("status", "ml-engine"), re.M)


def test_status_says_why_the_newest_revision_does_not_serve(service, google_services):
    google_services.outcomes = [NOT_STARTED]
    with pytest.raises(CloudError):
        service_ensure(NAME, ServiceSpec(cpu=4), tag="v1-1-0-c3")
    shown = run("status", "ml-engine")
    assert re.search(r"^ml-engine-v1-1-0-c3 +v1.1.0 +failed +0 %", shown, re.M)
    assert f"ml-engine-v1-1-0-c3: {NOT_STARTED}" in shown
    assert re.search(r"^state +Revision 'ml-engine-v1-1-0-c3' is not ready", shown, re.M)


def test_who_may_not_read_the_callers_sees_the_rest(service, google_services):
    google_services.google.fault("getIamPolicy", "PERMISSION_DENIED", "denied")
    assert re.search(r"^callers +not known: .*getIamPolicy$", run("status", "ml-engine"), re.M)


def test_logs_have_the_requests_and_can_be_of_one_revision(service):
    invokers.public_set(NAME, True)
    for _ in range(10):
        requests.get(f"{service.url}/health", timeout=9)
    requests.get(f"{service.of(SECOND).url}/score?dry_run=true", timeout=9)
    lines = run("logs", "ml-engine").splitlines()
    assert len(lines) == 11
    assert re.search(r"Z GET /health 200 \d+ ms$", lines[0])
    # One of the ten was the canary's.
    assert len(run("logs", "ml-engine", "--revision", SECOND).splitlines()) == 2
    assert len(run("logs", "ml-engine", "--limit", "3").splitlines()) == 3


def test_logs_are_followed_until_they_are_interrupted(service, google_services, monkeypatch):
    looks = []
    revision = google_services.revisions[f"{NAME.full}/revisions/{FIRST}"]

    def wait(_):
        looks.append(len(looks))
        if len(looks) == 3:
            raise KeyboardInterrupt
        google_services.serving.log(revision, f"line {len(looks)}")

    monkeypatch.setattr(services.time, "sleep", wait)
    shown = run("logs", "ml-engine", "--follow")
    assert [line.split()[-1] for line in shown.splitlines() if "line" in line] == ["1", "2"]


def test_a_service_without_a_log_or_that_is_not_there_says_so(service):
    assert "ml-engine has logged nothing in 30 days" in run("logs", "ml-engine")
    assert "of kind 'SERVICE'" in refused("logs", "another")
    assert "of kind 'SERVICE'" in refused("metrics", "another")
    assert "of kind 'SERVICE'" in refused("status", "another")


def test_metrics_are_a_table_with_a_line_of_each(service, google_services):
    serving = google_services.serving
    invokers.public_set(NAME, True)
    for _ in range(20):
        requests.get(f"{service.url}/health", timeout=9)
    earlier = timezone.now() - timedelta(minutes=5)
    serving.served[:] = [one._replace(at=earlier, seconds=0.02) for one in serving.served]
    serving.served[0] = serving.served[0]._replace(status=500)
    google_services.monitoring.used.append(Usage(earlier, "ml-engine", FIRST, 0.5, 0.25, 2))
    shown = run("metrics", "ml-engine")
    assert shown.startswith(
        "20 requests in the last 1 h, 1 of them (5.00 %) answered with an error of the service.\n"
    )
    assert "1 min a point" in shown
    for row in (
        "requests/s +0.00 +0.01 +0.33 +▁+█▁+", "errors +5.00% +5.00% +5.00% +█ *",
        "p95 +20 ms +20 ms +20 ms +█ *", "memory +25% +25% +25% +█ *", "instances +0 +0 +2 +▁+█▁+",
    ):  # fmt: skip
        assert re.search(rf"^{row}$", shown, re.M), row
    assert "2 requests" in run("metrics", "ml-engine", "--revision", SECOND)


def test_metrics_of_a_service_that_nobody_called_say_so(service):
    assert run("metrics", "ml-engine", "--hours", "24").startswith(
        "Nothing was measured in the last 24 h"
    )
    assert "--hours is 0; expected more than 0" in refused("metrics", "ml-engine", "--hours", "0")


def test_without_a_project_it_is_asked_for(settings):
    settings.GOOGLE_CLOUD_PROJECT = ""
    assert "Which project?" in refused("list")
