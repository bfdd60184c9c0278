"""A project that is ready for rollouts: Cloud Run, Cloud Build, secrets, a bucket with versions."""

import os

import pytest

from deployments import selectors
from deployments.gcp import builds, run_jobs, run_services
from scoring.live_model import live_model
from tests import bundles
from tests.deployments.rollouts.support import Cloud

INSTANCE = "test-project:europe-west1:main"


@pytest.fixture
def cloud(google_services, cloud_folders, transactional_db, settings, monkeypatch, tmp_path):
    """The local Google with a registered version in a bucket. Revisions answer without a process,
    and jobs do nothing; see `program`."""
    from tests.google.setup import ProjectApi

    project = ProjectApi()
    project.apis |= {"cloudbuild.googleapis.com"}
    google_services.google.add(project)
    made = Cloud(google_services, project, tmp_path)
    made.run.program = ["python", "-c", "pass"]
    made.run.world.secrets = project.values
    database = settings.DATABASES["default"]
    project.values["sentinelle-secret-key"] = ["k" * 50]
    project.values["sentinelle-db-password"] = [database.get("PASSWORD") or "none"]
    made.run.world.databases[INSTANCE] = _host(database)
    settings.CLOUD_SQL_INSTANCE = INSTANCE
    settings.BUNDLE_CACHE = tmp_path / "bundles"
    settings.ROLLOUT_POLL_SECONDS = 0.02
    monkeypatch.setattr(run_jobs, "READY_POLL_SECONDS", 0.01)
    monkeypatch.setattr(run_services, "READY_POLL_SECONDS", 0.01)
    builds.source.cache_clear()
    bundles.seed_registry()
    live_model.forget()
    for version in ("1.0.0", "1.1.0"):
        made.versions[version] = bundles.register(version)
    assert selectors.model_by_name("fraud")
    return made


def _host(database: dict) -> str:
    """Where the tests' PostgreSQL is; a socket's folder or a host."""
    found = database.get("HOST") or database.get("OPTIONS", {}).get("host", "")
    return str(found or os.environ.get("PGHOST", "localhost"))
