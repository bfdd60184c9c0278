"""Fixtures that every test may use."""

import pytest


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A real training run that was compared with a champion (tests.training.trained.Trained)."""
    # Loads the training libraries, which most tests do not need.
    from tests.training.trained import train_beside_a_champion

    return train_beside_a_champion(tmp_path_factory.mktemp("trained"))
