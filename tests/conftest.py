"""Fixtures that every test may use."""

import os

import pytest

from tests.google.gcs import bucket, cloud_folders, gcs, gcs_server  # noqa: F401 - fixtures
from tests.google.runs import google_run, google_services  # noqa: F401 - fixtures
from tests.google.sql import cloud_sql  # noqa: F401 - a fixture

# As the training program does, before a test loads OpenMP. By default its threads spin while they
# wait: on a busy machine that makes a fit of a few rows many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DATABASE_FIXTURES = {"db", "transactional_db", "django_db_serialized_rollback", "live_server"}


# What takes longest begins first, so that no process is left with it in the end.
LONGEST = (
    "test_demo.py", "test_anywhere.py", "browser/test_schedules.py", "test_sponsor.py",
    "test_worker.py", "test_end_to_end.py", "test_kills.py", "rollouts/", "classifier/test_",
    "test_settings.py", "test_serve.py", "test_steps.py", "machines/", "provisioning/",
    "test_pipeline.py", "test_card_data.py", "test_third_model.py", "schedules/", "browser/",
    "functions/", "test_gcloud.py",
)  # fmt: skip
# What these show does not depend on the database: places elsewhere, pages and programs.
ANY_DATABASE = (
    "test_anywhere.py", "test_sponsor.py", "test_card_data.py", "test_third_model.py", "machines/",
    "provisioning/", "test_cloud_run_training.py", "admin", "test_train_form.py", "report",
    "test_artifacts_command.py", "test_score_command.py",
)  # fmt: skip


def pytest_collection_modifyitems(config, items):
    """The longest files first. On PostgreSQL only what needs a database: the rest ran already."""
    places = (*LONGEST, "")
    items.sort(key=lambda item: next(n for n, name in enumerate(places) if name in item.nodeid))
    if os.environ.get("TEST_DATABASE") != "postgresql":
        return
    needed, others = [], []
    for item in items:
        uses = item.get_closest_marker("django_db") or DATABASE_FIXTURES & set(item.fixturenames)
        once = any(name in item.nodeid for name in ANY_DATABASE)
        (needed if uses and not once else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = needed


@pytest.fixture(autouse=True)
def _registry(request):
    """What migrations made is there for a test in a transaction, whichever tests emptied the tables
    before it."""
    marker = request.node.get_closest_marker("django_db")
    if marker and not marker.kwargs.get("transaction"):
        from tests.bundles import seed_registry

        request.getfixturevalue("_django_db_helper")
        seed_registry()


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A real training run that was compared with a champion (tests.training.trained.Trained)."""
    # Loads the training libraries, which most tests do not need.
    from tests.training.trained import train_beside_a_champion

    return train_beside_a_champion(tmp_path_factory.mktemp("trained"))
