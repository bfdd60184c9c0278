"""A registry, an artefact store and a folder for data sets, for each test."""

import pytest

from tests.scoring.conftest import artifacts, registry

__all__ = ["artifacts", "registry"]


@pytest.fixture(autouse=True)
def folders(registry, settings, tmp_path):
    settings.DATA_DIR = str(tmp_path / "data")
    settings.RUNS_DIR = str(tmp_path / "runs")
