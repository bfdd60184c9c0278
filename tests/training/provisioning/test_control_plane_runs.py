"""The control plane's own programs, as the plan makes them: a real migration of a real PostgreSQL,
the web's container, and a first user."""

import os
import re
from typing import Any

import pytest
import requests

from deployments.gcp import invokers
from deployments.gcp.services import ServiceName
from tests.google.control import ControlApi
from tests.google.run import RunApi
from tests.google.server import GoogleServer
from tests.google.services import ServicesApi
from tests.google.setup import ProjectApi
from tests.google.sql import INSTANCE, PASSWORD, CloudSql
from tests.training.provisioning.conftest import PARENT, QUICK
from tests.training.provisioning.test_control_plane import WEB, carry_out

PLACE = ("test-project", "europe-west1")
# A real server takes its time to start.
PATIENT = QUICK._replace(longest=0.2, operation=90.0)
JOB = f"{PARENT}/jobs/sentinelle-manage"


@pytest.fixture
def real(
    google: GoogleServer,
    project: ProjectApi,
    services: ServicesApi,
    run: RunApi,
    cloud_sql: CloudSql,
) -> ProjectApi:
    """Containers that run, with a database and a broker that are there."""
    services.serving.runs_program = True
    run.world.databases[INSTANCE] = cloud_sql.folder
    project.values["sentinelle-db-password"] = [PASSWORD]
    project.values["sentinelle-redis-url"] = [os.environ["REDIS_URL"]]
    return project


def test_the_plan_makes_a_sentinelle_that_migrates_serves_and_lets_its_first_user_in(
    real: ProjectApi, services: ServicesApi, run: RunApi, control: ControlApi, cloud_sql: CloudSql
) -> None:
    done = {each.step.title: each for each in carry_out(PATIENT)}
    assert done["migrations"].change is not None
    assert cloud_sql.rows("SELECT name FROM deployments_registeredmodel") == [("fraud",)]
    assert control.users["sentinelle"] == PASSWORD

    (link,) = re.findall(r"/admin/one-time-login/\S+", execute(run, "login_link", "ada"))
    invokers.public_set(ServiceName(*PLACE, "sentinelle"), True)
    address = services.services[WEB].uri
    browser = requests.Session()
    # Google's front end says that the browser came by HTTPS; the session's cookie asks for it.
    answer = browser.get(f"{address}{link}", timeout=20, allow_redirects=False)
    assert answer.headers["Location"] == "/admin/"
    cookies = {cookie.name: cookie.value for cookie in browser.cookies}
    page = requests.get(f"{address}/admin/", cookies=cookies, timeout=20)
    assert page.status_code == 200
    assert "ada" in page.text


def execute(run: RunApi, *words: str) -> str:
    """Run a command of manage.py in the job, as `gcloud run jobs execute --args` does; its log."""
    from deployments.gcp import clients
    from deployments.gcp.logs import execution_lines

    overrides: dict[str, Any] = {"container_overrides": [{"args": ["manage.py", *words]}]}
    name = clients.run_jobs().run_job({"name": JOB, "overrides": overrides}).metadata.name
    run.wait(name)
    return "\n".join(line.text for line in execution_lines(name))
