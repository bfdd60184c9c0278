"""`google_run`: Cloud Run and Cloud Logging of a local Google that our clients talk to.

See tests.google.run. `google_run.google` is the server: faults and calls.
"""

import pytest

PROJECT, REGION = "test-project", "europe-west1"


@pytest.fixture
def google_run(settings, monkeypatch):
    # Google's client libraries: most tests do not need them.
    from deployments.gcp import run_jobs
    from tests.google.local import talking_to
    from tests.google.logging import LoggingApi
    from tests.google.run import RunApi
    from tests.google.server import GoogleServer

    logging = LoggingApi()
    run = RunApi(logging)
    run.google = google = GoogleServer(run, logging)
    settings.GOOGLE_API_ENDPOINT = google.url
    settings.GOOGLE_CLOUD_PROJECT, settings.GOOGLE_CLOUD_REGION = PROJECT, REGION
    monkeypatch.setattr(run_jobs, "READY_POLL_SECONDS", 0.01)
    with talking_to(google):
        yield run
    google.close()


@pytest.fixture
def google_services(google_run, monkeypatch):
    """Cloud Run services beside `google_run`; `google_services.google` is the server.

    `google_services.monitoring` measures them.
    """
    from deployments.gcp import run_services
    from tests.google.monitoring import MonitoringApi
    from tests.google.services import ServicesApi

    services = ServicesApi(google_run)
    services.monitoring = MonitoringApi(PROJECT, REGION, services.serving.served)
    google_run.google.add(services)
    google_run.google.add(services.monitoring)
    monkeypatch.setattr(run_services, "READY_POLL_SECONDS", 0.01)
    return services
