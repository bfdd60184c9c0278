"""A migration and a revision that are real processes of the image's own program, with the secrets
and the database that their messages name."""

from collections import Counter

import pytest
import requests

from deployments.gcp import executions, invokers, run_jobs, run_services
from deployments.gcp.containers import Secret
from deployments.gcp.errors import CloudError
from deployments.gcp.logs import execution_lines, service_lines
from deployments.gcp.run_jobs import JobName, JobSpec
from deployments.gcp.services import NEW_SERVICE, ServiceName, Traffic
from tests.google.runs import PROJECT, REGION
from tests.google.sql import INSTANCE, PASSWORD, URL

NAME = ServiceName(PROJECT, REGION, "ml-engine")
JOB = JobName(PROJECT, REGION, "ml-engine-migrate")
IMAGE = "europe-west1-docker.pkg.dev/test-project/sentinelle/sentinelle:1.0.0"
ENV = {"DATABASE_URL": URL, "ALLOWED_HOSTS": ".run.app", "MODEL_VERSION": "1.0.0"}
SECRETS = {
    "SECRET_KEY": Secret("sentinelle-secret-key"),
    "DB_PASSWORD": Secret("sentinelle-db-password", "1"),
}
SERVICE = NEW_SERVICE._replace(image=IMAGE, env=ENV, secrets=SECRETS, databases=(INSTANCE,))
MIGRATION = JobSpec(
    image=IMAGE, cpu=1, memory_mb=1024, timeout_s=600, retries=0, env=ENV, secrets=SECRETS,
    databases=(INSTANCE,), command=("python", "manage.py", "migrate", "--no-input"),
    purpose="migration",
)  # fmt: skip


PROGRAM = """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handle(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["V"].encode())

HTTPServer(("", int(os.environ["PORT"])), Handle).serve_forever()
"""


def asked(url, times):
    """How often each answer came."""
    return Counter(requests.get(url, timeout=9).text for _ in range(times))


@pytest.fixture
def cloud(google_services, cloud_sql):
    google_services.serving.runs_program = True
    world = google_services.run.world
    world.secrets |= {"sentinelle-secret-key": ["k" * 50], "sentinelle-db-password": [PASSWORD]}
    world.databases[INSTANCE] = cloud_sql.folder
    return google_services


def migrate(google_run):
    run_jobs.job_ensure(JOB, MIGRATION)
    execution = run_jobs.job_run(JOB, run_id="deployment-1", env={})
    google_run.wait(execution)
    return execution


def test_a_migration_job_and_a_revision_run_the_programs_they_name(cloud, cloud_sql, google_run):
    execution = migrate(google_run)
    assert executions.execution_find(JOB, "deployment-1").state == "succeeded"
    assert "Applying" in "".join(line.text for line in execution_lines(execution))
    assert cloud_sql.rows("SELECT name FROM deployments_registeredmodel") == [("fraud",)]
    assert run_jobs.job_list(PROJECT, REGION) == []  # it trains nothing

    service, deployed = run_services.service_ensure(NAME, SERVICE, tag="v1-0-0-a1")
    invokers.public_set(NAME, True)
    answer = requests.get(f"{service.of(deployed.revision).url}/health", timeout=60)
    # There is no model, and the application says so.
    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
    lines = [line.text for line in service_lines(NAME, revision=deployed.revision)]
    assert any("Listening at" in line for line in lines)
    assert any(line.startswith("GET /health 503 ") for line in lines)


def test_revisions_are_processes_that_share_the_traffic_and_end_without_any(cloud):
    small = SERVICE._replace(command=("python", "-c", PROGRAM), secrets={}, databases=())
    run_services.service_ensure(NAME, small._replace(env={"V": "1"}), tag="v1")
    service, _ = run_services.service_ensure(NAME, small._replace(env={"V": "2"}), tag="v2")
    invokers.public_set(NAME, True)
    one, two = (cloud.serving.process(f"{NAME.full}/revisions/ml-engine-v{n}") for n in (1, 2))
    assert one.poll() is two.poll() is None
    run_services.traffic_set(NAME, [Traffic("ml-engine-v1", 90), Traffic("ml-engine-v2", 10, "v2")])
    assert asked(service.url, 50) == {"1": 45, "2": 5}
    run_services.traffic_set(NAME, [Traffic("ml-engine-v2", 100)])
    assert one.wait(10) is not None
    # It comes back when it is asked, in a new process.
    run_services.traffic_set(NAME, [Traffic("ml-engine-v1", 100)])
    assert asked(service.url, 3) == {"1": 3}


def test_a_container_that_ends_at_once_is_told_and_its_log_says_why(cloud):
    with pytest.raises(CloudError, match=r"manage\.py services logs ml-engine") as refused:
        run_services.service_ensure(
            NAME, SERVICE._replace(env={"DATABASE_URL": "sqlite:///x"}), tag="v1-0-0-a1"
        )
    assert refused.value.reason == "container"
    assert "DATABASE_URL is SQLite" in "".join(line.text for line in service_lines(NAME))


def test_a_migration_without_the_right_password_fails_with_the_databases_words(cloud, google_run):
    cloud.run.world.secrets["sentinelle-db-password"] = ["another"]
    execution = migrate(google_run)
    assert executions.execution_get(execution).state == "failed"
    assert "password authentication failed" in "".join(
        line.text for line in execution_lines(execution)
    )
