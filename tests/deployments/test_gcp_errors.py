"""What Google refuses is told in its own words and with what to do.

The messages are Google's, as people have reported them (addresses beside each).
"""

import json

import google.auth.exceptions
import pytest
import requests
from google.api_core.exceptions import GoogleAPICallError, RetryError, from_http_response
from google.protobuf.json_format import ParseError

from deployments.gcp.errors import CloudError, cloud_error, translated

RATE = (
    "Quota exceeded for quota metric 'Read requests' and limit 'Read requests per minute per "
    "region' of service 'run.googleapis.com' for consumer 'project_number:1'."
)  # github.com/googleapis/repo-automation-bots/issues/4469
CPU = (
    "spec.template.metadata.annotations[autoscaling.knative.dev/maxScale]: Max instances must be "
    "set to 0 or fewer to set the requested total CPU.\nConsider running your workload in a region "
    "with greater capacity, or requesting an increase in quota for this region.\n\nQuota "
    "violated:\nCpuAllocPerProjectRegion requested: 60000 allowed: 20000"
)  # github.com/googlecodelabs/feedback/issues/1856
CPUS = "Quota 'CPUS' exceeded.  Limit: 8.0 in region us-east1."
# github.com/mesosphere-backup/terraform-dcos/issues/61
GET = (
    "Permission 'run.jobs.get' denied on resource 'projects/p/locations/r/jobs/j' (or resource may "
    "not exist)."
)  # of the form in github.com/google-github-actions/deploy-cloudrun/issues/182
START = "Required 'compute.instances.start' permission for 'projects/p/zones/z/instances/i'"
# of the form in https://cloud.google.com/compute/docs/troubleshooting
ACT_AS = (
    "Permission 'iam.serviceaccounts.actAs' denied on service account "
    "job@p.iam.gserviceaccount.com (or it may not exist)."
)  # github.com/GoogleCloudPlatform/k8s-config-connector/issues/1007
IMAGE = "Image 'gcr.io/p/server' not found."
# github.com/GoogleCloudPlatform/avocano/issues/414
DISABLED = (
    "Compute Engine API has not been used in project p before or it is disabled. Enable it by "
    "visiting https://console.developers.google.com/apis/api/compute.googleapis.com/overview?"
    "project=p then retry. If you enabled this API recently, wait a few minutes for the action to "
    "propagate to our systems and retry."
)  # of the form in github.com/firebase/firebase-tools/issues/10366
BILLING = (
    "This API method requires billing to be enabled. Please enable billing on project #1 by "
    "visiting https://console.developers.google.com/billing/enable?project=1 then retry."
)  # github.com/GoogleCloudPlatform/php-docs-samples/issues/1235
STOCK = (
    "The zone 'projects/p/zones/us-central1-a' does not have enough resources available to fulfill "
    "the request.  Try a different zone, or try again later."
)  # github.com/GoogleCloudPlatform/compute-image-tools/issues/1960

CASES = [
    pytest.param(429, RATE, "quota", True, "iam-admin/quotas?project=shop", id="rate"),
    pytest.param(400, CPU, "quota", False, "--region", id="cpu"),
    pytest.param(403, CPUS, "quota", False, "iam-admin/quotas?project=shop", id="cpus"),
    pytest.param(403, GET, "permission", False, "roles/run.developer", id="run"),
    pytest.param(403, START, "permission", False, "roles/compute.instanceAdmin.v1", id="compute"),
    pytest.param(403, ACT_AS, "permission", False, "roles/iam.serviceAccountUser", id="actas"),
    pytest.param(404, IMAGE, "image", False, "deploy_training_job shop", id="image"),
    pytest.param(403, DISABLED, "api", False, "services enable compute.googleapis.com", id="api"),
    pytest.param(403, BILLING, "billing", False, "linkedaccount?project=shop", id="billing"),
    pytest.param(503, STOCK, "capacity", True, "--zone", id="capacity"),
    pytest.param(404, "Resource 'j' was not found", "not_found", False, "(europe-west1)", id="404"),
    pytest.param(409, "Resource 'j' already exists.", "exists", False, "another name", id="exists"),
    pytest.param(409, "Conflict for resource 'j'", "conflict", True, "try again", id="conflict"),
    pytest.param(500, "An internal error occurred", "network", True, "tried again", id="500"),
    pytest.param(503, "The service is unavailable.", "network", True, "tried again", id="503"),
    pytest.param(401, "Invalid credentials.", "credentials", False, "gcloud auth", id="401"),
    pytest.param(400, "job: unknown field", "", False, "Google says", id="unknown"),
]


PERMISSIONS = {
    "run.services.setIamPolicy": "roles/run.admin",
    "run.services.update": "roles/run.developer",
    "storage.buckets.get": "roles/storage.admin",
    "storage.objects.get": "roles/storage.objectAdmin",
    "artifactregistry.repositories.create": "roles/artifactregistry.admin",
    "secretmanager.secrets.create": "roles/secretmanager.admin",
    "cloudsql.instances.create": "roles/cloudsql.admin",
    "redis.instances.create": "roles/redis.admin",
    "resourcemanager.projects.setIamPolicy": "roles/resourcemanager.projectIamAdmin",
    "vpcaccess.connectors.use": "ROLE",
}


@pytest.fixture(autouse=True)
def place(settings):
    settings.GOOGLE_CLOUD_PROJECT = "shop"
    settings.GOOGLE_CLOUD_REGION = "europe-west1"


def answer(status: int, body: str) -> GoogleAPICallError:
    """What the client library raises for an answer."""
    response = requests.Response()
    response.status_code = status
    response._content = body.encode()
    response.request = requests.Request("POST", "https://run.googleapis.com/v2/x").prepare()
    return from_http_response(response)


def raised(error: BaseException) -> CloudError:
    with pytest.raises(CloudError) as caught, translated("Starting the job"):
        raise error
    return caught.value


@pytest.mark.parametrize(("status", "words", "reason", "is_transient", "advice"), CASES)
def test_a_refusal_keeps_googles_words_and_says_what_to_do(
    status, words, reason, is_transient, advice
):
    body = json.dumps({"error": {"code": status, "message": words, "status": "X"}})
    error = raised(answer(status, body))
    assert (error.reason, error.is_transient) == (reason, is_transient)
    assert error.detail.startswith(f"Starting the job: Google says “{words}”")
    assert advice in error.detail
    assert "{" not in error.detail


@pytest.mark.parametrize("permission", PERMISSIONS)
def test_the_role_that_is_advised_has_the_permission(permission):
    words = f"Permission '{permission}' denied on resource '//run.googleapis.com/projects/p/x'."
    error = raised(answer(403, json.dumps({"error": {"code": 403, "message": words}})))
    assert f"--role {PERMISSIONS[permission]}." in error.detail


def test_the_reason_in_the_details_counts():
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "SERVICE_DISABLED",
        "domain": "googleapis.com",
    }
    body = json.dumps({"error": {"code": 403, "message": "Refused.", "details": [info]}})
    assert raised(answer(403, body)).reason == "api"


def test_the_error_of_an_operation_is_told_by_its_code():
    error = cloud_error("Starting the machine", "No luck.", codes="ZONE_RESOURCE_POOL_EXHAUSTED")
    assert error.reason == "capacity"
    assert "No luck." in error.detail


def test_the_advice_names_the_project_that_is_used():
    with pytest.raises(CloudError, match="--project other"), translated("x", project="other"):
        raise answer(403, json.dumps({"error": {"message": DISABLED}}))


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("Connection refused"),
        requests.ReadTimeout("read timed out"),
        requests.exceptions.ChunkedEncodingError("IncompleteRead(10 bytes read, 10 more expected)"),
        json.JSONDecodeError("Expecting value", "{", 1),
        ParseError("Failed to load JSON"),
        google.auth.exceptions.TransportError("the metadata server is away"),
        RetryError("Timeout of 30.0s exceeded", requests.ConnectionError("refused")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_does_not_arrive_is_tried_again(error):
    found = raised(error)
    assert (found.reason, found.is_transient) == ("network", True)
    assert "tried again" in found.detail


def test_a_retry_that_gave_up_is_told_by_its_cause():
    cause = answer(503, json.dumps({"error": {"message": "Busy."}}))
    found = raised(RetryError("Timeout of 30.0s exceeded", cause))
    assert found.detail.startswith("Starting the job: Google says “Busy.”")


def test_missing_credentials_say_how_to_log_in():
    error = google.auth.exceptions.DefaultCredentialsError(
        "Your default credentials were not found"
    )
    found = raised(error)
    assert (found.reason, found.is_transient) == ("credentials", False)
    assert "gcloud auth application-default login" in found.detail


def test_an_error_of_ours_stays_what_it_is():
    with pytest.raises(KeyError), translated("x"):
        raise KeyError("a fault of the program")
