"""What a rollout asks Cloud Run for: the service's container and the job that migrates.

Both have the same variables, and the password of the database and the keys by reference to Secret
Manager: nothing secret is in their environment in clear.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from django.conf import settings

from deployments.gcp.containers import SQL_FOLDER, Network, Secret
from deployments.gcp.grants import (
    DATABASE_PASSWORD,
    REDIS_ADDRESS,
    SECRET_KEY,
    SERVING,
    Names,
)
from deployments.gcp.run_jobs import JobName, JobSpec
from deployments.gcp.services import ServiceInfo, ServiceName, ServiceSpec
from deployments.models import CloudService, Deployment
from deployments.rollouts.errors import RolloutRefused
from deployments.rollouts.wishes import read_wishes

HOSTS = ".run.app"
"""Google's front end gives a container only requests for the addresses of its own service."""
MIGRATION, MIGRATION_SECONDS = "migration", 1800
LOCAL = ("", "localhost", "127.0.0.1", "::1")
SAME = ("RATE_LIMIT", "GOOGLE_ID_TOKEN_AUDIENCE", "TIME_ZONE", "LOG_LEVEL")
"""Settings that servers on Cloud Run have as this one has them."""


def names_of(service: CloudService) -> Names:
    """What things are called in the service's project."""
    return Names(
        project=service.project,
        region=service.region,
        bucket=settings.BUCKET_NAME,
        job=settings.TRAINING_JOB,
    )


def service_name(service: CloudService) -> ServiceName:
    """Where the service is at Google."""
    return ServiceName(service.project, service.region, service.name)


def migration_job(service: CloudService) -> JobName:
    """The job that migrates the database before a new revision."""
    return JobName(service.project, service.region, f"{service.name}-migrate")


def service_spec(deployment: Deployment, before: ServiceInfo | None) -> ServiceSpec:
    """What the service is from this deployment on.

    Args:
        before: the service as it is; a variable that it has and is not wished any more goes.
    """
    wishes = read_wishes(deployment.wishes)
    wanted = environment(deployment)
    gone = [name for name in before.env if name not in wanted] if before else []
    env: dict[str, str | None] = {**dict.fromkeys(gone), **wanted}
    return ServiceSpec(
        image=deployment.image,
        cpu=wishes.cpu,
        memory_mb=wishes.memory_mb,
        timeout_s=wishes.timeout_s,
        concurrency=wishes.concurrency,
        # Of the service and not of a revision: until this one has traffic, as it is.
        min_instances=wishes.min_instances if before is None else None,
        max_instances=wishes.max_instances,
        env=env,
        secrets=secrets(),
        databases=databases(),
        network=network(),
        service_account=account(deployment.service),
        ingress="all",
    )


def migration_spec(deployment: Deployment) -> JobSpec:
    """The same image, which migrates and ends."""
    return JobSpec(
        image=deployment.image,
        cpu=1,
        memory_mb=1024,
        timeout_s=MIGRATION_SECONDS,
        retries=0,
        env=environment(deployment),
        secrets=secrets(),
        databases=databases(),
        network=network(),
        service_account=account(deployment.service),
        command=("python", "manage.py", "migrate", "--no-input"),
        purpose=MIGRATION,
    )


def environment(deployment: Deployment) -> dict[str, str]:
    """The variables of the containers; those that were wished for win."""
    same = {name: str(getattr(settings, name)) for name in SAME if getattr(settings, name)}
    if settings.CONTROL_SHARE:
        same["CONTROL_SHARE"] = f"{settings.CONTROL_SHARE:g}"
    if settings.GOOGLE_CALLERS:
        callers = settings.GOOGLE_CALLERS.items()
        same["GOOGLE_CALLERS"] = ",".join(f"{who}={'+'.join(may)}" for who, may in callers)
    return {
        "MODEL_VERSION": deployment.version.version,
        "BUCKET_NAME": settings.BUCKET_NAME,
        "ARTIFACTS_DIR": settings.ARTIFACTS_DIR,
        "DATA_DIR": settings.DATA_DIR,
        "RUNS_DIR": settings.RUNS_DIR,
        "DATABASE_URL": database_url(),
        "GOOGLE_CLOUD_PROJECT": deployment.service.project,
        "GOOGLE_CLOUD_REGION": deployment.service.region,
        "HTTPS": "true",
        "TRUST_FORWARDED_PROTO": "true",
        "ALLOWED_HOSTS": HOSTS,
        **same,
        **read_wishes(deployment.wishes).env,
    }


def secrets() -> dict[str, Secret]:
    """The variables whose value is in Secret Manager."""
    found = {"SECRET_KEY": Secret(SECRET_KEY), "DB_PASSWORD": Secret(DATABASE_PASSWORD)}
    if not settings.REDIS_URL.startswith("unix://"):
        found["REDIS_URL"] = Secret(REDIS_ADDRESS)
    return found


def databases() -> tuple[str, ...]:
    """The Cloud SQL instances whose sockets the containers have."""
    instance = _instance()
    return (instance,) if instance else ()


def network() -> Network | None:
    """Where the containers reach what has a private address."""
    name, _, subnet = settings.ENGINE_NETWORK.partition("/")
    return Network(name, subnet) if name else None


def account(service: CloudService) -> str:
    """The service account that the containers run as."""
    return settings.ENGINE_SERVICE_ACCOUNT or names_of(service).account(SERVING)


def database_url() -> str:
    """The database of this server as Cloud Run reaches it, without the password.

    Raises RolloutRefused: it is not PostgreSQL, or nobody but this machine reaches it.
    """
    found: Mapping[str, Any] = settings.DATABASES["default"]
    if not found["ENGINE"].endswith("postgresql"):
        raise RolloutRefused(
            "The database is SQLite, a file of this machine; expected PostgreSQL, which the "
            "service and this server share. Set DATABASE_URL (docs/rollouts.md)."
        )
    user, name = quote(found.get("USER") or "postgres", safe=""), quote(found["NAME"], safe="")
    if instance := _instance():
        return f"postgresql://{user}@/{name}?host={SQL_FOLDER}/{instance}"
    host = _host()
    if host in LOCAL or host.startswith("/"):
        raise RolloutRefused(
            f"The database is at {host or 'a socket'} of this machine, which Cloud Run does not "
            "reach. Set CLOUD_SQL_INSTANCE to PROJECT:REGION:INSTANCE, or DATABASE_URL to an "
            "address in the service's network."
        )
    port = f":{found['PORT']}" if found.get("PORT") else ""
    ssl = found.get("OPTIONS", {}).get("sslmode")
    return f"postgresql://{user}@{host}{port}/{name}" + (f"?sslmode={ssl}" if ssl else "")


def _host() -> str:
    found: Mapping[str, Any] = settings.DATABASES["default"]
    return str(found.get("HOST") or found.get("OPTIONS", {}).get("host", ""))


def _instance() -> str:
    """The one of the settings, or that whose socket this server itself uses on Cloud Run."""
    host = _host()
    own = host.removeprefix(f"{SQL_FOLDER}/") if host.startswith(f"{SQL_FOLDER}/") else ""
    return settings.CLOUD_SQL_INSTANCE or own


def shown_database() -> str:
    """The database, as a person is told."""
    parts = urlsplit(database_url())
    return f"{parts.path.lstrip('/')} at {dict(parse_qsl(parts.query)).get('host', parts.netloc)}"
