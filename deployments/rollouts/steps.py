"""The steps of a rollout: one for each state, each of which finds what it has begun or begins it.

A step that is taken again, because who took it was killed or Google did not answer, changes nothing
that it changed before. It says how long until the next, raises `RolloutFailed` and its like for
what no later look will mend, and `CloudError` or `StoreUnavailable` for what may.
"""

from collections.abc import Callable
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from deployments import artifacts
from deployments.gcp import builds
from deployments.gcp.containers import short
from deployments.gcp.errors import CloudError
from deployments.gcp.executions import execution_find, execution_get
from deployments.gcp.invokers import id_token, invoker_add, public_set
from deployments.gcp.run_jobs import job_ensure, job_run
from deployments.gcp.run_services import revision_look, service_deploy, traffic_set
from deployments.models import CloudService, Deployment, DeploymentState
from deployments.rollouts import specs, transitions
from deployments.rollouts.errors import RolloutFailed
from deployments.rollouts.hold import Hold
from deployments.rollouts.logs import last_words
from deployments.rollouts.ours import own_service
from deployments.rollouts.probe import NotYet, keys_delete, member_of, probe
from deployments.rollouts.traffic import before_of, found_service, in_words, remembered, shared
from deployments.rollouts.wishes import read_wishes
from engine.store import is_bucket

State = DeploymentState
START_SECONDS = 600.0
"""A revision starts in seconds; Cloud Run itself gives up after some minutes."""


def step_of(state: str) -> Callable[[Hold], timedelta]:
    """What is to be done in a state."""
    return _STEPS[State(state)]


def begin(hold: Hold) -> timedelta:
    """Queued: somebody has it now."""
    return hold.move(State.CHECKING, "Looks at what it needs.")


def check(hold: Hold) -> timedelta:
    """Refuse, before anything is changed, what would fail later."""
    deployment = hold.deployment
    version = deployment.version
    found = check_settings(deployment)
    bundle = artifacts.verify(version.location, version.manifest_sha256)
    size = sum(file.size for file in bundle.manifest.files.values()) / 1e6
    before = own_service(deployment.service)
    if deployment.canary and before is None:
        raise RolloutFailed(
            f"There is no service {deployment.service.name} yet, whose traffic a canary could have "
            "a share of. Deploy it without --canary first."
        )
    now = "is not there yet" if before is None else f"is at {before.url}"
    return hold.move(
        State.BUILDING,
        f"The bundle in {settings.ARTIFACTS_DIR}/{version.location} verifies ({size:,.1f} MB); the "
        f"database is {found}; the service {deployment.service.name} {now}.",
    )


def check_settings(deployment: Deployment) -> str:
    """What of this server's settings a rollout needs; the database, in words.

    Raises RolloutRefused, RolloutFailed.
    """
    version = deployment.version
    if not is_bucket(settings.ARTIFACTS_DIR):
        raise RolloutFailed(
            f"ARTIFACTS_DIR is {settings.ARTIFACTS_DIR}, a folder of this machine; expected a "
            "bucket, which the service reads from. Set BUCKET_NAME (docs/operations.md) and bring "
            "the versions there: manage.py artifacts push."
        )
    if not version.deployable:
        raise RolloutFailed(
            f"v{version.version} was trained on a sample, to be looked at and not to be deployed."
        )
    return specs.shown_database()


def build(hold: Hold) -> timedelta:
    """The image: the one given, the one that is there, or a new one by Cloud Build."""
    deployment = hold.deployment
    if deployment.image:
        return hold.move(State.MIGRATING, f"The image is {deployment.image}.")
    names = specs.names_of(deployment.service)
    if "build" not in deployment.handles:
        return _begin_build(hold)
    made = builds.build_get(names, deployment.handles["build"])
    if not made.has_ended:
        hold.change(message=f"Cloud Build builds the image (build {made.id}).")
        return _soon()
    if made.status != "SUCCESS":
        where = f" Its log: {made.log_url}" if made.log_url else ""
        raise RolloutFailed(
            f"Cloud Build did not build the image: build {made.id} ended with {made.status}. "
            f"{made.detail}{where}".rstrip()
        )
    image = deployment.handles["image"]
    return hold.move(State.MIGRATING, f"Cloud Build has built {image}.", image=image)


def _begin_build(hold: Hold) -> timedelta:
    deployment = hold.deployment
    names, made_of = specs.names_of(deployment.service), builds.source()
    image = builds.image_name(names, made_of)
    if builds.image_is_there(names, made_of):
        return hold.move(State.MIGRATING, f"The image {image} was built before.", image=image)
    begun = builds.build_find(names, deployment.run_id)
    if begun is None:
        builds.source_upload(names, made_of)
        build = builds.build_start(names, made_of, deployment.run_id)
    else:
        build = begun.id
    hold.note(
        f"Cloud Build builds {image}: build {build}.",
        handles={**deployment.handles, "build": build, "image": image},
    )
    return _soon()


def migrate(hold: Hold) -> timedelta:
    """Bring the database to what the image expects, by a job of the same image."""
    deployment = hold.deployment
    job = specs.migration_job(deployment.service)
    handle = deployment.handles.get("migration")
    if handle is None:
        begun = execution_find(job, deployment.run_id)
        if begun is None:
            made, _ = job_ensure(job, specs.migration_spec(deployment))
            handle = job_run(job, run_id=deployment.run_id, env={}, etag=made.etag)
        else:
            handle = begun.name
        hold.handle(
            "migration", handle, f"The job {job.job} migrates the database ({short(handle)})."
        )
        return _soon()
    found = execution_get(handle)
    if not found.has_ended:
        hold.change(message=f"The job {job.job} migrates the database ({found.state}).")
        return _soon()
    if found.state != "succeeded":
        raise RolloutFailed(
            f"The job {job.job} did not migrate the database: {found.message or found.state}"
            f"{last_words(execution=handle)}"
        )
    return hold.move(State.DEPLOYING, "The database is migrated.")


def deploy(hold: Hold) -> timedelta:
    """A revision with a tag of its own and no traffic, once it has started."""
    deployment = hold.deployment
    name = specs.service_name(deployment.service)
    before = found_service(deployment.service)
    if not deployment.revision:
        # Kept before anything is changed: what a fault has to put back.
        hold.change(
            revision=name.revision(deployment.tag),
            traffic_before=remembered(before),
            handles={**deployment.handles, "first": before is None},
        )
    begun = service_deploy(name, specs.service_spec(deployment, before), tag=deployment.tag)
    if begun.changes:
        told = "all of its traffic, being the first" if begun.is_first else "no traffic"
        hold.note(f"The revision {begun.revision} is made, tagged {deployment.tag}, with {told}.")
    try:
        ready = revision_look(name, begun.revision)
    except CloudError as error:
        if error.is_transient:
            raise
        said = last_words(service=name, revision=begun.revision)
        raise RolloutFailed(f"{error.detail}{said}") from error
    if ready is None:
        return _patiently(
            hold, START_SECONDS, f"The revision {begun.revision} starts.", "It did not start"
        )
    CloudService.objects.filter(pk=deployment.service_id).update(url=ready.url)
    deployment.service.url = ready.url
    if deployment.handles["first"]:
        _let_in(hold)
    url = ready.of(begun.revision).url
    return hold.move(State.PROBING, f"The revision has started; it is asked at {url}.", url=url)


def _let_in(hold: Hold) -> None:
    """Let the account of this server call a service that is new, and nobody else."""
    service = hold.deployment.service
    member = member_of(id_token(service.url))
    try:
        if member and invoker_add(specs.service_name(service), member):
            hold.note(f"{member} may call the service.")
    except CloudError as error:
        if error.reason != "permission":
            raise
        # It may have the role on the project.
        hold.note(f"{member} was not given the role of a caller: {error.detail}")


def ask(hold: Hold) -> timedelta:
    """Let the revision decide before anybody else asks it, and then give it its traffic."""
    deployment = hold.deployment
    try:
        answered = probe(deployment, id_token(deployment.service.url), timezone.now())
    except NotYet as reason:
        return _patiently(
            hold, settings.ROLLOUT_PROBE_SECONDS, f"It is asked again: {reason}.", str(reason)
        )
    keys_delete(deployment)
    hold.change(message=f"{answered[0].upper()}{answered[1:]}.")
    name = specs.service_name(deployment.service)
    wishes, percent = read_wishes(deployment.wishes), deployment.canary or 100
    public_set(name, wishes.public)
    targets = shared(before_of(deployment), deployment.revision, deployment.tag, percent)
    traffic_set(name, targets, min_instances=wishes.min_instances)
    return _live(hold, percent, f"{deployment.message} Traffic: {in_words(targets)}.")


def _live(hold: Hold, percent: int, message: str) -> timedelta:
    """Book that it has its traffic."""
    deployment, now = hold.deployment, timezone.now()
    before = Deployment.objects.filter(service=deployment.service, state=State.SERVING).first()
    with transaction.atomic():
        if before is not None and deployment.canary:
            Deployment.objects.filter(pk=before.pk).update(percent=100 - percent)
        elif before is not None:
            transitions.move(
                before.pk,
                State.SERVING,
                State.SUPERSEDED,
                by=hold.worker,
                message=f"v{deployment.version.version} ({deployment.tag}) took its traffic.",
                now=now,
            )
        state = State.CANARY if deployment.canary else State.SERVING
        hold.move(state, message, percent=percent)
        CloudService.objects.filter(pk=deployment.service_id).update(wishes=deployment.wishes)
    return timedelta()


def _patiently(hold: Hold, seconds: float, message: str, reason: str) -> timedelta:
    """Wait on, for so long since the state began."""
    deployment = hold.deployment
    waited = timezone.now() - deployment.state_since
    if waited > timedelta(seconds=seconds):
        name = specs.service_name(deployment.service)
        said = last_words(service=name, revision=deployment.revision)
        reason = f"{reason[0].upper()}{reason[1:]}"
        raise RolloutFailed(f"{reason}. It was waited for {seconds:.0f} s.{said}")
    hold.change(message=message[:300])
    return _soon()


def _soon() -> timedelta:
    return timedelta(seconds=settings.ROLLOUT_POLL_SECONDS)


_STEPS: dict[State, Callable[[Hold], timedelta]] = {
    State.QUEUED: begin,
    State.CHECKING: check,
    State.BUILDING: build,
    State.MIGRATING: migrate,
    State.DEPLOYING: deploy,
    State.PROBING: ask,
}
