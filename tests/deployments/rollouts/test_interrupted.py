"""A command is killed at every point of a rollout, and started again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from deployments.models import UNFINISHED, ApiKey, Deployment
from deployments.rollouts import claims
from tests.deployments.rollouts.conftest import INSTANCE
from tests.deployments.rollouts.support import timeline
from tests.google.runs import PROJECT, REGION
from tests.training.support import database_url, wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("sqlite" in os.environ["DATABASE_URL"], reason="a rollout is refused there"),
]
BASE_DIR = Path(__file__).resolve().parents[3]
WAY = [*UNFINISHED, "serving"]
BEGUN = ("Cloud Build builds", "The job ", "The revision ")
POINTS = [
    *((state, "before") for state in WAY[1:]),
    # After it, the next step has only to begin: one stands for all.
    ("deploying", "after"),
    *((note, "lost") for note in BEGUN),
]


@pytest.fixture
def environment(cloud) -> dict[str, str]:
    """Of a process that works on the same rollouts."""
    return os.environ | {
        "DATABASE_URL": database_url(),
        "CLOUD_SQL_INSTANCE": INSTANCE,
        "DJANGO_SETTINGS_MODULE": "tests.deployments.rollouts.fast_settings",
    }


@pytest.fixture
def dying(environment) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.deployments.rollouts.dying"],
        cwd=BASE_DIR,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_killed_at_any_point_it_goes_on(cloud, dying) -> None:
    for number, (at, when) in enumerate(POINTS):
        point = f"{at} {when}"
        # A service of its own: each of them begins with nothing.
        asked = {"service": f"engine-{number}", "image": ""}
        cloud.project.forget_images()
        first = cloud.start("1.0.0", **asked)
        assert killed(dying, first, at, when) == -signal.SIGKILL, point
        second = cloud.start("1.0.0", **asked)
        assert second.pk == first.pk, point
        ended = cloud.drive(second)
        assert (ended.state, ended.error) == ("serving", ""), point
        assert timeline(ended) == WAY, point
        mine = [build for build in cloud.project.builds if build["tags"] == [str(first.pk)]]
        assert len(mine) == 1, point
        executions = [name for name in cloud.run.executions if f"/engine-{number}-migrate/" in name]
        assert len(executions) == 1, point
        revisions = [name for name in cloud.services.revisions if f"/engine-{number}/" in name]
        assert len(revisions) == 1, point
    assert not ApiKey.objects.exists()
    assert not Deployment.objects.exclude(lease_until=None).exists()


def killed(process, deployment: Deployment, at: str, when: str) -> int:
    task = {"deployment": str(deployment.pk), "at": at, "when": when}
    process.stdin.write(json.dumps(task) + "\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def command(environment) -> subprocess.Popen[str]:
    words = ["deploy_ml_engine", PROJECT, "engine", REGION, "1.0.0", "--image", "image:1"]
    return subprocess.Popen(
        [sys.executable, "manage.py", *words],
        cwd=BASE_DIR,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_command_that_was_killed_is_started_again(cloud, environment) -> None:
    cloud.run.program = ["sh", "-c", f"while [ ! -e {cloud.folder}/go ]; do sleep 0.1; done"]
    first = command(environment)
    wait_until(lambda: Deployment.objects.filter(handles__has_key="migration").exists(), 60)
    first.kill()
    first.communicate()
    (cloud.folder / "go").touch()
    told, _ = command(environment).communicate(timeout=60)
    assert "Goes on with the rollout of" in told
    assert "v1.0.0 serves 100 % of engine: http://" in told
    assert len(cloud.run.executions) == 1


def test_a_second_command_is_refused_while_the_first_is_at_it(cloud) -> None:
    row = cloud.start("1.0.0")
    held = {"worker": claims.worker_name(), "now": timezone.now(), "due_only": False}
    assert claims.deployment_take(row.pk, **held)
    place = (PROJECT, "engine", REGION)
    with pytest.raises(CommandError, match=r"is at it\. This rollout is queued"):
        call_command("deploy_ml_engine", *place, "1.0.0", stdout=StringIO())
    with pytest.raises(CommandError, match=r"v1\.0\.0 is being rolled out to engine"):
        call_command("deploy_ml_engine", *place, "1.1.0", stdout=StringIO())
