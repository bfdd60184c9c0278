"""What the tests of schedules have in common."""

import pytest

from tests.bundles import seed_registry


@pytest.fixture(autouse=True)
def _folders(settings, tmp_path):
    settings.RUNS_DIR = str(tmp_path / "runs")
    settings.ARTIFACTS_DIR = str(tmp_path / "artifacts")
    settings.DATA_DIR = str(tmp_path / "data")


@pytest.fixture
def fraud(transactional_db):
    return seed_registry()
