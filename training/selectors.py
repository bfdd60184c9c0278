"""What reads data sets and training runs."""

import uuid
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from deployments.gcp.errors import CloudError
from deployments.models import Kind, ModelVersion, RegisteredModel
from engine.errors import RunRefused
from engine.store import PAGE_SECONDS, open_store
from training.launchers import launcher_named
from training.launchers.base import program_log, program_log_tail
from training.models import RunState, TrainingRun

LOG_TAIL_LINES = 200
SHORTEST_ID = 4
RECENT_RUNS = 5
# Of the work must be done before its speed says anything.
LEAST_FRACTION = 0.02


def run_by_id(run_id: Any) -> TrainingRun:
    """Raises RunRefused when there is no such run."""
    run = runs_detailed().filter(pk=run_id).first()
    if run is None:
        raise RunRefused(f"There is no training run {run_id}.")
    return run


def run_find(text: str) -> TrainingRun:
    """The run whose id begins with `text` (4 characters or more), or the latest run of the version
    `text`, with its model before it where several have that version: sponsor/1.0.0. Raises
    RunRefused, naming others, when there is none or more than one."""
    runs = runs_detailed()
    found = _runs_of_version(runs, text)
    digits = text.strip().lower().replace("-", "")
    if not found and len(digits) >= SHORTEST_ID and set(digits) <= set("0123456789abcdef"):
        # The ids of a range: SQLite has them as text, PostgreSQL as a type of its own.
        first, last = uuid.UUID(f"{digits[:32]:0<32}"), uuid.UUID(f"{digits[:32]:f<32}")
        found = list(runs.filter(pk__gte=first, pk__lte=last)[:2])
    if len(found) == 1:
        return found[0]
    if found:
        ids = " and ".join(str(run.pk) for run in found)
        raise RunRefused(f"More than one run begins with “{text}”: {ids}.")
    recent = ", ".join(
        f"{str(run.pk)[:8]} ({run.model.name} v{run.version}, {run.state})"
        for run in runs[:RECENT_RUNS]
    )
    raise RunRefused(
        f"There is no training run “{text}”. Most recent runs: {recent or 'none yet'}."
    )


def _runs_of_version(runs: QuerySet[TrainingRun], text: str) -> list[TrainingRun]:
    """The latest run of a version, in a list; empty for none. Raises RunRefused for several
    models'."""
    model, _, version = text.strip().rpartition("/")
    found = runs.filter(version=version.removeprefix("v"))
    if model:
        return list(found.filter(model__name=model)[:1])
    models = sorted(set(found.values_list("model__name", flat=True)))
    if len(models) > 1:
        named = " or ".join(f"{name}/{version}" for name in models)
        raise RunRefused(f"More than one model has a run of {version}: say {named}.")
    return list(found[:1])


def runs_detailed() -> QuerySet[TrainingRun]:
    """Runs with what their pages show of other tables, in one query.

    What is long and in no list (reports, summaries, rules) is read when it is asked for.
    """
    joined = TrainingRun.objects.select_related("model", "dataset", "rule_set", "model_version")
    return joined.defer("report", "dataset__summary", "rule_set__source")


def run_log_tail(run: TrainingRun, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines that the run's program logged; empty before it started.

    For pages, which ask again every few seconds: what its place says beside it takes Google's
    client libraries and is for commands (`run_log`). Raises StoreUnavailable.
    """
    if run.started_at is None:
        return ""
    text = program_log_tail(open_store(run.folder, seconds=PAGE_SECONDS), lines)
    if text or run.launcher == "local":
        return text
    return f"The program has logged nothing. What Google says of it: manage.py runs logs {run.pk}"


def run_log(run: TrainingRun) -> str:
    """Everything that the run's program logged, and what its place says beside it; empty before it
    started. Not for pages: see `run_log_tail`.

    Raises StoreUnavailable.
    """
    if run.started_at is None:
        return ""
    folder = open_store(run.folder, seconds=PAGE_SECONDS)
    try:
        text = launcher_named(run.launcher).logs(run.handle, folder)
    except CloudError as error:
        text = f"{program_log(folder)}\nThe log of its place can't be read: {error}"
    return text


def run_expected_end(run: TrainingRun, now: datetime) -> datetime | None:
    """When a running run will end if it goes on as it has; None when too little is done to say."""
    if run.state != RunState.RUNNING or run.started_at is None or run.fraction < LEAST_FRACTION:
        return None
    return now + (now - run.started_at) * ((1 - run.fraction) / run.fraction)


def runs_running() -> int:
    """How many runs are running, or about to."""
    return TrainingRun.objects.filter(state__in=[RunState.STARTING, RunState.RUNNING]).count()


def next_version(model_name: str) -> str:
    """The minor version after the highest that is registered or was tried, of a classifier the
    patch version; 1.0.0 at first."""
    tried = [
        *ModelVersion.objects.filter(model__name=model_name).values_list("version", flat=True),
        *TrainingRun.objects.filter(model__name=model_name).values_list("version", flat=True),
    ]
    numbers = [tuple(map(int, version.split("-")[0].split("."))) for version in tried]
    if not numbers:
        return "1.0.0"
    major, minor, patch = max(numbers)
    if RegisteredModel.objects.filter(name=model_name, kind=Kind.CLASSIFIER).exists():
        return f"{major}.{minor}.{patch + 1}"
    return f"{major}.{minor + 1}.0"
