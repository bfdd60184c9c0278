"""Cloud Run services through Google's own client, against a local Cloud Run."""

from collections import Counter

import pytest
import requests

from deployments.gcp import invokers, run_services
from deployments.gcp.containers import Change, Network, Secret
from deployments.gcp.errors import CloudError
from deployments.gcp.run_services import service_deploy, service_describe, service_ensure
from deployments.gcp.services import NEW_SERVICE, ServiceName, ServiceSpec, Traffic
from engine.errors import RunRefused
from tests.google.runs import PROJECT, REGION
from tests.google.services import NEVER, NOT_STARTED
from tests.google.serving import Answer

pytestmark = pytest.mark.usefixtures("google_services")
NAME = ServiceName(PROJECT, REGION, "sentinelle-ml-engine")
IMAGE = "europe-west1-docker.pkg.dev/test-project/sentinelle/sentinelle:1.0.0"
DATABASE = "test-project:europe-west1:sentinelle"
SPEC = NEW_SERVICE._replace(
    image=IMAGE,
    service_account="sentinelle-serving@test-project.iam.gserviceaccount.com",
    env={"MODEL_VERSION": "1.0.0", "BUCKET_NAME": "b"},
    secrets={"SECRET_KEY": Secret("sentinelle-secret-key")},
    databases=(DATABASE,),
    network=Network("default", "default"),
)
ANSWER = Answer(200, {}, b"{}")
FIRST, SECOND = "sentinelle-ml-engine-v1-0-0-a1", "sentinelle-ml-engine-v1-1-0-b2"


@pytest.fixture(autouse=True)
def world(google_run):
    google_run.world.secrets["sentinelle-secret-key"] = ["k" * 50]
    google_run.world.databases[DATABASE] = "/tmp/socket"
    return google_run.world


def first():
    return service_ensure(NAME, SPEC, tag="v1-0-0-a1")


def second(**changes):
    spec = ServiceSpec(env={"MODEL_VERSION": "1.1.0"})._replace(**changes)
    return service_ensure(NAME, spec, tag="v1-1-0-b2")


def shares(info):
    return [(one.revision, one.percent, one.tag) for one in info.traffic]


def versions(url, times):
    """Which version answered how often to a caller who has the role."""
    invokers.invoker_add(NAME, "serviceAccount:worker@test")
    token = invokers.id_token(service_describe(NAME).url)
    headers = {invokers.TOKEN_HEADER: f"Bearer {token}"}
    answers = [requests.get(f"{url}/health", headers=headers, timeout=9) for _ in range(times)]
    return Counter(answer.json()["model_version"] for answer in answers)


# --- Deploying ------------------------------------------------------------------------------


def test_a_first_deployment_makes_the_service_with_what_was_asked():
    service, deployed = first()
    assert deployed.is_first
    assert deployed.changes == [Change("service", "none", "sentinelle-ml-engine")]
    assert (service.image, service.cpu, service.memory_mb) == (IMAGE, 2, 2048)
    assert (service.timeout_s, service.concurrency) == (300, 80)
    assert (service.min_instances, service.max_instances) == (0, 10)
    assert service.env == {"MODEL_VERSION": "1.0.0", "BUCKET_NAME": "b"}
    assert service.secrets == {"SECRET_KEY": Secret("sentinelle-secret-key", "latest")}
    assert (service.databases, service.network) == ((DATABASE,), Network("default", "default"))
    assert (service.ingress, service.problem) == ("all", "")
    assert service.labels == {"sentinelle": "serving"}
    assert shares(service) == [(FIRST, 100, "v1-0-0-a1")]
    assert service.url.startswith("http://")


def test_its_message_says_what_resources_default_to_otherwise(google_services):
    first()
    box = google_services.services[NAME.full].template.containers[0]
    assert (box.resources.cpu_idle, box.resources.startup_cpu_boost) == (True, True)
    assert [(mount.name, mount.mount_path) for mount in box.volume_mounts] == [
        ("cloudsql", "/cloudsql")
    ]


def test_a_new_revision_gets_a_tag_and_no_traffic():
    first()
    service, deployed = second()
    assert not deployed.is_first
    assert deployed.changes == [Change("env MODEL_VERSION", "1.0.0", "1.1.0")]
    assert shares(service) == [(FIRST, 100, "v1-0-0-a1"), (SECOND, 0, "v1-1-0-b2")]
    assert service.env == {"MODEL_VERSION": "1.1.0", "BUCKET_NAME": "b"}
    found = run_services.revisions_list(NAME)
    assert [(one.name, one.state) for one in found] == [(SECOND, "ready"), (FIRST, "ready")]
    assert found[1].env["MODEL_VERSION"] == "1.0.0"


def test_what_follows_the_newest_revision_is_tied_to_the_one_it_is(google_services):
    first()
    service = google_services.services[NAME.full]
    service.traffic = [{"type_": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100}]
    assert shares(second()[0]) == [(FIRST, 100, ""), (SECOND, 0, "v1-1-0-b2")]


def test_what_another_tool_gave_its_container_stays(google_services):
    first()
    template = google_services.services[NAME.full].template
    template.volumes.append({"name": "scratch", "empty_dir": {"size_limit": "1Gi"}})
    template.containers[0].volume_mounts.append({"name": "scratch", "mount_path": "/scratch"})
    second(databases=(DATABASE,))
    template = google_services.services[NAME.full].template
    assert [volume.name for volume in template.volumes] == ["scratch", "cloudsql"]
    paths = [mount.mount_path for mount in template.containers[0].volume_mounts]
    assert paths == ["/scratch", "/cloudsql"]


def test_deployed_again_with_the_same_tag_it_is_found(google_services):
    first(), second()
    google_services.google.calls.clear()
    service, deployed = second()
    assert (deployed.revision, deployed.changes) == (SECOND, [])
    assert {call.split()[0] for call in google_services.google.calls} == {"GET"}
    assert len(service.traffic) == 2


def test_a_deployment_whose_answer_was_lost_is_found_again(google_services):
    google_services.google.fault("POST .*/services", "late")
    with pytest.raises(CloudError) as lost:
        service_deploy(NAME, SPEC, tag="v1-0-0-a1")
    assert lost.value.is_transient
    _, deployed = first()
    assert (deployed.is_first, deployed.changes) == (True, [])


def test_what_somebody_else_serves_under_the_name_is_left_alone(google_services):
    first()
    google_services.services[NAME.full].labels = {"team": "payments"}
    with pytest.raises(CloudError, match=r"--update-labels sentinelle=serving --region eu") as no:
        second()
    assert no.value.reason == "exists"
    assert len(google_services.revisions) == 1


def test_the_tag_of_a_revision_without_traffic_is_left_behind():
    first(), second()
    service, _ = service_ensure(NAME, ServiceSpec(cpu=4), tag="v1-1-0-c3")
    assert [one.tag for one in service.traffic] == ["v1-0-0-a1", "v1-1-0-c3"]


def test_a_change_by_someone_else_in_between_is_a_conflict(google_services, monkeypatch):
    first()
    look = run_services._service

    def look_and_be_overtaken(name):
        service = look(name)
        google_services.services[NAME.full].etag = '"another"'
        return service

    monkeypatch.setattr(run_services, "_service", look_and_be_overtaken)
    with pytest.raises(CloudError) as refused:
        service_deploy(NAME, ServiceSpec(cpu=4), tag="v1-1-0-c3")
    assert (refused.value.reason, refused.value.is_transient) == ("conflict", True)
    assert "version '" in refused.value.detail


def test_variables_go_and_come_to_be_secrets():
    first()
    service, deployed = second(
        env={"MODEL_VERSION": None}, secrets={"BUCKET_NAME": Secret("sentinelle-secret-key", "1")}
    )
    assert service.env == {}
    assert deployed.changes == [
        Change("env BUCKET_NAME", "b", "secret sentinelle-secret-key:1"),
        Change("env MODEL_VERSION", "1.0.0", "none"),
    ]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ServiceSpec(cpu=3), "cpu: 3 processors; Cloud Run has 1, 2, 4, 6 or 8"),
        (ServiceSpec(cpu=1, memory_mb=8192), "1 processors may have 512Mi to 4Gi; 8Gi goes with"),
        (ServiceSpec(timeout_s=7200), "timeout_s: 7200; allowed are 1 to 3600"),
        (ServiceSpec(min_instances=20), "min_instances: 20; that is more than the most"),
    ],
    ids=["cpu", "memory", "timeout", "instances"],
)
def test_what_cloud_run_does_not_allow_is_not_even_asked(google_services, spec, words):
    first()
    google_services.google.calls.clear()
    with pytest.raises(RunRefused, match=words):
        service_deploy(NAME, spec, tag="v1-1-0-c3")
    assert not [call for call in google_services.google.calls if not call.startswith("GET")]


def test_a_name_that_is_too_long_for_an_address_is_told_before_google_is_asked(google_services):
    long = NAME._replace(service="s" * 40)
    with pytest.raises(CloudError, match=r"characters or fewer \(they are 49\)") as refused:
        service_deploy(long, SPEC, tag="v1-0-0-a1")
    assert refused.value.reason == "limit"
    assert google_services.google.calls == []


# --- What goes wrong ------------------------------------------------------------------------


def test_an_image_that_is_missing_leaves_the_old_revision_serving(google_services):
    first()
    google_services.run.images = {IMAGE}
    with pytest.raises(CloudError) as refused:
        second(image="europe-west1-docker.pkg.dev/p/r/sentinelle:9")
    assert refused.value.reason == "image"
    assert "The revision sentinelle-ml-engine-v1-1-0-b2 did not start: Google says" in (
        refused.value.detail
    )
    assert "manage.py deploy_ml_engine test-project sentinelle-ml-engine europe-west1 VERSION" in (
        refused.value.detail
    )
    service = service_describe(NAME)
    assert shares(service) == [(FIRST, 100, "v1-0-0-a1")]
    assert SECOND in service.problem
    assert versions(service.url, 3) == {"v1.0.0": 3}


def test_a_container_that_does_not_start_is_told_with_where_its_log_is(google_services):
    first()
    google_services.outcomes = [NOT_STARTED]
    with pytest.raises(CloudError, match=r"manage\.py services logs sentinelle-ml-e") as refused:
        second()
    assert refused.value.reason == "container"


def test_a_quota_that_a_revision_meets_is_told_as_that(google_services):
    first()
    google_services.outcomes = [
        "You do not have quota for MemAllocPerProjectRegion in europe-west1."
    ]
    with pytest.raises(CloudError, match="ask for less") as refused:
        second()
    assert (refused.value.reason, refused.value.is_transient) == ("quota", False)


def test_after_a_revision_that_failed_another_is_deployed(google_services):
    first()
    google_services.outcomes = [NOT_STARTED]
    with pytest.raises(CloudError):
        second()
    service, _ = service_ensure(NAME, ServiceSpec(cpu=4), tag="v1-1-0-c3")
    assert [one.tag for one in service.traffic] == ["v1-0-0-a1", "v1-1-0-c3"]
    assert service.problem == ""


def test_a_secret_that_may_not_be_read_is_told_with_the_role(world):
    world.denied.add("sentinelle-secret-key")
    with pytest.raises(CloudError, match=r"roles/secretmanager\.secretAccessor") as refused:
        first()
    assert refused.value.reason == "secret"


def test_a_secret_without_a_value_is_told_with_how_to_give_it(world):
    world.secrets.clear()
    with pytest.raises(CloudError, match="gcloud secrets versions add SECRET") as refused:
        first()
    assert refused.value.reason == "secret"


def test_a_revision_that_never_becomes_ready_is_not_waited_for_for_ever(
    google_services, monkeypatch
):
    monkeypatch.setattr(run_services, "READY_SECONDS", 0.1)
    google_services.outcomes, told = [NEVER], []
    with pytest.raises(CloudError, match="Google has not finished it") as refused:
        service_ensure(NAME, SPEC, tag="v1-0-0-a1", tell=told.append)
    assert refused.value.is_transient
    assert told[0] == f"waiting for {FIRST}, 0 s"


@pytest.mark.parametrize(
    ("status", "words", "is_transient"),
    [
        ("RESOURCE_EXHAUSTED", "Quota exceeded for total allowable CPU per project per region.",
         False),
        ("INVALID_ARGUMENT", "Max instances must be set to 5 or fewer in order to set the "
         "requested total CPU.", False),
        ("RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Write requests' and limit 'Write "
         "requests per minute per region'.", True),
    ],
    ids=["cpu", "instances", "writes"],
)  # fmt: skip
def test_a_quota_is_told_with_what_to_ask_less_of(google_services, status, words, is_transient):
    first()
    google_services.google.fault("PATCH .*/services/", status, words)
    with pytest.raises(CloudError) as refused:
        second()
    assert (refused.value.reason, refused.value.is_transient) == ("quota", is_transient)
    assert words in refused.value.detail
    if not is_transient:
        assert "manage.py services update sentinelle-ml-engine --max-instances" in (
            refused.value.detail
        )
    assert shares(service_describe(NAME)) == [(FIRST, 100, "v1-0-0-a1")]


# --- Traffic --------------------------------------------------------------------------------


def test_a_canary_answers_its_share_and_its_tag_answers_alone():
    first(), second()
    service = run_services.traffic_set(
        NAME, [Traffic(FIRST, 90, "v1-0-0-a1"), Traffic(SECOND, 10, "v1-1-0-b2")]
    )
    assert shares(service) == [(FIRST, 90, "v1-0-0-a1"), (SECOND, 10, "v1-1-0-b2")]
    assert versions(service.url, 200) == {"v1.0.0": 180, "v1.1.0": 20}
    assert versions(service.of(SECOND).url, 5) == {"v1.1.0": 5}


def test_traffic_moves_and_moves_back(google_services):
    first(), second()
    promoted = run_services.traffic_set(NAME, [Traffic(SECOND, 100, "v1-1-0-b2")])
    # And no new revision, whatever else changed.
    assert google_services.masks[-1] == ["traffic", "scaling"]
    assert versions(promoted.url, 5) == {"v1.1.0": 5}
    # The first has lost its tag and is there still.
    back = run_services.traffic_set(NAME, [Traffic(FIRST, 100)])
    assert versions(back.url, 5) == {"v1.0.0": 5}


def test_traffic_as_it_is_already_is_not_written(google_services):
    first()
    google_services.google.calls.clear()
    run_services.traffic_set(NAME, [Traffic(FIRST, 100, "v1-0-0-a1")])
    assert {call.split()[0] for call in google_services.google.calls} == {"GET"}


def test_two_who_move_traffic_at_once_do_not_overwrite_one_another():
    service, _ = first()
    second()
    with pytest.raises(CloudError) as refused:
        run_services.traffic_set(NAME, [Traffic(SECOND, 100)], etag=service.etag)
    assert refused.value.reason == "conflict"
    assert service_describe(NAME).of(FIRST).percent == 100


def test_traffic_to_a_revision_that_failed_is_refused_and_nothing_moves(google_services):
    first()
    google_services.outcomes = [NOT_STARTED]
    with pytest.raises(CloudError):
        second()
    with pytest.raises(CloudError, match=f"Revision '{SECOND}' is not ready"):
        run_services.traffic_set(NAME, [Traffic(SECOND, 100)])
    assert versions(service_describe(NAME).url, 3) == {"v1.0.0": 3}


def test_traffic_moves_although_the_newest_revision_failed(google_services):
    first(), second()
    google_services.outcomes = [NOT_STARTED]
    with pytest.raises(CloudError):
        service_ensure(NAME, ServiceSpec(cpu=4), tag="v1-1-0-c3")
    service = run_services.traffic_set(NAME, [Traffic(SECOND, 100)])
    assert shares(service) == [(SECOND, 100, "")]


def test_traffic_that_is_not_a_hundred_or_goes_nowhere_is_refused():
    first()
    with pytest.raises(CloudError, match=f"100 % together; found {FIRST} 90 %"):
        run_services.traffic_set(NAME, [Traffic(FIRST, 90)])
    with pytest.raises(CloudError, match="Revision named 'no-such' not found"):
        run_services.traffic_set(NAME, [Traffic("no-such", 100)])


# --- Who may call ---------------------------------------------------------------------------


def test_a_service_is_private_until_it_is_said_to_be_public():
    service, _ = first()
    assert not invokers.is_public(NAME)
    assert requests.get(f"{service.url}/health", timeout=9).status_code == 403
    assert invokers.public_set(NAME, True) is True
    assert invokers.public_set(NAME, True) is False
    assert requests.get(f"{service.url}/health", timeout=9).status_code == 200
    assert invokers.public_set(NAME, False) is True
    assert requests.get(f"{service.url}/health", timeout=9).status_code == 403


def test_whoever_has_an_account_at_google_is_everybody_too(google_services):
    first()
    invokers.invoker_add(NAME, "allAuthenticatedUsers")
    assert invokers.is_public(NAME)
    assert invokers.public_set(NAME, False) is True
    assert invokers.invokers(NAME) == []


def test_who_has_the_role_is_let_in_with_a_token_for_this_service(google_services):
    service, _ = first()
    seen = []
    google_services.serving.program = lambda asked, env: (seen.append(asked), ANSWER)[1]
    headers = {
        invokers.TOKEN_HEADER: f"Bearer {invokers.id_token(service.url)}",
        "Authorization": "Api-Key ours",
    }
    url = f"{service.of(FIRST).url}/score"
    assert requests.post(url, headers=headers, timeout=9).status_code == 403
    assert invokers.invoker_add(NAME, "serviceAccount:worker@test") is True
    assert requests.post(url, headers=headers, timeout=9).status_code == 200
    # Cloud Run takes its own header away; ours arrives, at the address that Google has for it.
    assert seen[0].headers["authorization"] == "Api-Key ours"
    assert "x-serverless-authorization" not in seen[0].headers
    assert seen[0].headers["Host"].startswith("v1-0-0-a1---sentinelle-ml-engine-")
    other = {invokers.TOKEN_HEADER: f"Bearer {invokers.id_token('https://another')}"}
    assert requests.post(url, headers=other, timeout=9).status_code == 403
    assert invokers.invoker_remove(NAME, "serviceAccount:worker@test") is True
    assert requests.post(url, headers=headers, timeout=9).status_code == 403


def test_what_else_a_policy_says_stays(google_services):
    first()
    policy = google_services.policies[NAME.full]
    policy.version = 3
    policy.bindings.add(role="roles/run.viewer", members=["user:a@b.fr"])
    at_night = policy.bindings.add(role=invokers.ROLE, members=["allUsers"])
    at_night.condition.expression = "request.time.getHours() < 6"
    before = list(policy.bindings)
    assert not invokers.is_public(NAME)
    assert invokers.public_set(NAME, True) is True
    assert invokers.public_set(NAME, False) is True
    assert list(google_services.policies[NAME.full].bindings) == before


def test_an_organisation_that_allows_no_public_service_is_told_as_that(google_services):
    first()
    google_services.google.fault(
        "setIamPolicy", "FAILED_PRECONDITION",
        "One or more users named in the policy do not belong to a permitted customer.",
    )  # fmt: skip
    with pytest.raises(CloudError, match="leave the service private") as refused:
        invokers.public_set(NAME, True)
    assert refused.value.reason == "policy"


# --- Listing and deleting -------------------------------------------------------------------


def test_ours_alone_are_listed_all_pages_of_them(google_services):
    for number in range(4):
        service_ensure(NAME._replace(service=f"s-{number}"), SPEC, tag="v1")
    google_services.services[NAME._replace(service="s-2").full].labels = {}
    names = [one.name for one in run_services.service_list(PROJECT, REGION)]
    assert names == ["s-0", "s-1", "s-3"]


def test_a_service_is_deleted_and_answers_no_more():
    service, _ = first()
    run_services.service_delete(NAME)
    with pytest.raises(CloudError) as refused:
        run_services.service_delete(NAME)
    assert refused.value.reason == "not_found"
    with pytest.raises(requests.ConnectionError):
        requests.get(service.url, timeout=2)


def test_a_revision_is_deleted_once_nothing_refers_to_it():
    first(), second()
    with pytest.raises(CloudError, match="actively serving"):
        run_services.revision_delete(NAME, FIRST)
    run_services.traffic_set(NAME, [Traffic(SECOND, 100)])
    run_services.revision_delete(NAME, FIRST)
    assert [one.name for one in run_services.revisions_list(NAME)] == [SECOND]
