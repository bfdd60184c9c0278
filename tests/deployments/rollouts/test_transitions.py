"""How a rollout's state changes, and who may change it."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from deployments.models import UNFINISHED, DeploymentState
from deployments.rollouts import claims, transitions
from tests import bundles
from tests.deployments.rollouts.support import make_deployment, make_service, timeline

pytestmark = pytest.mark.django_db


@pytest.fixture
def version(fraud):
    return bundles.register("1.0.0")


@pytest.fixture
def deployment(version):
    return make_deployment(make_service(), version)


def move(deployment, frm: str, to: str, **more) -> bool:
    return transitions.move(
        deployment.pk, frm, to, by="test", message=f"now {to}", now=timezone.now(), **more
    )


def test_every_state_is_reached_and_every_unfinished_one_can_fail() -> None:
    reached = {to for _, to in transitions.TRANSITIONS}
    assert reached == set(DeploymentState.values)
    for state in UNFINISHED:
        assert (state, "failed") in transitions.TRANSITIONS


def test_a_move_writes_the_timeline_and_happens_once(deployment) -> None:
    assert move(deployment, "queued", "checking")
    assert not move(deployment, "queued", "checking")
    assert timeline(deployment) == ["queued", "checking"]
    with pytest.raises(ValueError, match="never goes from checking to serving"):
        move(deployment, "checking", "serving")


def test_the_end_lets_go_of_the_row(deployment) -> None:
    now = timezone.now()
    assert claims.deployment_take(deployment.pk, worker="w", now=now, due_only=False)
    assert not move(deployment, "queued", "failed", held_by="another")
    assert move(deployment, "queued", "failed", held_by="w", error="no")
    deployment.refresh_from_db()
    assert (deployment.lease_until, deployment.finished_at is None) == (None, False)
    assert deployment.ended_at is not None
    assert not claims.deployment_renew(deployment.pk, worker="w", now=now)


def test_one_rollout_a_service(deployment, version) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        make_deployment(deployment.service, version)
    make_deployment(make_service("other"), version)
    assert move(deployment, "queued", "failed")
    make_deployment(deployment.service, version)


def test_a_rollout_has_one_worker_until_its_lease_passes(deployment) -> None:
    now = timezone.now()
    assert claims.deployment_take(deployment.pk, worker="one", now=now) is None  # no step is due
    assert claims.deployment_take(deployment.pk, worker="one", now=now, due_only=False)
    assert claims.deployment_take(deployment.pk, worker="two", now=now, due_only=False) is None
    later = now + timedelta(minutes=1)
    assert claims.deployment_take(deployment.pk, worker="two", now=later, due_only=False)
    assert not claims.deployment_change(deployment, worker="one", now=later, image="x")
    assert claims.deployment_change(deployment, worker="two", now=later, image="x", note="built")
    assert deployment.events.last().message == "built"


def test_what_a_dead_command_of_this_machine_held_is_free_at_once(deployment) -> None:
    now = timezone.now()
    alive = claims.worker_name()
    assert claims.deployment_take(deployment.pk, worker=alive, now=now, due_only=False)
    deployment.refresh_from_db()
    claims.deployment_free_of_the_dead(deployment)
    assert claims.deployment_take(deployment.pk, worker="w", now=now, due_only=False) is None
    dead = f"{alive.split(':')[0]}:99999999:abc"
    type(deployment).objects.filter(pk=deployment.pk).update(claimed_by=dead)
    deployment.refresh_from_db()
    claims.deployment_free_of_the_dead(deployment)
    assert claims.deployment_take(deployment.pk, worker="w", now=now, due_only=False)
