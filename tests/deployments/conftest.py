"""Fixtures of the registry's tests."""

from pathlib import Path

import pytest

from deployments import selectors
from deployments.models import RegisteredModel
from tests import bundles


@pytest.fixture
def artifacts_dir(settings, tmp_path: Path) -> Path:
    settings.ARTIFACTS_DIR = str(tmp_path / "artifacts")
    return tmp_path / "artifacts"


@pytest.fixture
def fraud(db, artifacts_dir: Path) -> RegisteredModel:
    """The model “fraud”, without versions, over an empty artefact store."""
    bundles.seed_registry()
    return selectors.model_by_name("fraud")


@pytest.fixture(autouse=True)
def _fast_passwords(settings) -> None:
    """Hashing a password takes half a second on purpose; these tests log in often."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
