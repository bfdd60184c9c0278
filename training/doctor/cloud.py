"""The checks of a Google Cloud project: its set-up, job, machine and services."""

from collections.abc import Callable

from django.conf import settings
from django.utils import timezone

from deployments.gcp import clients, executions, machines, run_jobs, run_services
from deployments.gcp.containers import short
from deployments.gcp.errors import CloudError, missing_accepted, translated
from deployments.gcp.grants import Names
from deployments.gcp.invokers import id_token
from deployments.gcp.rest import send
from deployments.gcp.run_jobs import JobName
from deployments.gcp.setup import Step
from deployments.models import CloudService
from deployments.rollouts import specs
from deployments.rollouts.errors import RolloutFailed
from deployments.rollouts.probe import NotYet, probe
from deployments.rollouts.services import deployment_serving
from training import provisioning
from training.doctor.checks import Check, Fault, NotLooked
from training.launchers.vm import RUN


def checks() -> list[Check]:
    """Every check of the project GOOGLE_CLOUD_PROJECT, in order."""
    if not settings.GOOGLE_CLOUD_PROJECT or not settings.BUCKET_NAME:
        return [Check("project", _not_set)]
    names = Names(
        project=settings.GOOGLE_CLOUD_PROJECT,
        region=settings.GOOGLE_CLOUD_REGION,
        bucket=settings.BUCKET_NAME,
        job=settings.TRAINING_JOB,
        vm="",
        zone=settings.TRAINING_VM_ZONE,
    )
    known = ("credentials",)
    return [
        Check("credentials", _credentials),
        *(Check(step.title, _set_up(step, names), known) for step in _steps(names)),
        Check(f"job {names.job}", lambda: _job(names), known),
        Check("last execution", lambda: _last_execution(names), known),
        Check(f"machine {settings.TRAINING_VM}", _machine, known),
        *_services(names),
    ]


def _services(names: Names) -> list[Check]:
    """The services that were deployed from here; each is asked what a rollout asks of it."""
    rows = CloudService.objects.filter(project=names.project, deleted_at=None)
    return [Check(f"service {row.name}", _service(row), ("credentials",)) for row in rows] or [
        Check("service", _no_service)
    ]


def _no_service() -> str:
    raise NotLooked(
        "none was deployed from here: manage.py deploy_ml_engine PROJECT SERVICE REGION VERSION"
    )


def _service(row: CloudService) -> Callable[[], str]:
    def see() -> str:
        serving = deployment_serving(row)
        version = serving.version.version if serving else "VERSION"
        again = f"manage.py deploy_ml_engine {row.project} {row.name} {row.region} {version}"
        try:
            found = run_services.service_describe(specs.service_name(row))
        except CloudError as error:
            if error.reason != "not_found":
                raise
            raise Fault("there is none of that name", f"Deploy it: {again}") from None
        logs = f"Read its log: manage.py services logs {row.name}"
        if found.problem:
            raise Fault(found.problem, logs)
        if serving is None:
            raise Fault("no rollout to it has succeeded", f"Deploy it: {again}")
        share = found.of(serving.revision).percent
        if share != serving.percent:
            raise Fault(
                f"{serving.revision} has {share} % of the traffic; {serving.percent} % were given",
                f"Somebody changed it at Google. Look: manage.py services status {row.name}",
            )
        try:
            told = probe(serving, id_token(row.url), timezone.now())
        except (NotYet, RolloutFailed) as fault:
            raise Fault(str(fault), logs) from None
        return f"{row.url}: {told}"

    return see


def _not_set() -> str:
    missing = [
        name for name in ("GOOGLE_CLOUD_PROJECT", "BUCKET_NAME") if not getattr(settings, name)
    ]
    raise Fault(
        f"{' and '.join(missing)} not set",
        "Set them: manage.py setup_cloud --project PROJECT --region REGION prints the settings.",
    )


def _credentials() -> str:
    with translated("Looking for credentials"):
        session = clients.session()
        if not session.credentials.valid:
            from google.auth.transport.requests import Request

            session.credentials.refresh(Request())
    who = getattr(session.credentials, "service_account_email", "") or "your own"
    return f"{who}, for the project {settings.GOOGLE_CLOUD_PROJECT}"


def _steps(names: Names) -> list[Step]:
    """What setup_cloud sees to; the job has a check of its own."""
    return [step for step in provisioning.setup_steps(names) if "Cloud Run job" not in step.title]


def _set_up(step: Step, names: Names) -> Callable[[], str]:
    def see() -> str:
        found = None
        with missing_accepted():
            found = send(step.look, step.title)
        change = step.fix(found)
        if change is not None:
            state = "not there" if found is None else f"not as it should be ({change.words})"
            raise Fault(
                f"{state}: {step.why}",
                f"Mend it: manage.py setup_cloud --project {names.project} --region {names.region} "
                f"--bucket {names.bucket}",
            )
        return "as it should be"

    return see


def _job(names: Names) -> str:
    deploy = (
        f"Deploy it: manage.py deploy_training_job {names.project} {names.job} {names.region} 1.0.0"
    )
    try:
        job = run_jobs.job_describe(JobName(names.project, names.region, names.job))
    except CloudError as error:
        if error.reason != "not_found":
            raise
        raise Fault("there is none", deploy) from None
    if job.problem:
        raise Fault(f"it can't be executed: {job.problem}", deploy)
    if job.image == provisioning.SAMPLE_IMAGE:
        raise Fault("it has Google's sample image and trains nothing", deploy)
    return f"{job.image}, {job.cpu} vCPU, {job.memory_mb} MiB"


def _last_execution(names: Names) -> str:
    with missing_accepted():
        latest = next(
            executions.execution_list(JobName(names.project, names.region, names.job)), None
        )
        if latest is None:
            raise NotLooked("the job was never executed")
        if latest.state == "failed":
            raise Fault(
                f"{latest.name} failed: {latest.message}",
                f"Read its log: manage.py jobs logs {short(latest.name)}",
            )
        return f"{short(latest.name)} {latest.state}"
    raise NotLooked("there is no job")


def _machine() -> str:
    place = machines.default_place()
    machine = machines.find(place)
    if machine is None:
        raise NotLooked("there is none")
    if machine.is_on and not machine.metadata.get(RUN):
        raise Fault(
            f"{place} is on and trains nothing, which costs",
            "Stop it: manage.py vm stop",
        )
    return "trains" if machine.is_on else "off"
