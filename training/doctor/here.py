"""The checks of this machine: settings, processes, files, and a test score."""

import shutil
import time
import uuid
from collections.abc import Callable
from typing import Any

from celery import current_app
from django.conf import settings
from django.core import checks as django_checks
from django.core.cache import cache
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from deployments import artifacts, pointers, selectors
from deployments.models import CHAMPION, Alias, ApiKey, Kind, ModelVersion, RegisteredModel, Scope
from deployments.rollouts.probe import transaction
from deployments.services import api_key_for_a_moment
from deployments.stored_bundles import bundles_listed
from engine.champions import pointer_name, read_champion
from engine.errors import InvalidBundle, NoModel, NotRegistered
from engine.store import PAGE_SECONDS, open_store
from training.doctor.checks import Check, Fault
from training.models import Dataset, RunState, TrainingRun
from training.tasks import BEAT_KEY

LEAST_FREE_BYTES = 500_000_000
WORKER_SECONDS = 1.5
BEAT_SECONDS = 60.0
CALL_SECONDS = 10.0
RUN_IT = "Start Sentinelle (make run), which runs every process"


def checks(url: str) -> list[Check]:
    """Every check of this machine, in the order in which they depend on one another.

    Args:
        url: where the server answers.
    """
    served = ("database", "model")
    return [
        Check("settings", _settings),
        Check("disk", _disk),
        Check("database", _database),
        Check("migrations", _migrations, ("database",)),
        Check("keys", _keys, ("migrations",)),
        Check("broker", _broker),
        Check("workers", _workers, ("broker",)),
        Check("beat", _beat, ("broker", "workers")),
        *(
            Check(f"store {name}", _store(name))
            for name in ("ARTIFACTS_DIR", "DATA_DIR", "RUNS_DIR")
        ),
        Check("data sets", _datasets, ("migrations", "store DATA_DIR")),
        Check("versions", _versions, ("migrations", "store ARTIFACTS_DIR")),
        Check("last training", _last_training, ("migrations",)),
        Check("model", _model, ("migrations", "store ARTIFACTS_DIR")),
        Check("rules", _rules, ("migrations",)),
        Check("classifiers", _classifiers, ("migrations", "store ARTIFACTS_DIR")),
        Check("health", lambda: _health(url), ("migrations",)),
        Check("test score", lambda: _test_score(url), (*served, "health")),
    ]


# --- The machine -----------------------------------------------------------------------------


def _settings() -> str:
    # Behind no TLS, as on one machine, Django's advice for a public site does not apply.
    found = django_checks.run_checks(include_deployment_checks=settings.HTTPS)
    bad = [message for message in found if message.level >= django_checks.WARNING]
    if bad:
        raise Fault(
            "; ".join(f"{message.msg} ({message.id})" for message in bad),
            " ".join(dict.fromkeys(message.hint for message in bad if message.hint))
            or "docs/operations.md describes every setting.",
        )
    kind = "a demo home, open without a key on this machine" if settings.DEMO else "not a demo"
    return f"{kind}; home {settings.HOME.root}"


def _disk() -> str:
    root = settings.HOME.root
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free
    if free < LEAST_FREE_BYTES:
        raise Fault(
            f"{nearest} has {free / 1e6:,.0f} MB free",
            f"Free some, or move SENTINELLE_HOME: at least {LEAST_FREE_BYTES / 1e6:,.0f} MB are "
            "needed.",
        )
    return f"{free / 1e9:,.0f} GB free"


def _database() -> str:
    start = time.perf_counter()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception as error:
        where = settings.DATABASES["default"]
        raise Fault(
            f"{connection.vendor} does not answer: {' '.join(str(error).split())}",
            f"Start it, or correct DATABASE_URL (host {where.get('HOST') or 'local'}, database "
            f"{where['NAME']}, user {where.get('USER') or 'none'}).",
        ) from None
    took = (time.perf_counter() - start) * 1000
    if connection.vendor == "sqlite":
        return f"SQLite, {settings.DATABASES['default']['NAME']}"
    return f"{connection.vendor} answers in {took:.1f} ms"


def _migrations() -> str:
    executor = MigrationExecutor(connection)
    pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if pending:
        names = ", ".join(f"{each.app_label}.{each.name}" for each, _ in pending[:5])
        raise Fault(f"{len(pending)} not applied: {names}", "Apply them: manage.py migrate")
    return "all applied"


def _keys() -> str:
    if settings.DEMO:
        return "none is needed in a demo home"
    valid = ApiKey.objects.filter(revoked_at=None).values_list("scopes", flat=True)
    scoring = sum(Scope.SCORE.value in scopes for scopes in valid)
    if not scoring and not settings.GOOGLE_CALLERS:
        raise Fault(
            "nobody can call /score: there is no key with the scope score",
            "Make one: manage.py create_api_key backend --scope score",
        )
    callers = len(settings.GOOGLE_CALLERS)
    return f"{scoring} may score" + (f", {callers} Google accounts may call" if callers else "")


# --- Broker and workers ----------------------------------------------------------------------


def _broker() -> str:
    import redis

    try:
        client = redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=2.0, socket_connect_timeout=2.0
        )
    except ValueError as error:
        raise Fault(f"REDIS_URL is no address: {error}", "Correct REDIS_URL.") from None
    try:
        client.ping()
        memory: Any = client.info("memory")
    except redis.RedisError as error:
        raise Fault(
            f"it does not answer: {' '.join(str(error).split())}",
            f"{RUN_IT}, or correct REDIS_URL.",
        ) from None
    finally:
        client.close()
    return f"answers, {memory['used_memory'] / 1e6:,.0f} MB used"


def _workers() -> str:
    answered = current_app.control.inspect(timeout=WORKER_SECONDS).active_queues() or {}
    served = {queue["name"] for queues in answered.values() for queue in queues}
    missing = [name for name in settings.CELERY_TASK_QUEUES if name not in served]
    if missing:
        raise Fault(
            f"no worker answers for the queue {' and '.join(missing)}",
            f"{RUN_IT}; or start one: "
            + "; ".join(f"celery --app sentinelle worker --queues {name}" for name in missing),
        )
    return ", ".join(sorted(answered))


def _beat() -> str:
    # A task that beat sends every 5 s leaves its time there.
    seen = cache.get(BEAT_KEY)
    age = None if seen is None else time.time() - seen
    if age is None or age > BEAT_SECONDS:
        since = "it has not sent anything" if age is None else f"nothing came for {age:,.0f} s"
        raise Fault(since, f"{RUN_IT}; or start it: celery --app sentinelle beat")
    return f"sent something {age:.0f} s ago"


# --- Files -----------------------------------------------------------------------------------


def _store(setting: str) -> Callable[[], str]:
    def look() -> str:
        location = getattr(settings, setting)
        store = open_store(location, seconds=PAGE_SECONDS)
        name = f"doctor/{uuid.uuid4().hex}"
        try:
            store.write(name, b"looked at")
            store.read(name)
            store.delete(name)
        except OSError as error:
            raise Fault(
                f"{location} can't be written: {error.strerror}",
                f"Make {location} a folder that this user may write, or set {setting} to another.",
            ) from None
        return f"{location} can be written and read"

    return look


def _datasets() -> str:
    rows = list(Dataset.objects.all())
    store = open_store(settings.DATA_DIR, seconds=PAGE_SECONDS)
    missing = [row for row in rows if not store.exists(f"{row.location}/data.parquet")]
    if missing:
        raise Fault(
            f"the file of {', '.join(row.name for row in missing[:5])} is gone",
            f"Put it back from a backup: {missing[0].file}. Or delete the data set in the admin, "
            "where no run used it, and import it again.",
        )
    return f"{len(rows)}, every file is there" if rows else "none yet"


def _versions() -> str:
    """Every version's files are there; what serves is read too, by `model`."""
    listed = bundles_listed()
    lost = [each for each in listed if each.version is not None and each.state != "ok"]
    if lost:
        first = lost[0].version
        assert first is not None
        raise Fault(
            ", ".join(f"{each.version} is {each.state} at {each.location}" for each in lost[:5]),
            _restore(first),
        )
    return f"{sum(each.version is not None for each in listed)}, every bundle is there"


def _restore(version: ModelVersion) -> str:
    place = f"{settings.ARTIFACTS_DIR}/{version.location}"
    return (
        f"Put its files back to {place}: from a folder that was pulled before, with manage.py "
        f"artifacts push FOLDER. See what is there with manage.py artifacts list. If it serves and "
        f"nobody has the files: manage.py rollback {version.model.name} --reason “lost files”"
    )


def _last_training() -> str:
    latest = [
        run
        for model in RegisteredModel.objects.all()
        if (run := TrainingRun.objects.filter(model=model).first()) is not None
    ]
    for run in latest:
        if run.state == RunState.FAILED:
            raise Fault(
                f"{run} at {run.stage or 'the start'}: {run.error}",
                f"Read its log: manage.py runs logs {run.pk}",
            )
    return "; ".join(str(run) for run in latest) or "nothing was trained yet"


# --- What serves -----------------------------------------------------------------------------


def _serving() -> ModelVersion:
    """The version that this server has to serve."""
    name, pinned = settings.MODEL_NAME, settings.MODEL_VERSION
    model = selectors.model_by_name(name)
    if pinned != "latest":
        try:
            return selectors.version_by_semver(model, pinned)
        except NotRegistered as error:
            raise Fault(
                f"MODEL_VERSION is {pinned}. {error.detail}",
                "Unset MODEL_VERSION to serve the champion, or name a version that is registered.",
            ) from None
    champion = selectors.live_pointer(name).version
    if champion is None:
        newest = ModelVersion.objects.filter(model=model, deployable=True).first()
        raise Fault(
            "no version was promoted, so /score answers 503",
            f"Promote one: manage.py promote {name} {newest.version} --reason “first version”"
            if newest
            else "Train one: manage.py train --dataset NAME --version 1.0.0 --wait",
        )
    return champion


def _model() -> str:
    version = _serving()
    try:
        artifacts.verify(version.location, version.manifest_sha256)
    except InvalidBundle as error:
        raise Fault(error.detail, _restore(version)) from None
    pinned = "" if settings.MODEL_VERSION == "latest" else ", pinned by MODEL_VERSION"
    return f"{version}{pinned}: every file is what was registered"


def _rules() -> str:
    rules = selectors.live_pointer(settings.MODEL_NAME).rule_set
    if rules is None:
        raise Fault(
            "no rule set serves",
            "See which there are: manage.py rules list. Promote one: manage.py rules promote NAME "
            "--reason TEXT",
        )
    artifacts.verify_rules(rules)
    return f"“{rules.name}” compiles"


def _classifiers() -> str:
    champions = Alias.objects.filter(name=CHAMPION, model__kind=Kind.CLASSIFIER)
    store = open_store(settings.ARTIFACTS_DIR, seconds=PAGE_SECONDS)
    told = []
    for alias in champions.select_related("model", "version__model"):
        artifacts.verify(alias.version.location, alias.version.manifest_sha256)
        try:
            pointer = read_champion(store, alias.model.name)
        except NoModel:
            pointer = None
        name = pointer_name(alias.model.name)
        if pointer is None or pointer.manifest_sha256 != alias.version.manifest_sha256:
            if pointer and pointers.is_of_another_registry(pointer):
                raise Fault(
                    f"{name} says v{pointer.version}, by promotion {pointer.promotion} of another "
                    f"registry; here it is v{alias.version.version}",
                    "If this registry is the right one (it was restored from a backup, say), "
                    f"delete {store.location}/{name}: the worker writes it again in a minute. If "
                    "not, give each its own ARTIFACTS_DIR.",
                )
            raise Fault(
                f"{name} does not say v{alias.version.version}, so the function serves another "
                "version",
                "Wait a minute: the worker writes it again. If it stays, look at the checks of "
                "workers and beat.",
            )
        told.append(str(alias.version))
    return ", ".join(told) or "none was promoted"


def _health(url: str) -> str:
    import requests

    try:
        answer = requests.get(f"{url}/health", timeout=CALL_SECONDS)
        body = answer.json()
    except requests.RequestException as error:
        told = " ".join(str(error).split())
        if isinstance(error, requests.ConnectionError | requests.Timeout):
            # They begin with the pool and the address, which are known, and end with the reason.
            told = told.rpartition(": ")[2].rstrip("\"')")
        raise Fault(
            f"{url} does not answer: {told[:200]}",
            f"{RUN_IT}; or say where it is: manage.py doctor --url http://HOST:PORT",
        ) from None
    if not isinstance(body, dict) or "status" not in body:
        raise Fault(
            f"{url} is another program: its /health is not Sentinelle's",
            "Say where Sentinelle is: manage.py doctor --url http://HOST:PORT",
        )
    if answer.status_code != 200 or body.get("status") != "healthy":
        raise Fault(
            f"{url} is {body.get('status', answer.status_code)}: {body.get('reason', 'no reason')}",
            "The checks above say what it needs; its log says more.",
        )
    wanted = _serving()
    if body["model_version"] != f"v{wanted.version}":
        raise Fault(
            f"it serves {body['model_version']} and not v{wanted.version}",
            "It follows within two seconds where it can load that version: look at its log. If it "
            "was started with another MODEL_VERSION or DATABASE_URL, start it again with these.",
        )
    return f"{url} serves {body['model_version']}"


def _test_score(url: str) -> str:
    import requests

    with api_key_for_a_moment(name="doctor") as key:
        start = time.perf_counter()
        answer = requests.post(
            f"{url}/score?dry_run=true",
            json=transaction(timezone.now()),
            headers={"Authorization": f"Api-Key {key}"},
            timeout=CALL_SECONDS,
            allow_redirects=False,
        )
        took = (time.perf_counter() - start) * 1000
    if answer.status_code != 200:
        raise Fault(f"{url}/score answers {answer.status_code}: {answer.text[:300]}", _why(answer))
    if answer.headers.get("Dry-Run") != "true":
        raise Fault(
            "the server knows no dry run, so it kept the test score as a decision",
            "An older version of the program serves there: start it again from this one.",
        )
    body = answer.json()
    return f"{body['decision']} by {body['model_version']} in {took:.0f} ms, nothing was kept"


def _why(answer: Any) -> str:
    if answer.status_code == 400 and "before it reached a page" in answer.text:
        return "Add the host of that address to ALLOWED_HOSTS."
    if answer.status_code in (301, 302, 308):
        return "It wants HTTPS: give --url https://…, or set HTTPS=false where there is no TLS."
    if answer.status_code in (401, 403):
        return "It does not know keys of this database: was it started with another DATABASE_URL?"
    return "The server's log says more."
