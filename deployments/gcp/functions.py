"""The function that serves a classifier, on Cloud Run functions (the Cloud Functions API, v2).

Google builds it from an archive in the bucket: functions/main.py, its requirements, and of the
engine what it imports. Everything raises CloudError.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from deployments.gcp.builds import BASE_DIR, BUILD_SECONDS, Source
from deployments.gcp.errors import CloudError
from deployments.gcp.grants import BUILD, BUILDS, FUNCTION, Names
from deployments.gcp.invokers import id_token, public_set
from deployments.gcp.rest import Body, Request, Waits, send
from deployments.gcp.services import ServiceName
from deployments.gcp.setup import LABELS, Change, Step, covers, plan
from engine.store import open_store

RUNTIME = "python312"
"""As in the Dockerfile."""
ENTRY_POINT = "predict"
ENGINE_PARTS = (
    "__init__.py", "bundle.py", "champions.py", "errors.py", "json_faults.py", "kinds.py",
    "classifier/*.py", "store/*.py",
)  # fmt: skip
EPOCH = (1980, 1, 1, 0, 0, 0)
HEALTH_SECONDS = 60.0
"""One call of a function that may have to start and download its bundle."""
SETTLING_SECONDS = 90.0
"""How long a role that was just given, or an address that is new, may take to be known."""


class FunctionSpec(NamedTuple):
    """What a function is made of. None: as it is, or as DEFAULTS for a new one."""

    model: str | None = None
    memory_mb: int | None = None
    timeout_s: int | None = None
    max_instances: int | None = None
    origins: str | None = None
    """Of pages that may call it, with commas between; empty: none."""


DEFAULTS = FunctionSpec(model="sponsor", memory_mb=512, timeout_s=540, max_instances=10, origins="")


class Deployed(NamedTuple):
    """A function that is there."""

    url: str
    model: str
    service: ServiceName
    """The Cloud Run service under it: who may call that may call the function."""


class Health(NamedTuple):
    """What a function says of itself."""

    status: int
    says: dict[str, Any]
    """Its JSON; empty when what answered was not the function."""


@lru_cache(maxsize=1)
def function_source(base: Path = BASE_DIR) -> Source:
    """The archive that the function is built from, equal for equal files.

    Raises CloudError where there is no functions/main.py, as in the image.
    """
    folder, engine = base / "functions", base / "engine"
    if not (folder / "main.py").is_file():
        raise CloudError(
            f"There is no functions/main.py in {base}. Deploy the function from a clone of "
            "Sentinelle's repository."
        )
    files = {name: folder / name for name in ("main.py", "requirements.txt")}
    for part in ENGINE_PARTS:
        for path in sorted(engine.glob(part)):
            files[path.relative_to(base).as_posix()] = path
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(files.items()):
            # No times or modes of this machine: they would change the digest.
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    content = packed.getvalue()
    return Source(hashlib.sha256(content).hexdigest(), content)


def upload_function_source(names: Names, made_of: Source) -> None:
    """Put the archive into the bucket, unless it is there. Raises StoreUnavailable."""
    store = open_store(f"gs://{names.bucket}/{BUILDS}")
    if not store.exists(_archive(made_of)):
        store.create_if_absent(_archive(made_of), made_of.archive)


def function_steps(
    names: Names, spec: FunctionSpec, made_of: Source
) -> tuple[list[Step], list[Step]]:
    """The steps before the archive is in the bucket, and those after it."""
    return plan(names), [_function(names, spec, made_of)]


def deployed(names: Names) -> Deployed:
    """The function as it is now."""
    path = f"v2/{names.parent}/functions/{names.function}"
    found = send(Request("GET", "cloudfunctions", path), f"Reading the function {names.function}")
    config = found["serviceConfig"]
    service = str(config["service"]).rpartition("/")[2]
    return Deployed(
        url=str(config.get("uri") or found["url"]),
        model=config["environmentVariables"]["MODEL_NAME"],
        service=ServiceName(names.project, names.region, service),
    )


def let_in(function: Deployed, public: bool) -> bool:
    """Let everybody call the function, or only who has the role Cloud Run Invoker; whether that
    changed anything."""
    return public_set(function.service, public)


def function_health(function: Deployed, *, waits: Waits) -> Health:
    """Ask the function which version it serves, with an ID token of ours."""
    pauses = waits.pauses(SETTLING_SECONDS)
    token = id_token(function.url)
    while True:
        health = _asked(f"{function.url}/health", token)
        is_settled = health.says and health.says.get("code") != "STORE_UNAVAILABLE"
        if is_settled or not pauses.pause():
            return health


def _asked(url: str, token: str) -> Health:
    import requests

    try:
        answer = requests.get(
            url, headers={"Authorization": f"Bearer {token}"}, timeout=HEALTH_SECONDS
        )
    except requests.RequestException as error:
        raise CloudError(f"The function does not answer: {error}", is_transient=True) from error
    # What stands before the function answers with a page.
    is_ours = "json" in answer.headers.get("Content-Type", "")
    return Health(answer.status_code, answer.json() if is_ours else {})


def _archive(made_of: Source) -> str:
    return f"function-{made_of.digest}.zip"


def _function(names: Names, spec: FunctionSpec, made_of: Source) -> Step:
    path = f"v2/{names.parent}/functions"
    new = DEFAULTS._replace(**_given(spec._asdict()))

    def fix(found: Body | None) -> Change | None:
        if found is None:
            body = {
                "environment": "GEN_2",
                "description": f"Sentinelle: serves the champion of {new.model}",
                "labels": LABELS,
                **_wanted(names, new, made_of),
            }
            query = f"?functionId={names.function}"
            request = Request("POST", "cloudfunctions", path + query, body, "v2", BUILD_SECONDS)
            return Change("created", request)
        _refuse(names, found)
        wanted = _wanted(names, spec, made_of)
        changes = _differences(found, wanted)
        if not changes and found.get("state") == "ACTIVE":
            return None
        if not changes:  # the last deployment failed
            changes = {"buildConfig": {"source": wanted["buildConfig"]["source"]}}
        fields = [f"{section}.{field}" for section, each in changes.items() for field in each]
        query = f"/{names.function}?updateMask={','.join(fields)}"
        request = Request("PATCH", "cloudfunctions", path + query, changes, "v2", BUILD_SECONDS)
        return Change(f"changed: {', '.join(fields)}", request)

    return Step(
        f"function {names.function}",
        f"serves a classifier's champion as {names.account(FUNCTION)}; built by Cloud Build, some "
        "minutes",
        Request("GET", "cloudfunctions", f"{path}/{names.function}"),
        fix,
    )


def _refuse(names: Names, found: Body) -> None:
    if found.get("environment") == "GEN_1":
        raise CloudError(
            f"{names.function} is a function of the 1st generation. Choose another name, or delete "
            f"it: gcloud functions delete {names.function} --region={names.region} "
            f"--project={names.project}"
        )
    if found.get("state") in ("DEPLOYING", "DELETING"):
        raise CloudError(
            f"{names.function} is {str(found['state']).lower()} already.", is_transient=True
        )


def _wanted(names: Names, spec: FunctionSpec, made_of: Source) -> dict[str, dict[str, Any]]:
    """The fields that are ours, without those that `spec` leaves as they are."""
    env = {
        "BUCKET_NAME": names.bucket,
        "MODEL_NAME": spec.model,
        "CORS_ALLOWED_ORIGINS": spec.origins,
    }
    service = {
        "availableMemory": None if spec.memory_mb is None else f"{spec.memory_mb}Mi",
        "timeoutSeconds": spec.timeout_s,
        "maxInstanceCount": spec.max_instances,
        "serviceAccountEmail": names.account(FUNCTION),
        "environmentVariables": _given(env),
    }
    return {
        "buildConfig": {
            "runtime": RUNTIME,
            "entryPoint": ENTRY_POINT,
            "source": {
                "storageSource": {
                    "bucket": names.bucket,
                    "object": f"{BUILDS}/{_archive(made_of)}",
                }
            },
            "serviceAccount": f"projects/{names.project}/serviceAccounts/{names.account(BUILD)}",
            "dockerRepository": f"{names.parent}/repositories/{names.repository}",
        },
        "serviceConfig": _given(service),
    }


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _differences(found: Body, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What of `wanted` is not so in `found`; variables that others have set stay."""
    differs: dict[str, dict[str, Any]] = {}
    for section, fields in wanted.items():
        before = found.get(section, {})
        for name, value in fields.items():
            if covers(before.get(name), value):
                continue
            whole = name == "environmentVariables"
            merged = {**before.get(name, {}), **value} if whole else value
            differs.setdefault(section, {})[name] = merged
    return differs
