"""Rollouts over the local Google, whose revisions answer without a process of their own."""

import json
import os
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from deployments.gcp import run_jobs
from deployments.gcp.errors import CloudError
from deployments.models import ApiKey, CloudService, Deployment
from deployments.rollouts import driver, live, services, specs
from deployments.rollouts.costs import deployment_cost, deployments_measure
from deployments.rollouts.errors import RolloutRefused
from tests.deployments.rollouts.support import Cloud, timeline
from tests.google.monitoring import Billed

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("sqlite" in os.environ["DATABASE_URL"], reason="a rollout is refused there"),
]
WAY = ["queued", "checking", "building", "migrating", "deploying", "probing"]
FULL = "projects/test-project/locations/europe-west1/services/engine"


def engine() -> CloudService:
    return CloudService.objects.get(name="engine", deleted_at=None)


def assert_nothing_is_left(cloud: Cloud) -> None:
    """No key of a probe is there any more, and no lease is held."""
    assert not ApiKey.objects.exists()
    assert not Deployment.objects.exclude(lease_until=None).exists()


# --- What goes well ------------------------------------------------------------------------


def test_a_first_deployment_serves_what_was_asked(cloud) -> None:
    wishes = {"cpu": 4, "memory_mb": 4096, "env": {"WEB_THREADS": "8"}}
    ended = cloud.deploy("1.0.0", changes=wishes)
    assert (ended.error, ended.state, ended.percent) == ("", "serving", 100)
    assert timeline(ended) == [*WAY, "serving"]
    assert cloud.shares() == {ended.tag: 100}
    assert cloud.versions_that_answer(10) == {"1.0.0": 10}
    made = cloud.services.revisions[f"{FULL}/revisions/{ended.revision}"].containers[0]
    env = {item.name: item for item in made.env}
    assert (env["MODEL_VERSION"].value, env["WEB_THREADS"].value) == ("1.0.0", "8")
    assert made.resources.limits["cpu"] == "4"
    assert env["DB_PASSWORD"].value_source.secret_key_ref.secret == "sentinelle-db-password"
    assert "@/" in env["DATABASE_URL"].value
    assert not cloud.services.may_call(FULL, "allUsers")
    assert_nothing_is_left(cloud)


def test_an_update_takes_the_place_of_what_serves(cloud) -> None:
    first = cloud.deploy("1.0.0", changes={"env": {"WEB_THREADS": "8"}})
    second = cloud.deploy("v1.1.0", changes={"cpu": 1, "env": {"WEB_THREADS": ""}})
    first.refresh_from_db()
    assert (first.state, first.percent, second.state) == ("superseded", 0, "serving")
    assert timeline(first)[-2:] == ["serving", "superseded"]
    assert cloud.shares() == {second.tag: 100}
    assert cloud.versions_that_answer(10) == {"1.1.0": 10}
    made = cloud.services.revisions[f"{FULL}/revisions/{second.revision}"].containers[0]
    assert "WEB_THREADS" not in {item.name for item in made.env}
    assert engine().wishes["cpu"] == 1


def test_a_canary_has_its_share_until_it_is_promoted(cloud) -> None:
    first = cloud.deploy("1.0.0")
    canary = cloud.deploy("1.1.0", canary=10)
    first.refresh_from_db()
    assert (canary.state, canary.percent) == ("canary", 10)
    assert (first.state, first.percent) == ("serving", 90)
    assert cloud.versions_that_answer(100) == {"1.0.0": 90, "1.1.0": 10}
    with pytest.raises(RolloutRefused, match="canary of engine with 10 %"):
        cloud.start("1.0.0")
    promoted = live.canary_promote(engine(), by="ann", reason="It decides as it should.")
    first.refresh_from_db()
    assert (promoted.state, promoted.percent, first.state) == ("serving", 100, "superseded")
    assert cloud.versions_that_answer(10) == {"1.1.0": 10}
    assert "as it should" in promoted.events.last().message
    assert_nothing_is_left(cloud)


def test_a_canary_that_is_rolled_back_leaves_all_to_what_serves(cloud) -> None:
    first = cloud.deploy("1.0.0")
    canary = cloud.deploy("1.1.0", canary=25, changes={"cpu": 4, "min_instances": 1})
    target = live.service_roll_back(engine(), by="ann")
    assert (engine().wishes["cpu"], engine().wishes["min_instances"]) == (2, 1)
    canary.refresh_from_db()
    assert (target.pk, target.percent, canary.state) == (first.pk, 100, "rolled_back")
    assert cloud.versions_that_answer(10) == {"1.0.0": 10}
    cloud.deploy("1.1.0")


def test_a_rollback_goes_back_one_and_a_second_one_further(cloud) -> None:
    rows = [cloud.deploy(version) for version in ("1.0.0", "1.1.0", "1.0.0")]
    assert live.service_roll_back(engine(), by="ann").pk == rows[1].pk
    assert cloud.versions_that_answer(5) == {"1.1.0": 5}
    assert live.service_roll_back(engine(), by="ann").pk == rows[0].pk
    with pytest.raises(RolloutRefused, match="nothing before"):
        live.service_roll_back(engine(), by="ann")
    states = Deployment.objects.order_by("created_at").values_list("state", flat=True)
    assert list(states) == ["serving", "rolled_back", "rolled_back"]
    assert cloud.shares() == {rows[0].tag: 100}


def test_a_rollback_to_what_is_not_healthy_or_not_there_moves_nothing(cloud) -> None:
    first, second = cloud.deploy("1.0.0"), cloud.deploy("1.1.0")
    working, cloud.services.serving.program = cloud.services.serving.program, unhealthy
    with pytest.raises(RolloutRefused, match="not healthy, so the traffic stays"):
        live.service_roll_back(engine(), by="ann")
    cloud.services.serving.program = working
    assert cloud.versions_that_answer(5) == {"1.1.0": 5}
    del cloud.services.revisions[f"{FULL}/revisions/{first.revision}"]
    with pytest.raises(RolloutRefused, match="not there any more: deploy it again"):
        live.service_roll_back(engine(), by="ann")
    second.refresh_from_db()
    assert (second.state, second.lease_until) == ("serving", None)


def test_who_may_call_by_the_project_needs_no_role_on_the_service(cloud) -> None:
    cloud.google.fault(":setIamPolicy", "PERMISSION_DENIED", times=9)
    cloud.services.serving.is_open = True
    ended = cloud.deploy("1.0.0")
    assert (ended.state, ended.error) == ("serving", "")
    assert "was not given the role" in " ".join(event.message for event in ended.events.all())


def test_public_is_said_and_can_be_taken_back(cloud) -> None:
    cloud.deploy("1.0.0", changes={"public": True})
    assert cloud.services.may_call(FULL, "allUsers")
    cloud.deploy("1.0.0", changes={"public": False})
    assert not cloud.services.may_call(FULL, "allUsers")


def test_what_fails_is_neither_public_nor_paid_for(cloud, settings) -> None:
    working = cloud.services.serving.program
    first = cloud.deploy("1.0.0")
    wishes = {"public": True, "min_instances": 3}
    settings.ROLLOUT_PROBE_SECONDS = 0.1
    cloud.services.serving.program = unhealthy
    assert cloud.deploy("1.1.0", changes=wishes).state == "failed"

    def refused_later(asked, env):
        if asked.path.startswith("/score"):
            words = "Quota exceeded for total CPU."
            cloud.google.fault("PATCH .*/services/engine", "RESOURCE_EXHAUSTED", words)
        return working(asked, env)

    # The callers are let in already when the traffic is refused.
    cloud.services.serving.program = refused_later
    failed = cloud.deploy("1.1.0", changes=wishes)
    assert (failed.state, cloud.shares()) == ("failed", {first.tag: 100})
    assert not cloud.services.may_call(FULL, "allUsers")
    assert cloud.services.services[FULL].scaling.min_instance_count == 0
    cloud.services.serving.program = working
    cloud.deploy("1.1.0", changes=wishes)
    assert cloud.services.services[FULL].scaling.min_instance_count == 3


def test_a_deleted_service_is_gone_and_its_name_is_free(cloud) -> None:
    first = cloud.deploy("1.0.0")
    live.service_remove(engine(), by="ann")
    first.refresh_from_db()
    assert (cloud.services.services, cloud.run.jobs, first.state) == ({}, {}, "superseded")
    again = cloud.deploy("1.0.0")
    assert again.service_id != first.service_id
    assert again.handles["first"]


# --- The image -----------------------------------------------------------------------------


def test_the_image_is_built_once(cloud) -> None:
    first = cloud.deploy("1.0.0", image="")
    second = cloud.deploy("1.1.0", image="")
    assert (first.error, second.error) == ("", "")
    assert first.image == second.image == cloud.project.builds[0]["images"][0]
    assert [build["tags"] for build in cloud.project.builds] == [[str(first.pk)]]
    assert "was built before" in " ".join(event.message for event in second.events.all())


def test_a_build_that_fails_says_why(cloud) -> None:
    cloud.project.build_fails = "pip could not install numba."
    ended = cloud.deploy("1.0.0", image="")
    assert ended.state == "failed"
    assert timeline(ended) == ["queued", "checking", "building", "failed"]
    assert "pip could not install numba" in ended.error


# --- What fails ----------------------------------------------------------------------------


def unhealthy(asked, env):
    from tests.google.serving import Answer

    body = {"status": "unhealthy", "model_version": None, "reason": "The database is out of reach."}
    return Answer(503, {"Content-Type": "application/json"}, json.dumps(body).encode())


def test_a_failing_health_check_leaves_what_serves(cloud, settings) -> None:
    first = cloud.deploy("1.0.0")
    cloud.services.serving.program = unhealthy
    settings.ROLLOUT_PROBE_SECONDS = 0.1
    failed = cloud.deploy("1.1.0")
    assert failed.state == "failed"
    assert timeline(failed) == [*WAY, "failed"]
    assert "The database is out of reach" in failed.error
    assert "GET" in failed.error.partition("Its last lines:")[2]
    first.refresh_from_db()
    assert (first.state, cloud.shares()) == ("serving", {first.tag: 100})
    assert_nothing_is_left(cloud)


def test_a_first_deployment_that_fails_leaves_no_service(cloud, settings) -> None:
    cloud.services.serving.program = unhealthy
    settings.ROLLOUT_PROBE_SECONDS = 0.1
    failed = cloud.deploy("1.0.0", changes={"public": True})
    assert (failed.state, cloud.services.services) == ("failed", {})
    assert "deleted again" in " ".join(event.message for event in failed.events.all())


def test_a_revision_that_does_not_start_leaves_what_serves(cloud) -> None:
    first = cloud.deploy("1.0.0")
    cloud.services.outcomes = ["The user-provided container failed to start"]
    failed = cloud.deploy("1.1.0")
    assert timeline(failed) == [*WAY[:-1], "failed"]
    assert "failed to start" in failed.error
    assert cloud.shares() == {first.tag: 100}
    assert cloud.versions_that_answer(5) == {"1.0.0": 5}


ANSWERS = {
    "another-version": ({}, {"model_version": "9.9.9"}, "decided by v9.9.9; expected v1.1.0"),
    "no-dry-run": ({"Dry-Run": "false"}, {}, "an older Sentinelle"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_revision_that_decides_wrongly_gets_no_traffic(cloud, case) -> None:
    from tests.google.serving import stand_in

    first = cloud.deploy("1.0.0")
    headers, changed, words = ANSWERS[case]

    def wrong(asked, env):
        answer = stand_in(asked, env)
        if not asked.path.startswith("/score"):
            return answer
        body = json.loads(answer.body) | changed
        return answer._replace(headers=answer.headers | headers, body=json.dumps(body).encode())

    cloud.services.serving.program = wrong
    failed = cloud.deploy("1.1.0")
    assert failed.state == "failed"
    assert words in failed.error
    assert cloud.shares() == {first.tag: 100}
    assert_nothing_is_left(cloud)


def test_a_key_that_the_service_does_not_know_means_another_database(cloud) -> None:
    from tests.google.serving import Answer, stand_in

    refused = Answer(401, {"Content-Type": "application/json"}, b'{"detail": "The key is unknown"}')
    cloud.services.serving.program = lambda asked, env: (
        refused if asked.path.startswith("/score") else stand_in(asked, env)
    )
    assert "another database" in cloud.deploy("1.0.0").error


@pytest.mark.parametrize("call", ["POST .*/services$", "POST .*/jobs/[^/]*:run"])
def test_a_quota_that_is_used_up_fails_with_where_to_ask_for_more(cloud, call) -> None:
    words = "Quota exceeded for total allowable CPU per project per region."
    cloud.google.fault(call, "RESOURCE_EXHAUSTED", words, times=9)
    failed = cloud.deploy("1.0.0")
    assert failed.state == "failed"
    assert "iam-admin/quotas?project=test-project" in failed.error
    assert not cloud.services.services


def test_a_quota_that_is_used_up_leaves_what_serves(cloud) -> None:
    first = cloud.deploy("1.0.0")
    words = "Quota exceeded for total allowable CPU per project per region."
    cloud.google.fault("PATCH .*/services/engine", "RESOURCE_EXHAUSTED", words)
    failed = cloud.deploy("1.1.0")
    assert (failed.state, cloud.shares()) == ("failed", {first.tag: 100})
    assert "Ask for more" in failed.error


def test_a_missing_bundle_is_refused_before_anything_is_made(cloud, settings) -> None:
    from engine.store import open_store

    store = open_store(settings.ARTIFACTS_DIR)
    for name in store.list("fraud/v1.1.0"):
        store.delete(name)
    failed = cloud.deploy("1.1.0")
    assert timeline(failed) == ["queued", "checking", "failed"]
    assert "fraud/v1.1.0" in failed.error
    assert not any("services" in call for call in cloud.google.calls)


@pytest.mark.parametrize("what", ["service", "job"])
def test_what_somebody_else_has_under_its_names_is_neither_changed_nor_deleted(cloud, what) -> None:
    from google.cloud import run_v2

    if what == "service":
        box = {"containers": [{"image": "image:1"}]}
        theirs = run_v2.Service(template=box, labels={"team": "theirs"})
        cloud.services._make(FULL, theirs, {})
        have = cloud.services.services
    else:
        job = run_v2.Job(template={"template": {"containers": [{"image": "image:1"}]}})
        run_jobs.clients.run_jobs().create_job(
            parent=FULL.partition("/services")[0], job=job, job_id="engine-migrate"
        )
        have = cloud.run.jobs
    failed = cloud.deploy("1.0.0")
    assert timeline(failed) == ["queued", "checking", "failed"]
    assert f"The {what} engine" in failed.error
    with pytest.raises(CloudError, match="is not Sentinelle's"):
        live.service_remove(engine(), by="ann")
    assert len(have) == 1


def test_a_migration_that_fails_stops_before_any_revision(cloud) -> None:
    cloud.run.program = ["python", "-c", "print('relation exists already'); raise SystemExit(1)"]
    failed = cloud.deploy("1.0.0")
    assert timeline(failed) == ["queued", "checking", "building", "migrating", "failed"]
    assert "relation exists already" in failed.error
    assert not cloud.services.services


def test_versions_in_a_folder_of_this_machine_are_refused(cloud, settings, tmp_path) -> None:
    settings.ARTIFACTS_DIR = str(tmp_path)
    assert "expected a bucket" in cloud.deploy("1.0.0").error


def test_a_database_that_only_this_machine_reaches_is_refused(cloud, settings) -> None:
    settings.CLOUD_SQL_INSTANCE = ""
    assert "Set CLOUD_SQL_INSTANCE" in cloud.deploy("1.0.0").error


def test_on_cloud_run_the_socket_of_this_server_is_the_services_too(cloud, settings) -> None:
    settings.CLOUD_SQL_INSTANCE = ""
    found = settings.DATABASES["default"]
    before = found["HOST"]
    try:
        found["HOST"] = "/cloudsql/p:r:i"
        assert specs.databases() == ("p:r:i",)
        assert specs.database_url().endswith("?host=/cloudsql/p:r:i")
    finally:
        found["HOST"] = before


def test_a_connection_that_must_be_encrypted_stays_so(cloud, settings, monkeypatch) -> None:
    settings.CLOUD_SQL_INSTANCE = ""
    found = settings.DATABASES["default"]
    monkeypatch.setitem(found, "HOST", "db.example.com")
    assert "@db.example.com" in specs.shown_database()
    monkeypatch.setitem(found, "OPTIONS", {"sslmode": "verify-full"})
    assert specs.database_url().endswith("?sslmode=verify-full")
    assert "verify-full" not in specs.shown_database()


# --- Costs ---------------------------------------------------------------------------------


def test_what_google_has_charged_is_added_up(cloud) -> None:
    row, began = cloud.deploy("1.0.0"), timezone.now()
    assert deployment_cost(row).words == "not measured yet"
    billed = cloud.services.monitoring.billed
    for minutes, seconds in ((10, 60.0), (50, 30.0)):
        at = began + timedelta(minutes=minutes)
        billed.append(Billed(at, "engine", row.revision, seconds))
        billed.append(Billed(at, "engine", "another", 1000.0))
    assert deployments_measure(now=began + timedelta(minutes=30)) == 1
    row.refresh_from_db()
    assert row.billed_seconds == 60
    assert deployments_measure(now=began + timedelta(minutes=31)) == 0
    assert deployments_measure(now=began + timedelta(minutes=70)) == 1
    row.refresh_from_db()
    assert row.billed_seconds == 90
    # 90 s of 2 vCPU at 0.000024 and of 2 GiB at 0.0000025.
    assert deployment_cost(row).cost.usd == Decimal("0.00477")


# --- Interruptions -------------------------------------------------------------------------


def test_a_second_rollout_is_refused_and_the_same_one_goes_on(cloud) -> None:
    first = cloud.start("1.0.0")
    with pytest.raises(RolloutRefused, match=r"v1\.0\.0 is being rolled out .* by ann; it is que"):
        cloud.start("1.1.0")
    assert cloud.start("1.0.0").pk == first.pk
    assert cloud.drive(first).state == "serving"


def test_a_silence_of_google_is_waited_out(cloud) -> None:
    cloud.google.fault("GET .*/services/engine", "UNAVAILABLE", times=3)
    cloud.google.fault("PATCH|POST .*/services$", "drop", times=1)
    ended = cloud.deploy("1.0.0")
    assert (ended.state, ended.error) == ("serving", "")
    assert "It answers again." in [event.message for event in ended.events.all()]


def test_a_silence_that_does_not_end_fails_and_is_told_once(cloud, settings) -> None:
    settings.ROLLOUT_PATIENCE_SECONDS = 0.2
    cloud.google.fault("GET .*/services/engine", "UNAVAILABLE", "The service is down.", times=60)
    failed = cloud.deploy("1.0.0")
    assert failed.state == "failed"
    assert "It was tried for" in failed.error
    told = [event.message for event in failed.events.all()]
    assert "It answers again." not in told
    assert sum("The service is down" in message for message in told) == 2  # and at the end


def test_cancelled_in_the_middle_of_a_step_it_never_serves(cloud) -> None:
    from tests.google.serving import stand_in

    row = cloud.start("1.0.0")

    def cancelling(asked, env):
        if asked.path.startswith("/score"):
            services.rollout_cancel(row, by="bob", now=timezone.now())
        return stand_in(asked, env)

    cloud.services.serving.program = cancelling
    ended = cloud.drive(row)
    assert (ended.state, ended.error) == ("failed", "It was cancelled by bob.")
    assert cloud.services.services == {}


def test_a_cancelled_rollout_puts_back_what_it_changed(cloud, settings) -> None:
    first = cloud.deploy("1.0.0")
    cloud.services.serving.program = unhealthy
    settings.ROLLOUT_POLL_SECONDS = 0
    second = cloud.start("1.1.0", is_attended=False)
    while Deployment.objects.get(pk=second.pk).state != "probing":
        driver.deployment_step(second.pk, worker="test")
    assert set(cloud.shares()) == {first.tag, second.tag}
    services.rollout_cancel(second, by="bob", now=timezone.now())
    driver.deployment_step(second.pk, worker="test")
    second.refresh_from_db()
    assert (second.state, second.error) == ("failed", "It was cancelled by bob.")
    assert cloud.shares() == {first.tag: 100}
    with pytest.raises(RolloutRefused, match="at its end already"):
        services.rollout_cancel(second, by="bob", now=timezone.now())


def test_workers_take_the_steps_of_what_the_admin_started(cloud) -> None:
    deployment = cloud.start("1.0.0", is_attended=False)
    for _ in range(200):
        now = timezone.now() + timedelta(seconds=1)
        if not services.deployments_send_due(now=now):
            break
        Deployment.objects.filter(pk=deployment.pk).update(next_step_at=timezone.now())
        driver.deployment_step(deployment.pk, worker="test")
    deployment.refresh_from_db()
    assert (deployment.state, deployment.error) == ("serving", "")
