"""Data sets and training runs."""

import uuid
from datetime import timedelta

from django.conf import settings
from django.core.validators import MinValueValidator
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


class Dataset(models.Model):
    """Transactions in the canonical schema, as one Parquet file that never changes."""

    name = models.CharField(max_length=63, unique=True, validators=[name_validator])
    location = models.CharField(max_length=255, help_text="Folder below DATA_DIR")
    preset = models.CharField(max_length=32)
    fingerprint = models.CharField(max_length=64, help_text="Of the content, not of the files")
    rows = models.PositiveBigIntegerField()
    frauds = models.PositiveBigIntegerField()
    rejected = models.PositiveBigIntegerField(default=0)
    first_at = models.DateTimeField(null=True, blank=True)
    last_at = models.DateTimeField(null=True, blank=True)
    summary = models.JSONField(default=dict, blank=True, help_text="As the import reported it")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = "data set"
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name

    @property
    def fraud_rate(self) -> float:
        """Frauds among the rows, 0 to 1."""
        return self.frauds / self.rows if self.rows else 0.0


class RunState(models.TextChoices):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = [RunState.QUEUED, RunState.STARTING, RunState.RUNNING]


class TrainingRun(models.Model):
    """One attempt to make a version. A worker claims it with a lease that it must renew."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    model = models.ForeignKey(RegisteredModel, on_delete=models.PROTECT, related_name="runs")
    version = models.CharField(max_length=64, validators=[semver_validator])
    dataset = models.ForeignKey(
        Dataset, verbose_name="data set", on_delete=models.PROTECT, related_name="runs"
    )
    rule_set = models.ForeignKey(RuleSet, on_delete=models.PROTECT, related_name="+")
    sample = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Only the most recent rows; such a version can't be promoted",
    )
    seed = models.PositiveIntegerField(default=0)
    options = models.JSONField(
        default=dict,
        blank=True,
        help_text="Those of pipeline.spec.Options that are not the default",
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
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    enqueued_at = models.DateTimeField(
        default=timezone.now, help_text="When its message was last sent; messages can be lost"
    )
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)

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
            models.CheckConstraint(
                condition=Q(state=RunState.SUCCEEDED) | Q(model_version__isnull=True),
                name="only_a_success_has_a_version",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model.name} v{self.version}, {self.state}"

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
