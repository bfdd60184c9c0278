"""Rollouts whose migration and revisions are real processes of the image's program."""

import os

import pytest

from deployments.models import CloudService
from deployments.rollouts import live
from scoring.models import ScoreRecord

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("sqlite" in os.environ["DATABASE_URL"], reason="a rollout is refused there"),
]


def test_from_nothing_by_a_canary_to_a_new_version_and_back(cloud, gcs) -> None:
    cloud.run.program = []
    cloud.services.serving.runs_program = True
    cloud.run.world.environment |= gcs.environment()
    first = cloud.deploy("1.0.0")
    assert (first.state, first.error) == ("serving", "")
    canary = cloud.deploy("1.1.0", canary=20)
    assert (canary.state, canary.error) == ("canary", "")
    assert cloud.versions_that_answer(50) == {"1.0.0": 40, "1.1.0": 10}
    engine = CloudService.objects.get(name="engine")
    live.canary_promote(engine, by="ann")
    assert cloud.versions_that_answer(5) == {"1.1.0": 5}
    live.service_roll_back(engine, by="ann")
    assert cloud.versions_that_answer(5) == {"1.0.0": 5}
    # What the probes asked was decided and not kept.
    assert not ScoreRecord.objects.exists()
