"""What changes training runs.

A run is changed by conditional updates only: whoever ends it first wins (transitions.py). What the
worker that has a run changes is in claims.py.
"""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.utils import timezone

from deployments.models import ModelVersion, RegisteredModel, RuleSet
from engine.classifier.definition import read_definition
from engine.errors import FieldError, RunConflict, RunRefused
from training import messages, transitions
from training.launchers import launcher_named
from training.launchers.choose import AUTO, choose
from training.launchers.resources import resources_for
from training.models import ACTIVE, Dataset, RetrainingSchedule, RunState, Then, TrainingRun
from training.pipeline.durations import parse_duration
from training.pipeline.spec import AnyOptions, ClassifierOptions, Options, encode_options
from training.run_costs import run_outlook
from training.validation import checked

logger = logging.getLogger(__name__)

# A queued run whose message is older than this gets another; a claim makes doubles harmless.
RESEND_SECONDS = 60
STEP_EXPIRES_SECONDS = 10


# --- Starting ------------------------------------------------------------------------------


def run_create(
    *,
    dataset: str,
    version: str,
    model: str = settings.MODEL_NAME,
    rules: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    options: AnyOptions | None = None,
    launcher: str = "local",
    resources: Mapping[str, Any] | None = None,
    requested_by: str = "",
    schedule: RetrainingSchedule | None = None,
    then: str = Then.KEEP,
) -> TrainingRun:
    """Create a queued run, and send its message once the transaction commits.

    Args:
        dataset, model, rules: names. No `rules` means those that serve for the model; a classifier
            has none.
        sample: only the most recent rows, of a classifier the first; the version can then not be
            promoted.
        options: everything else, of the model's kind; without a label delay, that of the data set.
        launcher: where it executes: local, cloud-run, vm, or auto for whichever suits best.
        resources: of that place, over its settings (`launchers/resources.py`).
        schedule: the one that makes it.
        then: what is done with its version, see `Then`.

    Raises:
        RunRefused: a name is unknown, the version is malformed, registered or being trained, or
            the place can't be used, or the budget does not allow it; `errors` names the field.
    """
    now = timezone.now()
    registered = _named(RegisteredModel, "model", "model", model)
    data: Dataset = _named(Dataset, "dataset", "data set", dataset)
    refuse_other_data(registered, data)
    options = _options(registered, data, options)
    reason = ""
    if launcher == AUTO:
        rows = min(sample or data.rows, data.rows)
        choice = choose(rows, options, model=model, given=resources)
        launcher, reason = choice.launcher, choice.reason
    is_attached = launcher_named(launcher).is_attached
    run = TrainingRun(
        model=registered,
        version=version,
        dataset=data,
        rule_set=_rule_set(registered, rules),
        sample=sample,
        seed=seed,
        options=encode_options(options),
        launcher=launcher,
        launcher_reason=reason,
        resources=_resources(launcher, resources),
        requested_by=requested_by,
        schedule=schedule,
        then=then,
        created_at=now,
        enqueued_at=now,
        next_step_at=None if is_attached else now,
    )
    checked(run, error=RunRefused, validate_constraints=False)
    runs_fail_abandoned(now=now)
    with transaction.atomic():
        _refuse_taken_version(registered, version)
        outlook = run_outlook(run, now)
        run.message = " ".join(outlook.warnings)[:300]
        try:
            with transaction.atomic():
                transitions.create(run, by=requested_by, now=now, message=outlook.message)
        except IntegrityError:
            # Another request made it between our look and our insert.
            _refuse_taken_version(registered, version)
            raise
        task = messages.RUN_TRAIN if is_attached else messages.STEP_RUN
        messages.send_on_commit(task, run.pk)
    return run


def run_restart(
    run: TrainingRun, *, requested_by: str = "", may_promote: bool = False
) -> TrainingRun:
    """Start a run that failed or was cancelled again, as a new run with the same parameters.

    Args:
        may_promote: whether who asks may promote by hand. If not, a version that was to be promoted
            is proposed.

    Raises:
        RunRefused: it has not ended, or it succeeded, or another run makes its version.
    """
    runs_fail_abandoned(now=timezone.now())
    run.refresh_from_db()
    if not run.can_restart:
        raise RunRefused(
            "Only a run that failed or was cancelled can be started again; "
            f"this one is {run.state}."
        )
    return run_create(
        dataset=run.dataset.name,
        version=run.version,
        model=run.model.name,
        rules=run.rules_name or None,
        sample=run.sample,
        seed=run.seed,
        options=run.typed_options,
        launcher=run.launcher,
        resources=run.resources,
        requested_by=requested_by,
        then=Then.PROPOSE if run.then == Then.PROMOTE and not may_promote else run.then,
    )


def _resources(launcher: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the run gets. A place elsewhere reads and writes what is in the bucket."""
    resources = msgspec.to_builtins(resources_for(launcher, given))
    folders = {name: getattr(settings, name) for name in ("DATA_DIR", "RUNS_DIR", "ARTIFACTS_DIR")}
    here = [name for name, location in folders.items() if not location.startswith("gs://")]
    if here and "project" in resources:
        message = (
            f"The launcher “{launcher}” can't see {', '.join(here)} of this machine: set "
            "BUCKET_NAME, so that data sets, runs and versions are in a bucket."
        )
        raise RunRefused(message, [FieldError("launcher", message)])
    return {name: value for name, value in resources.items() if value is not None}


def refuse_other_data(model: RegisteredModel, dataset: Dataset) -> None:
    """Raise RunRefused for a data set that the model can't be trained on."""
    message = _other_data(model, dataset)
    if message:
        raise RunRefused(message, [FieldError("dataset", message)])


def _other_data(model: RegisteredModel, dataset: Dataset) -> str:
    if dataset.model_id != (model.pk if model.is_classifier else None):
        held = "transactions"
        if dataset.model is not None:
            held = f"rows of “{dataset.model.name}”"
        wanted = (
            f"rows of its own: manage.py import_dataset NAME FILE --model {model.name}"
            if model.is_classifier
            else "transactions: manage.py import_dataset NAME FILE"
        )
        return f"“{dataset.name}” holds {held}, and “{model.name}” is trained on {wanted}"
    if not model.is_classifier:
        return ""
    imported_by = dataset.summary.get("definition_fingerprint")
    if imported_by in (None, read_definition(model.definition).fingerprint):
        return ""
    return (
        f"“{dataset.name}” was imported when “{model.name}” had other inputs or classes: import "
        f"the rows again, with manage.py import_dataset NAME FILE --model {model.name}"
    )


def _options(model: RegisteredModel, dataset: Dataset, given: AnyOptions | None) -> AnyOptions:
    """Those of the model's kind; raises RunRefused for another's."""
    kind = ClassifierOptions if model.is_classifier else Options
    options = given if given is not None else kind()
    if not isinstance(options, kind):
        message = f"These are not the options of a {model.get_kind_display().lower()} model."
        raise RunRefused(message, [FieldError("options", message)])
    if isinstance(options, ClassifierOptions):
        return options
    return _with_label_delay(options, dataset)


def _with_label_delay(options: Options, dataset: Dataset) -> Options:
    """The options with the label delay that the data set says, where they have none."""
    written = dataset.summary.get("label_delay")
    if options.label_delay_us is not None or written is None:
        return options
    return msgspec.structs.replace(options, label_delay_us=parse_duration(written))


def _named(kind: type[models.Model], field: str, words: str, name: str) -> Any:
    found = kind._default_manager.filter(name=name).first()
    if found is not None:
        return found
    names = list(kind._default_manager.order_by("name").values_list("name", flat=True)[:20])
    there = "there is " + ", ".join(names) if names else "there is none yet"
    message = f"There is no {words} “{name}”; {there}."
    raise RunRefused(message, [FieldError(field, message)])


def _rule_set(model: RegisteredModel, name: str | None) -> RuleSet | None:
    if model.is_classifier:
        if name is None:
            return None
        message = f"“{model.name}” is a classifier: it is trained without rules."
        raise RunRefused(message, [FieldError("rules", message)])
    if name is not None:
        named: RuleSet = _named(RuleSet, "rules", "rule set", name)
        return named
    serving: RuleSet | None = RuleSet.objects.filter(aliases__model=model).first()
    if serving is None:
        message = f"No rule set serves for “{model.name}”; name one, or “none”."
        raise RunRefused(message, [FieldError("rules", message)])
    return serving


def _refuse_taken_version(model: RegisteredModel, version: str) -> None:
    message = ""
    if ModelVersion.objects.filter(model=model, version=version).exists():
        message = f"{model.name} v{version} is already registered, and versions never change."
    active = TrainingRun.objects.filter(model=model, version=version, state__in=ACTIVE).first()
    if active is not None:
        message = f"{model.name} v{version} is being trained: run {active.pk} is {active.state}."
    if message:
        raise RunConflict(message, [FieldError("version", message)])


# --- Stopping and recovering ---------------------------------------------------------------


def run_cancel(run: TrainingRun, *, now: datetime, by: str = "") -> None:
    """Cancel a run: at once when it is queued, at its worker's next step when it is not.

    Raises:
        RunRefused: it has already ended.
    """
    if transitions.move(
        run.pk,
        RunState.QUEUED,
        RunState.CANCELLED,
        by=by,
        message="It was cancelled before it started.",
        now=now,
        cancel_requested_at=now,
    ):
        return
    begun = TrainingRun.objects.filter(pk=run.pk, state__in=[RunState.STARTING, RunState.RUNNING])
    with transaction.atomic():
        asked = begun.filter(cancel_requested_at=None).update(cancel_requested_at=now)
        if asked:
            transitions.note(run.pk, "Cancelling was asked for.", by, now)
    if not asked and not begun.exists():
        run.refresh_from_db()
        raise RunConflict(f"This run has already ended: it {_how_ended(run.state)}.")
    if begun.filter(next_step_at__isnull=False).update(next_step_at=now):
        messages.send_on_commit(messages.STEP_RUN, run.pk)
    runs_fail_abandoned(now=now)


def _how_ended(state: str) -> str:
    return "was cancelled" if state == RunState.CANCELLED else f"has {state}"


def runs_fail_abandoned(*, now: datetime) -> int:
    """End the runs that their worker had to stay with, and that it does not answer for any more;
    returns how many.

    Their program has ended too: it watches its worker.
    """
    abandoned = Q(lease_until__lt=now, next_step_at=None)
    begun = TrainingRun.objects.filter(abandoned, state__in=[RunState.STARTING, RunState.RUNNING])
    ended = 0
    for run in begun.only("pk", "state", "lease_until", "claimed_by", "cancel_requested_at"):
        assert run.lease_until is not None
        last = run.lease_until - timedelta(seconds=settings.TRAINING_LEASE_SECONDS)
        error = f"The worker {run.claimed_by} stopped answering at {last:%Y-%m-%d %H:%M:%S} UTC."
        state = RunState.CANCELLED if run.cancel_requested_at else RunState.FAILED
        ended += transitions.move(
            run.pk, run.state, state, by="", message=error, now=now, where=abandoned, error=error
        )
    return ended


def runs_send_again(*, now: datetime) -> int:
    """Send a new message for queued runs whose message must be lost, as when the broker was
    emptied; returns how many."""
    old = now - timedelta(seconds=RESEND_SECONDS)
    stale = TrainingRun.objects.filter(
        state=RunState.QUEUED, next_step_at=None, enqueued_at__lt=old
    )
    sent = 0
    for pk in list(stale.values_list("pk", flat=True)):
        if stale.filter(pk=pk).update(enqueued_at=now):
            # While the workers that train are busy these would only pile up.
            messages.send(messages.RUN_TRAIN, pk, expires=RESEND_SECONDS)
            sent += 1
    return sent


def runs_step(*, now: datetime) -> int:
    """Send a message for every run that nobody stays with and whose next step is due; returns how
    many."""
    due = TrainingRun.objects.filter(
        Q(lease_until=None) | Q(lease_until__lt=now), state__in=ACTIVE, next_step_at__lte=now
    )
    pks = list(due.values_list("pk", flat=True))
    for pk in pks:
        # While every worker is busy these would only pile up.
        messages.send(messages.STEP_RUN, pk, expires=STEP_EXPIRES_SECONDS)
    return len(pks)


def runs_settle_again(*, now: datetime) -> int:
    """Send a new message for ended runs that were not settled; returns how many."""
    left = TrainingRun.objects.filter(
        Q(lease_until=None) | Q(lease_until__lt=now),
        state__in=transitions.ENDED,
        settled_at=None,
        finished_at__lt=now - timedelta(seconds=RESEND_SECONDS),
    )
    pks = list(left.values_list("pk", flat=True))
    for pk in pks:
        messages.send(messages.AFTER_RUN, pk, expires=RESEND_SECONDS)
    return len(pks)


def runs_recover(*, now: datetime) -> None:
    """End what no worker answers for, and send lost messages again."""
    ended, sent = runs_fail_abandoned(now=now), runs_send_again(now=now)
    settled = runs_settle_again(now=now)
    if ended or sent or settled:
        logger.warning(
            "Abandoned runs ended: %d. Lost messages sent again: %d, after an end: %d.",
            ended,
            sent,
            settled,
        )
