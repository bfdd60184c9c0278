"""What runs of Sentinelle itself on Google Cloud, as steps of the plan: a Cloud Run service for the
web, a worker pool for what works in the background, and a job that runs one command of manage.py.

https://cloud.google.com/run/docs/reference/rest/v2/projects.locations.workerPools
"""

from collections.abc import Mapping
from typing import Any

from deployments.gcp.control_data import DATABASE, NETWORK
from deployments.gcp.errors import CloudError
from deployments.gcp.grants import CONTROL, DATABASE_PASSWORD, REDIS_ADDRESS, SECRET_KEY, Names
from deployments.gcp.rest import Body, Request
from deployments.gcp.setup import LABELS, Change, Step, covers
from deployments.standing import Size

WEB, WORKERS, MANAGE = "sentinelle", "sentinelle-workers", "sentinelle-manage"
"""The service, the worker pool, and the job that runs one command."""
MIGRATE = ("manage.py", "migrate", "--no-input")
MIGRATE_SECONDS = 1800.0


def connection(names: Names) -> str:
    """What Cloud SQL calls the instance: project:region:name."""
    return f"{names.project}:{names.region}:{names.database}"


def environment(names: Names, image: str) -> dict[str, str]:
    """The variables of every container, none of them secret."""
    found = {
        # Google's front end gives a container the requests for its own service alone.
        "ALLOWED_HOSTS": ".run.app,localhost",
        # Where `gcloud run services proxy` shows the admin.
        "CSRF_TRUSTED_ORIGINS": "http://localhost:8080",
        "TRUST_FORWARDED_PROTO": "true",
        "DATABASE_URL": f"postgresql://{DATABASE}@/{DATABASE}?host=/cloudsql/{connection(names)}",
        "BUCKET_NAME": names.bucket,
        "GOOGLE_CLOUD_PROJECT": names.project,
        "GOOGLE_CLOUD_REGION": names.region,
        "TRAINING_JOB": names.job,
        "TRAINING_IMAGE": image,
        "TRAINING_SERVICE_ACCOUNT": names.account("training"),
        "TRAINING_CONCURRENCY": "1",
        "CLOUD_SQL_INSTANCE": connection(names),
        "ENGINE_NETWORK": f"{NETWORK}/{NETWORK}",
        "ENGINE_SERVICE_ACCOUNT": names.account("serving"),
    }
    if names.vm:
        found |= {"TRAINING_VM": names.vm, "TRAINING_VM_ZONE": names.zone}
    return found


def program_steps(names: Names, size: Size, image: str) -> list[Step]:
    """What runs of that image, the migration before all else."""
    return [
        _manage(names, image),
        _migration(names, image),
        _web(names, image),
        _workers(names, size, image),
    ]


# --- What runs -------------------------------------------------------------------------------


def _template(names: Names, image: str, **container: Any) -> dict[str, Any]:
    """What service, pool and job have in common."""
    secrets = {
        "SECRET_KEY": SECRET_KEY, "DB_PASSWORD": DATABASE_PASSWORD, "REDIS_URL": REDIS_ADDRESS,
    }  # fmt: skip
    env: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in environment(names, image).items()
    ]
    env += [
        {"name": name, "valueSource": {"secretKeyRef": {"secret": secret, "version": "latest"}}}
        for name, secret in secrets.items()
    ]
    mount = {"name": "cloudsql", "mountPath": "/cloudsql"}
    return {
        "serviceAccount": names.account(CONTROL),
        "containers": [{"image": image, "env": env, "volumeMounts": [mount], **container}],
        "volumes": [{"name": "cloudsql", "cloudSqlInstance": {"instances": [connection(names)]}}],
        # Redis has a private address; everything else is reached as without a network.
        "vpcAccess": {
            "egress": "PRIVATE_RANGES_ONLY",
            "networkInterfaces": [{"network": NETWORK, "subnetwork": NETWORK}],
        },
    }


def _resources(cpu: int, gib: int) -> dict[str, Any]:
    return {"limits": {"cpu": str(cpu), "memory": f"{gib}Gi"}}


def _run_step(
    title: str, why: str, path: str, query: str, wanted: Mapping[str, Any], new: Mapping[str, Any]
) -> Step:
    """A thing of Cloud Run: `wanted` is what it has to have, `new` what it is made of when there is
    none. What is not wanted stays, such as a size that somebody gave it."""

    def fix(found: Body | None) -> Change | None:
        if found is None:
            parent = path.rpartition("/")[0]
            return Change("created", Request("POST", "run", f"{parent}?{query}", new, "v2"))
        differs = [name for name, value in wanted.items() if not covers(found.get(name), value)]
        if not differs:
            return None
        body = {name: _over(found.get(name), wanted[name]) for name in differs}
        request = Request("PATCH", "run", f"{path}?updateMask={','.join(differs)}", body, "v2")
        return Change(f"changed: {', '.join(differs)}", request)

    return Step(title, why, Request("GET", "run", path), fix)


def _over(found: Any, wanted: Any) -> Any:
    """`wanted` with what `found` has beside it."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        both = {name: _over(found.get(name), value) for name, value in wanted.items()}
        # The name of a revision is its own.
        kept = {name: value for name, value in found.items() if name not in (*both, "revision")}
        return kept | both
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        return [_over(*pair) for pair in zip(found, wanted, strict=True)]
    return wanted


def _web(names: Names, image: str) -> Step:
    template = _template(names, image)
    wanted = {"labels": LABELS, "template": template}
    new = {
        "labels": LABELS,
        "ingress": "INGRESS_TRAFFIC_ALL",
        "template": {
            **template,
            "containers": [
                {
                    **template["containers"][0],
                    "resources": {**_resources(1, 2), "startupCpuBoost": True},
                }
            ],
            "timeout": "300s",
            "maxInstanceRequestConcurrency": 16,
            "scaling": {"maxInstanceCount": 2},
        },
    }
    return _run_step(
        f"Cloud Run service {WEB}",
        "the admin and the API, for callers that Google lets in; costs nothing while nobody calls",
        f"v2/{names.parent}/services/{WEB}",
        f"serviceId={WEB}",
        wanted,
        new,
    )


def _workers(names: Names, size: Size, image: str) -> Step:
    command = {
        "command": ["python"],
        "args": ["-m", "sentinelle.serve", "--only", "worker,trainer,beat"],
    }
    wanted = {
        "labels": LABELS,
        "template": _template(names, image, **command),
        "scaling": {"manualInstanceCount": 1},
    }
    resources = _resources(size.worker_cpu, size.worker_gib)
    new = {
        **wanted,
        "launchStage": "BETA",
        "template": _template(names, image, **command, resources=resources),
    }
    return _run_step(
        f"Cloud Run worker pool {WORKERS}",
        f"worker, trainer and beat: one instance, {size.worker_cpu} vCPU, {size.worker_gib} GiB",
        f"v2/{names.parent}/workerPools/{WORKERS}",
        f"workerPoolId={WORKERS}",
        wanted,
        new,
    )


def _manage(names: Names, image: str) -> Step:
    command = {"command": ["python"], "args": list(MIGRATE)}
    inner = {
        **_template(names, image, **command, resources=_resources(1, 1)),
        "maxRetries": 0,
        "timeout": f"{MIGRATE_SECONDS:.0f}s",
    }
    wanted = {"labels": LABELS, "template": {"template": inner}}
    return _run_step(
        f"Cloud Run job {MANAGE}",
        "runs one command of manage.py: it migrates unless it is told another",
        f"v2/{names.parent}/jobs/{MANAGE}",
        f"jobId={MANAGE}",
        wanted,
        wanted,
    )


def _migration(names: Names, image: str) -> Step:
    """An execution of the job that migrated with this image."""
    job = f"v2/{names.parent}/jobs/{MANAGE}"

    def fix(found: Body | None) -> Change | None:
        for execution in (found or {}).get("executions", ()):
            box = execution["template"]["containers"][0]
            if box["image"] != image or box.get("args") != list(MIGRATE):
                continue
            if execution.get("succeededCount"):
                return None
            if not execution.get("completionTime"):
                raise CloudError("A migration runs already.", reason="conflict")
        run = Request("POST", "run", f"{job}:run", {}, "v2", MIGRATE_SECONDS)
        return Change("migrated", run)

    look = Request("GET", "run", f"{job}/executions?pageSize=10")
    return Step("migrations", "the tables, before anything serves", look, fix, {})
