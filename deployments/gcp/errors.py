"""What went wrong at Google, in Google's words and with what to do."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from django.conf import settings

from engine.errors import SentinelleError


class CloudError(SentinelleError):
    """Google refused a call, or could not be reached.

    `is_transient` when the same call may succeed later without anybody doing anything.
    """

    code = "CLOUD_ERROR"

    def __init__(self, detail: str, *, is_transient: bool = False, reason: str = "") -> None:
        super().__init__(detail)
        self.is_transient = is_transient
        self.reason = reason
        """A word that callers branch on: `not_found`, `exists`, `quota`, `permission`,
        `credentials`, `api`, `billing`, `image`, `capacity`, `network`, `conflict`, `limit`,
        `memory`, `timeout`, `secret`, `container`, `policy`, or empty."""


class Fault(NamedTuple):
    """What a refusal means. The first of FAULTS that fits it holds."""

    reason: str
    is_transient: bool
    statuses: tuple[int, ...]
    """HTTP statuses it comes with; empty: any."""
    words: str
    """Regular expression that Google's words or its codes match; empty: any."""
    advice: str
    """What to do. Fields: project, region, role, service (Google's), and those of WORDS."""


QUOTA_PAGE = "https://console.cloud.google.com/iam-admin/quotas?project={project}"
FAULTS = (
    Fault(
        "billing", False, (),
        r"BILLING_DISABLED|BILLING_NOT_FOUND|billing to be enabled|has billing disabled"
        r"|billing account for|Billing account .* not found",
        "Link the project to a billing account: "
        "https://console.cloud.google.com/billing/linkedaccount?project={project}.",
    ),
    Fault(
        "api", False, (), r"SERVICE_DISABLED|has not been used in project|it is disabled",
        "Enable the API: gcloud services enable {service} --project {project}. "
        "It takes some minutes to hold.",
    ),
    Fault(
        "capacity", True, (),
        r"RESOURCE_POOL_EXHAUSTED|resource_availability|enough resources available|STOCKOUT",
        "Google has no such machine free in this zone now. Try later, or another zone (--zone) or "
        "machine type (--machine-type).",
    ),
    Fault(
        "quota", True, (), r"per minute|RATE_LIMIT_EXCEEDED|rateLimitExceeded|INSUFFICIENT_TOKENS",
        "There were too many calls within a minute: it is tried again. If it stays, look at "
        + QUOTA_PAGE + ".",
    ),
    Fault(
        "quota", False, (), r"[Qq]uota|AllocPerProjectRegion|requested total (CPU|memory)"
        r"|[Mm]ax instances must be set to",
        "Ask for more at " + QUOTA_PAGE + ", ask for less ({resize} {less}), or use another region "
        "(--region).",
    ),
    Fault("quota", True, (429,), "", "It is tried again. Your quotas: " + QUOTA_PAGE + "."),
    Fault(
        "permission", False, (), r"downloadArtifacts|IMAGE_UNAUTHORIZED|does not have permission "
        r"to (access|read) the image|must have permission to read the image",
        "Cloud Run's service agent (service-PROJECT_NUMBER@serverless-robot-prod.iam."
        "gserviceaccount.com) needs the role roles/artifactregistry.reader on the image's "
        "repository.",
    ),
    Fault(
        "image", False, (), r"[Ii]mage '[^']*' (was )?not found|CONTAINER_MISSING"
        r"|(MANIFEST|NAME)_UNKNOWN|manifest unknown|failed to resolve reference",
        "Build and push it: {build}; or name one that is there: {resize} --image IMAGE.",
    ),
    Fault(
        "secret", False, (), r"Permission denied on secret|secretmanager\.versions\.access",
        "The account that the revision runs as needs the role roles/secretmanager.secretAccessor "
        "on that secret: gcloud secrets add-iam-policy-binding SECRET --member "
        "serviceAccount:ACCOUNT --role roles/secretmanager.secretAccessor --project {project}.",
    ),
    Fault(
        "secret", False, (), r"(?i)\bsecret\S* projects/\S+/versions/\S+ was not found",
        "Give the secret a value: gcloud secrets versions add SECRET --data-file=- --project "
        "{project}; manage.py setup_cloud makes the secret itself.",
    ),
    Fault(
        "container", False, (), r"container failed to start|[Ff]ailed to start and( then)? listen"
        r"|HealthCheckContainerError|[Ss]tartup probe|Application failed to start",
        "Its log says why: {logs}.",
    ),
    Fault(
        "policy", False, (), r"do(es)? not belong to a permitted customer|allowedPolicyMember",
        "The organisation of the project allows no public service (its policy "
        "constraints/iam.allowedPolicyMemberDomains): leave the service private, and have its "
        "callers send an ID token.",
    ),
    Fault(
        "permission", False, (), r"(?i)serviceAccounts\.actAs",
        "Who runs Sentinelle needs the role roles/iam.serviceAccountUser on that service account: "
        "gcloud iam service-accounts add-iam-policy-binding SERVICE_ACCOUNT --member "
        "serviceAccount:ACCOUNT --role roles/iam.serviceAccountUser --project {project}.",
    ),
    Fault(
        "permission", False, (403,), "",
        "Grant the role to the account that Sentinelle uses: gcloud projects "
        "add-iam-policy-binding {project} --member serviceAccount:ACCOUNT --role {role}.",
    ),
    Fault(
        "credentials", False, (401,), "",
        "Log in (gcloud auth application-default login), or have Sentinelle run as a service "
        "account.",
    ),
    Fault(
        "limit", False, (400,), r"resources\.limits|[Ii]nvalid value specified for (cpu|memory)"
        r"|(timeout|max_?retries|retries|concurrency|max_?instance_?count)[^.]*(must|exceed|between)",
        "What Cloud Run allows: {resize} --help.",
    ),
    Fault(
        "exists", False, (409,), r"already exists|ALREADY_EXISTS",
        "Choose another name, or use what is there.",
    ),
    Fault("conflict", True, (409, 412), "", "Something else changed it meanwhile: try again."),
    Fault(
        "not_found", False, (404,), "",
        "Look at its name, at the project ({project}) and at the region ({region}).",
    ),
    Fault(
        "network", True, (408, 500, 502, 503, 504), "",
        "The fault is at Google's side: it is tried again. https://status.cloud.google.com tells "
        "of longer ones.",
    ),
    Fault(
        "memory", False, (), r"Memory limit|exit code:? 137|signal:? 9\b|OOM",
        "It needs more memory than it has: {resize} --memory 16Gi (see --help for what the "
        "processors allow){sample}.",
    ),
    Fault(
        "timeout", False, (), r"timeout was reached|maximum timeout|timed out",
        "It needs longer than it may take: {resize} --timeout SECONDS, or give it more processors "
        "(--cpu).",
    ),
)  # fmt: skip
UNREACHABLE = (
    "Google was not reached, or its answer was cut off: it is tried again. If it stays, look at "
    "this machine's network."
)
# What an advice says of a job and of a service.
WORDS = {
    "job": {
        "resize": "manage.py jobs update",
        "less": "--cpu 4 --memory 8Gi",
        "build": "manage.py deploy_training_job {project} {name} {region} VERSION",
        "sample": ", or train on fewer rows (--sample)",
        "logs": "manage.py jobs logs",
    },
    "service": {
        "resize": "manage.py services update {name}",
        "less": "--max-instances 3 --cpu 1 --memory 1Gi",
        "build": "manage.py deploy_ml_engine {project} {name} {region} VERSION",
        "sample": "",
        "logs": "manage.py services logs {name}",
    },
}
# What holds the permissions of a service, the first that fits.
ROLES = {
    r"run\.\w+\.setIamPolicy": "roles/run.admin",
    r"run\.": "roles/run.developer",
    r"compute\.": "roles/compute.instanceAdmin.v1",
    r"storage\.buckets\.": "roles/storage.admin",
    r"storage\.": "roles/storage.objectAdmin",
    r"logging\.": "roles/logging.viewer",
    r"monitoring\.": "roles/monitoring.viewer",
    r"artifactregistry\.repositories\.(create|update|delete|setIamPolicy)\b": (
        "roles/artifactregistry.admin"
    ),
    r"artifactregistry\.": "roles/artifactregistry.reader",
    r"iam\.": "roles/iam.serviceAccountAdmin",
    r"serviceusage\.": "roles/serviceusage.serviceUsageAdmin",
    r"secretmanager\.": "roles/secretmanager.admin",
    r"resourcemanager\.": "roles/resourcemanager.projectIamAdmin",
    r"cloudbuild\.": "roles/cloudbuild.builds.editor",
    r"cloudfunctions\.": "roles/cloudfunctions.developer",
    r"cloudsql\.": "roles/cloudsql.admin",
    r"redis\.": "roles/redis.admin",
}
PERMISSION = r"(?<![\w.@-])([a-z]+\.(?!googleapis|gserviceaccount)[a-zA-Z]+\.[a-zA-Z]+)\b(?!\.)"


@contextmanager
def translated(
    what: str, *, project: str = "", region: str = "", service: str = ""
) -> Iterator[None]:
    """Turn every error of Google's client libraries into a CloudError.

    Args:
        what: what was being done (“Starting the job sentinelle-training”).
        project, region: for the advice; those of the settings unless given.
        service: the Cloud Run service that it is about, if it is about one.
    """
    import requests
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError
    from google.protobuf.json_format import ParseError

    place = {"project": project, "region": region, "service": service}
    try:
        yield
    except (GoogleAPICallError, RetryError) as error:
        cause = error.cause if isinstance(error, RetryError) else error
        if isinstance(cause, GoogleAPICallError):
            words, codes, status = _said(cause)
            raise cloud_error(what, words, status=status, codes=codes, **place) from error
        raise _unreachable(what, cause or error) from error
    except (requests.RequestException, ParseError, json.JSONDecodeError) as error:
        raise _unreachable(what, error) from error
    except GoogleAuthError as error:
        if error.retryable or type(error).__name__ in ("TransportError", "TimeoutError"):
            raise _unreachable(what, error) from error
        raise cloud_error(what, str(error), status=401, **place) from error


@contextmanager
def missing_accepted() -> Iterator[None]:
    """Go on after the block when what it asks for is not there."""
    try:
        yield
    except CloudError as error:
        if error.reason != "not_found":
            raise


def cloud_error(
    what: str,
    words: str,
    *,
    status: int = 0,
    codes: str = "",
    project: str = "",
    region: str = "",
    service: str = "",
) -> CloudError:
    """The error for what Google said, as in the error of an operation.

    Args:
        words: Google's message.
        status: of the HTTP answer, if there was one.
        codes: names that came with it (`ZONE_RESOURCE_POOL_EXHAUSTED`).
        service: the Cloud Run service that it is about, if it is about one.
    """
    fault = fault_of(words, status=status, codes=codes)
    advice = "" if fault is None else advice_of(fault, words, project, region, service)
    said = quoted(words.strip() or codes or f"status {status}")
    return CloudError(
        f"{what}: Google says {said} {advice}".rstrip(),
        is_transient=fault is not None and fault.is_transient,
        reason="" if fault is None else fault.reason,
    )


def quoted(words: str) -> str:
    """Google's words in a sentence that ends."""
    return f"“{words}”" if words.endswith((".", "!", "?")) else f"“{words}”."


def fault_of(words: str, *, status: int = 0, codes: str = "") -> Fault | None:
    """Which of FAULTS it is, if one fits."""
    text = f"{codes} {words}"
    for fault in FAULTS:
        if fault.statuses and status not in fault.statuses:
            continue
        if re.search(fault.words, text):
            return fault
    return None


def advice_of(
    fault: Fault, words: str, project: str = "", region: str = "", service: str = ""
) -> str:
    """What to do about it, with the names that the words have.

    Args:
        service: of Cloud Run, if it is about one.
    """
    names = {
        "project": project or settings.GOOGLE_CLOUD_PROJECT or "PROJECT",
        "region": region or settings.GOOGLE_CLOUD_REGION,
        "name": service or settings.TRAINING_JOB,
    }
    commands = WORDS["service" if service else "job"]
    return fault.advice.format(
        **names,
        **{key: text.format(**names) for key, text in commands.items()},
        role=_role(_found(PERMISSION, words)),
        service=_found(r"\b([a-z]+\.googleapis\.com)/", words) or "run.googleapis.com",
    )


def _role(permission: str) -> str:
    """What has a permission; ROLE where that is not known here."""
    return next((role for words, role in ROLES.items() if re.match(words, permission)), "ROLE")


def _said(error: Any) -> tuple[str, str, int]:
    """Google's words without the address that the library puts before them, the codes of the
    error, and its status."""
    words = re.sub(r"^(GET|POST|PATCH|PUT|DELETE) https?://\S+: ", "", error.message or str(error))
    codes = [str(error.reason or "")]
    codes += [str(item.get("reason", "")) for item in error.errors if isinstance(item, dict)]
    return words, " ".join(filter(None, codes)), int(error.code or 0)


def _found(pattern: str, words: str) -> str:
    match = re.search(pattern, words)
    return "" if match is None else match[1]


def _unreachable(what: str, error: Any) -> CloudError:
    words = f"{what}: {type(error).__name__}: {error}. {UNREACHABLE}"
    return CloudError(words, is_transient=True, reason="network")
