"""Data sets and training runs."""

import uuid
from datetime import datetime, timedelta

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from deployments.models import (
    ImmutableModel,
    ModelVersion,
    RegisteredModel,
    RuleSet,
    name_validator,
    semver_validator,
)
from engine.kinds import CLASSIFIER, FRAUD
from training.crontab import Crontab, read_crontab
from training.pipeline.spec import AnyOptions, decode_options_of


class Dataset(models.Model):
    """Rows as one Parquet file that never changes: transactions in the canonical schema, or rows of
    a classifier's inputs and target."""

    name = models.CharField(max_length=63, unique=True, validators=[name_validator])
    model = models.ForeignKey(
        RegisteredModel,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="datasets",
        help_text="The classifier whose rows these are; none: transactions",
    )
    location = models.CharField(max_length=255, help_text="Folder below DATA_DIR")
    preset = models.CharField(max_length=32)
    fingerprint = models.CharField(max_length=64, help_text="Of the content, not of the files")
    rows = models.PositiveBigIntegerField()
    frauds = models.PositiveBigIntegerField(default=0)
    rejected = models.PositiveBigIntegerField(default=0)
    first_at = models.DateTimeField(null=True, blank=True)
    last_at = models.DateTimeField(null=True, blank=True)
    summary = models.JSONField(default=dict, blank=True, help_text="As the import reported it")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = "data set"
        ordering = ["-created_at"]
        permissions = [("download_dataset", "Can download a data set")]

    def __str__(self) -> str:
        return self.name

    @property
    def file(self) -> str:
        """Where its data is: a path, or gs://bucket/name."""
        return f"{settings.DATA_DIR}/{self.location}/data.parquet"

    @property
    def kind(self) -> str:
        """Of the models that can be trained on it."""
        return FRAUD if self.model_id is None else CLASSIFIER

    @property
    def what(self) -> str:
        """Its rows in words."""
        if self.model_id is not None:
            return f"{self.rows:,} rows"
        return f"{self.rows:,} transactions, {self.fraud_rate:.2%} frauds"

    @property
    def fraud_rate(self) -> float:
        """Frauds among the rows, 0 to 1."""
        return self.frauds / self.rows if self.rows else 0.0


class UploadState(models.TextChoices):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


def _upload_place(_upload: "DatasetUpload", name: str) -> str:
    return f"datasets/{uuid.uuid4().hex}-{name}"


class DatasetUpload(models.Model):
    """A file that somebody uploaded to become a data set. A worker imports it under a lease."""

    name = models.CharField(
        max_length=63, validators=[name_validator], help_text="Of the data set that it becomes"
    )
    file = models.FileField(
        upload_to=_upload_place, max_length=300, blank=True, help_text="Empty once it is imported"
    )
    model = models.ForeignKey(
        RegisteredModel,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The classifier whose rows these are; none: transactions",
    )
    file_name = models.CharField(max_length=200)
    size = models.PositiveBigIntegerField(help_text="Bytes")
    preset = models.CharField(max_length=32, default="canonical")
    mapping = models.TextField(blank=True, help_text="A mapping file, instead of the preset")
    on_bad_rows = models.CharField(
        max_length=4, default="stop", choices=[("stop", "import nothing"), ("skip", "leave out")]
    )
    start = models.DateTimeField(null=True, blank=True, help_text="Of a mapping that counts hours")
    state = models.CharField(max_length=16, choices=UploadState.choices, default=UploadState.QUEUED)
    step = models.CharField(max_length=100, blank=True)
    fraction = models.FloatField(default=0.0, help_text="Done, 0 to 1")
    error = models.TextField(blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    requested_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    enqueued_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    claimed_by = models.CharField(max_length=200, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    dataset = models.OneToOneField(
        Dataset, null=True, blank=True, on_delete=models.SET_NULL, related_name="upload"
    )

    class Meta:
        verbose_name = "upload of a data set"
        verbose_name_plural = "uploads of data sets"
        ordering = ["-created_at"]
        default_permissions = ("add", "view", "delete")

    def __str__(self) -> str:
        return f"{self.file_name} as “{self.name}”"

    @property
    def is_active(self) -> bool:
        return self.state in (UploadState.QUEUED, UploadState.RUNNING)


class RunState(models.TextChoices):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = [RunState.QUEUED, RunState.STARTING, RunState.RUNNING]


class Then(models.TextChoices):
    """What is done with the version of a run that succeeded."""

    KEEP = "keep", "Keep it, and nothing else"
    PROPOSE = "propose", "Propose it for promotion"
    PROMOTE = "promote", "Promote it if it is better than the champion, else propose it"


class TrainingRun(models.Model):
    """One attempt to make a version. A worker claims it with a lease that it must renew."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    model = models.ForeignKey(RegisteredModel, on_delete=models.PROTECT, related_name="runs")
    version = models.CharField(max_length=64, validators=[semver_validator])
    dataset = models.ForeignKey(
        Dataset, verbose_name="data set", on_delete=models.PROTECT, related_name="runs"
    )
    rule_set = models.ForeignKey(
        RuleSet, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    sample = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Only the most recent rows, of a classifier the first; such a version can't be "
        "promoted",
    )
    seed = models.PositiveIntegerField(default=0)
    options = models.JSONField(
        default=dict,
        blank=True,
        help_text="Those of its kind in pipeline/spec.py that are not the default",
    )
    launcher = models.CharField(max_length=16, default="local")
    launcher_reason = models.CharField(
        max_length=300, blank=True, help_text="Why “auto” chose this launcher"
    )
    resources = models.JSONField(
        default=dict, blank=True, help_text="What the place gives it, see launchers/resources.py"
    )
    handle = models.CharField(
        max_length=500, blank=True, help_text="What the launcher calls it at its place"
    )
    state = models.CharField(max_length=16, choices=RunState.choices, default=RunState.QUEUED)
    requested_by = models.CharField(max_length=150, blank=True)
    schedule = models.ForeignKey(
        "RetrainingSchedule", null=True, blank=True, on_delete=models.PROTECT, related_name="runs"
    )
    then = models.CharField(max_length=16, choices=Then.choices, default=Then.KEEP)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    enqueued_at = models.DateTimeField(
        default=timezone.now, help_text="When its message was last sent; messages can be lost"
    )
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    settled_at = models.DateTimeField(
        null=True, blank=True, help_text="When what follows its end was done (after.py)"
    )

    claimed_by = models.CharField(max_length=200, blank=True, help_text="Worker that runs it")
    lease_until = models.DateTimeField(
        null=True, blank=True, help_text="A run past its lease has no worker"
    )
    heartbeat_at = models.DateTimeField(
        null=True, blank=True, help_text="When its program was last seen alive, by our clock"
    )
    heartbeat_text = models.CharField(
        max_length=40, blank=True, help_text="The program's last heartbeat, by its own clock"
    )
    next_step_at = models.DateTimeField(
        null=True, blank=True, help_text="When a worker looks at it next, if none stays with it"
    )
    unreachable_since = models.DateTimeField(
        null=True, blank=True, help_text="Since when its place has not answered"
    )

    stage = models.CharField(max_length=32, blank=True)
    fraction = models.FloatField(default=0.0, help_text="Done, 0 to 1")
    rows = models.PositiveBigIntegerField(null=True, blank=True)
    message = models.CharField(max_length=300, blank=True)
    error = models.TextField(blank=True, help_text="Why it failed, for the person who started it")
    report = models.JSONField(default=dict, blank=True)
    place_started_at = models.DateTimeField(
        null=True, blank=True, help_text="When its place began to charge, by that place's clock"
    )
    place_ended_at = models.DateTimeField(null=True, blank=True)
    estimated_cost_usd = models.DecimalField(max_digits=12, decimal_places=4, null=True, blank=True)
    cost_usd = models.DecimalField(max_digits=12, decimal_places=4, null=True, blank=True)
    model_version = models.OneToOneField(
        ModelVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="run"
    )

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["model", "version"],
                condition=Q(state__in=ACTIVE),
                name="one_active_run_per_version",
            ),
            models.UniqueConstraint(
                fields=["model"],
                condition=Q(state__in=ACTIVE, schedule__isnull=False),
                name="one_active_scheduled_run_per_model",
            ),
            models.CheckConstraint(
                condition=Q(state=RunState.SUCCEEDED) | Q(model_version__isnull=True),
                name="only_a_success_has_a_version",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model.name} v{self.version}, {self.state}"

    @property
    def rules_name(self) -> str:
        """Of its rule set; empty for a classifier."""
        return self.rule_set.name if self.rule_set else ""

    @property
    def typed_options(self) -> AnyOptions:
        """Its options, of its model's kind."""
        return decode_options_of(self.model.kind, self.options)

    @property
    def folder(self) -> str:
        """Where the run folder is: how the worker and the training program talk."""
        return f"{settings.RUNS_DIR}/{self.pk}"

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def can_restart(self) -> bool:
        """Whether it ended without a version."""
        return self.state in (RunState.FAILED, RunState.CANCELLED)

    @property
    def duration(self) -> timedelta | None:
        """How long it has run, or ran; None before it started."""
        if self.started_at is None:
            return None
        return (self.finished_at or timezone.now()) - self.started_at


class RunEvent(ImmutableModel):
    """One step of a run's life: a change of its state, or something that happened to it."""

    run = models.ForeignKey(TrainingRun, on_delete=models.PROTECT, related_name="events")
    at = models.DateTimeField(default=timezone.now)
    from_state = models.CharField(max_length=16, blank=True)
    state = models.CharField(max_length=16, choices=RunState.choices)
    by = models.CharField(max_length=200, blank=True, help_text="Who did it: a person or a worker")
    message = models.TextField(blank=True)

    class Meta:
        ordering = ["id"]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.run_id}: {self.state}"


class RetrainingSchedule(models.Model):
    """When a model is trained again, on what, and what is done with the version.

    A worker that makes a run of it claims it with a lease, because the data set of recorded traffic
    takes a while. One that was deleted stays for the runs that it made.
    """

    name = models.CharField(max_length=40, validators=[name_validator])
    model = models.ForeignKey(RegisteredModel, on_delete=models.PROTECT, related_name="schedules")
    dataset = models.ForeignKey(
        Dataset,
        verbose_name="data set",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="schedules",
    )
    days = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(3660)],
        help_text="Of recorded and labelled traffic, instead of a data set",
    )
    rule_set = models.ForeignKey(
        RuleSet, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    seed = models.PositiveIntegerField(default=0)
    options = models.JSONField(
        default=dict,
        blank=True,
        help_text="Those of its kind in pipeline/spec.py that are not the default",
    )
    launcher = models.CharField(max_length=16, default="local")
    resources = models.JSONField(default=dict, blank=True)
    crontab = models.CharField(max_length=200)
    time_zone = models.CharField(max_length=64)
    then = models.CharField(max_length=16, choices=Then.choices, default=Then.PROPOSE)
    enabled = models.BooleanField(default=True)
    periodic_task = models.OneToOneField(
        "django_celery_beat.PeriodicTask",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="retraining_schedule",
    )

    last_slot = models.DateTimeField(
        default=timezone.now, help_text="Its times until this one are settled"
    )
    requested_at = models.DateTimeField(
        null=True, blank=True, help_text="When someone asked for a run out of turn"
    )
    requested_by = models.CharField(max_length=150, blank=True)
    claimed_by = models.CharField(max_length=200, blank=True, help_text="Worker that starts a run")
    lease_until = models.DateTimeField(null=True, blank=True)
    message = models.TextField(blank=True, help_text="What it waits for, or why it last failed")
    message_at = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]
        permissions = [("run_retrainingschedule", "Can run a retraining schedule now")]
        constraints = [
            models.UniqueConstraint(
                fields=["name"],
                condition=Q(deleted_at__isnull=True),
                name="schedule_unique",
            ),
            models.CheckConstraint(
                condition=Q(dataset__isnull=False, days__isnull=True)
                | Q(dataset__isnull=True, days__isnull=False),
                name="schedule_has_one_source",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def times(self) -> Crontab:
        """Its times; ValueError when the fields can't be read."""
        return read_crontab(self.crontab, self.time_zone)

    @property
    def typed_options(self) -> AnyOptions:
        """Its options, of its model's kind."""
        return decode_options_of(self.model.kind, self.options)

    @property
    def source(self) -> str:
        """What it trains on, in words."""
        if self.dataset is not None:
            return f"data set “{self.dataset.name}”"
        return "last day of traffic" if self.days == 1 else f"last {self.days} days of traffic"

    def due(self, now: datetime) -> datetime | None:
        """The moment for which a run is to be made; None when all is settled. Of several times that
        have passed it is the last: they are caught up once."""
        if self.deleted_at is not None:
            return None
        slot = self.times.latest(now) if self.enabled else None
        if slot is not None and slot > self.last_slot:
            return slot
        return self.requested_at


class ScheduleEventKind(models.TextChoices):
    CHANGED = "changed"
    STARTED = "started"
    WAITING = "waiting"
    FAILED = "failed"
    ENDED = "ended"


class ScheduleEvent(ImmutableModel):
    """Something that happened to a schedule."""

    schedule = models.ForeignKey(
        RetrainingSchedule, on_delete=models.PROTECT, related_name="events"
    )
    kind = models.CharField(max_length=16, choices=ScheduleEventKind.choices)
    at = models.DateTimeField(default=timezone.now)
    slot = models.DateTimeField(null=True, blank=True, help_text="The time that it is about")
    run = models.ForeignKey(
        TrainingRun, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    by = models.CharField(max_length=200, blank=True, help_text="Who did it: a person or nobody")
    message = models.TextField(blank=True)

    class Meta:
        ordering = ["-id"]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.schedule_id}: {self.kind}"
