"""`manage.py deploy_ml_engine` and the verbs of `services` that change what serves."""

import os
import re
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from deployments.models import CloudService, Deployment
from tests.deployments.rollouts.support import make_deployment, make_service
from tests.google.runs import PROJECT, REGION

on_postgresql = pytest.mark.skipif(
    "sqlite" in os.environ["DATABASE_URL"], reason="a rollout is refused there"
)
pytestmark = pytest.mark.django_db(transaction=True)


def run(*words: str) -> str:
    out = StringIO()
    call_command(*words, stdout=out)
    return out.getvalue()


def refused(*words: str) -> str:
    with pytest.raises(CommandError) as raised:
        run(*words)
    return str(raised.value)


def deploy(version: str, *more: str) -> str:
    return run("deploy_ml_engine", PROJECT, "engine", REGION, version, "--image", "image:1", *more)


@on_postgresql
def test_the_whole_life_of_a_service(cloud) -> None:
    told = deploy("1.0.0", "--cpu", "1", "--memory", "1Gi", "--env", "WEB_THREADS=8")
    assert "v1.0.0 serves 100 % of engine: http://" in told
    found = {line.split()[1] for line in told.splitlines()}
    assert found >= {"Checking", "Building", "Migrating", "Deploying", "Probing", "Serving"}
    assert "v1.1.0 serves 10 % of engine" in deploy("v1.1.0", "--canary", "10")
    assert "a canary of engine with 10 %" in refused("services", "update", "engine", "--cpu", "2")
    assert "has all of the traffic" in run("services", "promote", "engine", "--reason", "fine")
    assert "has no canary" in refused("services", "promote", "engine")
    assert "v1.0.0" in run("services", "rollback", "engine")
    told = run("services", "update", "engine", "--memory", "2Gi", "--env", "WEB_THREADS=")
    assert "memory_mb: 1024 → 2048" in told
    assert "WEB_THREADS: 8 → none" in told
    assert "is like that already" in run("services", "update", "engine", "--memory", "2Gi")
    told = run("services", "history", "engine")
    assert [line.split()[2] for line in told.splitlines()] == ["v1.0.0", "v1.1.0", "v1.0.0"]
    assert "Rolled back" in told
    assert "No rollout to engine goes on" in refused("services", "cancel", "engine")
    assert "Nobody is here to answer" in refused("services", "delete", "engine")
    assert "is deleted" in run("services", "delete", "engine", "--yes")
    assert cloud.services.services == {}
    assert run("services", "history").splitlines()[0].split()[2:4] == ["engine", "v1.0.0"]
    assert "no service “engine”" in refused("services", "rollback", "engine")


@on_postgresql
def test_a_rollout_that_was_left_is_cancelled(cloud) -> None:
    cloud.start("1.0.0")
    assert "is cancelled" in run("services", "cancel", "engine")
    assert Deployment.objects.get().error.startswith("It was cancelled by")


@on_postgresql
def test_a_dry_run_says_what_would_be_done_and_asks_nobody(cloud) -> None:
    told = deploy("1.0.0", "--dry-run", "--allow-unauthenticated", "--min-instances", "1")
    assert "the new service engine" in told
    assert "DB_PASSWORD from the secret sentinelle-db-password:latest" in told
    assert "1 to 10 instances" in told
    assert "serving all of the traffic; public" in told
    assert (cloud.google.calls, CloudService.objects.count()) == ([], 0)


@on_postgresql
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--cpu", "3"], "3 processors; Cloud Run has 1, 2, 4, 6 or 8"),
        (["--env", "DB_PASSWORD=x"], "DB_PASSWORD is a secret"),
        (["--env", "MODEL_VERSION=x"], "MODEL_VERSION is set by the rollout"),
        (["--canary", "10"], "serves nothing yet"),
    ],
    ids=["cpu", "secret", "ours", "canary"],
)
def test_what_is_wrong_is_refused_before_a_row_is_made(cloud, more, words) -> None:
    with pytest.raises(CommandError, match=words):
        deploy("1.0.0", *more)
    assert not CloudService.objects.exists()


@on_postgresql
def test_a_version_that_is_not_registered_is_refused(cloud) -> None:
    assert "v9.9.9 is not registered" in refused(
        "deploy_ml_engine", PROJECT, "engine", REGION, "9.9.9"
    )


@pytest.mark.skipif("sqlite" not in os.environ["DATABASE_URL"], reason="SQLite's own")
def test_sqlite_is_refused(fraud, cloud_folders, settings, tmp_path) -> None:
    from tests import bundles

    settings.BUNDLE_CACHE = tmp_path / "cache"
    bundles.register("1.0.0")
    with pytest.raises(CommandError, match="The database is SQLite, a file of this machine"):
        deploy("1.0.0")
    row = Deployment.objects.get()
    assert (row.state, row.revision) == ("failed", "")


class TestButtons:
    """The buttons of the admin's pages are for who may."""

    @pytest.fixture
    def canary(self, fraud):
        from tests import bundles

        service = make_service()
        first, second = bundles.register("1.0.0"), bundles.register("1.1.0")
        make_deployment(service, first, "serving", percent=90)
        return make_deployment(service, second, "canary", percent=10)

    @pytest.mark.parametrize("verb", ["promote", "rollback", "remove"])
    def test_without_the_permission_nothing_is_asked(self, canary, client, verb, django_user_model):
        from django.contrib.auth.models import Permission

        user = django_user_model.objects.create_user("eva", is_staff=True)
        user.user_permissions.add(*Permission.objects.filter(codename__startswith="view_"))
        client.force_login(user)
        address = f"/admin/deployments/cloudservice/{canary.service_id}"
        page = client.get(f"{address}/change/").content.decode()
        assert "Promote v1.1.0" not in page
        assert client.post(f"{address}/{verb}/").status_code == 403
        canary.refresh_from_db()
        assert canary.state == "canary"

    @pytest.mark.parametrize("verb", ["promote", "rollback"])
    def test_a_page_that_is_older_than_what_serves_moves_nothing(
        self, canary, admin_client, google_run, verb
    ):
        address = f"/admin/deployments/cloudservice/{canary.service_id}"
        page = admin_client.get(f"{address}/change/").content.decode()
        seen = re.findall(r'name="seen" value="([^"]+)"', page)
        first = Deployment.objects.get(state="serving")
        assert seen == [str(canary.pk), str(first.pk)]
        # What the one button names is not what the other moves to: it stands for an older page.
        other = seen[verb == "promote"]
        told = admin_client.post(f"{address}/{verb}/", {"seen": other}, follow=True)
        assert "has changed since that page was made" in told.content.decode()
        assert google_run.google.calls == []
        canary.refresh_from_db()
        assert canary.state == "canary"

    def test_a_look_changes_nothing_and_a_fault_is_told(self, canary, admin_client, google_run):
        google_run.google.fault("services", "PERMISSION_DENIED", times=9)
        address = f"/admin/deployments/cloudservice/{canary.service_id}/promote/"
        assert admin_client.get(address).status_code == 403
        told = admin_client.post(address, follow=True).content.decode()
        assert "Google says" in told
        canary.refresh_from_db()
        assert (canary.state, canary.lease_until) == ("canary", None)
