"""The engine on Cloud Run: its services, each rollout of a version to one, and what happened to it.

A rollout goes through its states in steps (`deployments/rollouts`); a worker or a command takes
each of them under a lease that it must renew.
"""

import uuid
from typing import Any

from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from deployments.immutable import ImmutableModel

SERVICE_NAME = r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?\Z"
"""32 letters: with a tag before it, it is the first part of a host's name, which has 46 at most."""

service_validator = RegexValidator(
    SERVICE_NAME, "Use up to 32 lower-case letters, digits and hyphens, starting with a letter."
)


class CloudService(models.Model):
    """A Cloud Run service that scores, as it is wished to be. One that was deleted stays for what
    was deployed to it."""

    name = models.CharField(max_length=63, validators=[service_validator])
    project = models.CharField(max_length=63)
    region = models.CharField(max_length=63)
    url = models.CharField(max_length=255, blank=True, help_text="Known once it is there")
    wishes = models.JSONField(
        default=dict, help_text="Its size, scaling, access and variables, see rollouts/wishes.py"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.CharField(max_length=150, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "service on Cloud Run"
        verbose_name_plural = "services on Cloud Run"
        ordering = ["name"]
        default_permissions = ("view", "delete")
        constraints = [
            models.UniqueConstraint(
                fields=["project", "region", "name"],
                condition=Q(deleted_at__isnull=True),
                name="service_unique_per_region",
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def console(self) -> str:
        """Its page at Google."""
        place = f"{self.region}/{self.name}"
        return f"https://console.cloud.google.com/run/detail/{place}?project={self.project}"


class DeploymentState(models.TextChoices):
    QUEUED = "queued"
    CHECKING = "checking"
    BUILDING = "building"
    MIGRATING = "migrating"
    DEPLOYING = "deploying"
    PROBING = "probing"
    SERVING = "serving"
    CANARY = "canary"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    ROLLED_BACK = "rolled_back", "Rolled back"


UNFINISHED = [
    DeploymentState.QUEUED,
    DeploymentState.CHECKING,
    DeploymentState.BUILDING,
    DeploymentState.MIGRATING,
    DeploymentState.DEPLOYING,
    DeploymentState.PROBING,
]
"""A rollout that goes on, or that was interrupted and is to go on."""


class Deployment(models.Model):
    """One rollout of a version to a service, and what became of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    service = models.ForeignKey(CloudService, on_delete=models.PROTECT, related_name="deployments")
    version = models.ForeignKey(
        "deployments.ModelVersion", on_delete=models.PROTECT, related_name="deployments"
    )
    wishes = models.JSONField(default=dict, help_text="What the service is to be from then on")
    canary = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(99)],
        help_text="Share of the traffic, in percent, that it gets at first; all of it without",
    )
    image = models.CharField(
        max_length=500, blank=True, help_text="The one given, or the one that was built"
    )
    state = models.CharField(
        max_length=16, choices=DeploymentState.choices, default=DeploymentState.QUEUED
    )
    state_since = models.DateTimeField(default=timezone.now)
    percent = models.PositiveSmallIntegerField(default=0, help_text="Its share of the traffic")
    tag = models.CharField(max_length=40)
    revision = models.CharField(max_length=63, blank=True, help_text="The revision's own name")
    url = models.CharField(max_length=255, blank=True, help_text="Of its revision alone, by tag")
    handles = models.JSONField(
        default=dict, blank=True, help_text="What Google calls what the steps have started"
    )
    traffic_before = models.JSONField(
        default=dict,
        blank=True,
        help_text="Percent of each revision before it: what a fault restores",
    )
    requested_by = models.CharField(max_length=150, blank=True)
    reason = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    finished_at = models.DateTimeField(
        null=True, blank=True, help_text="When its rollout was at its end"
    )
    ended_at = models.DateTimeField(
        null=True, blank=True, help_text="Since when it gets no traffic any more"
    )
    message = models.CharField(max_length=300, blank=True, help_text="What it waits for")
    error = models.TextField(blank=True, help_text="Why it failed, for the person who started it")
    billed_seconds = models.FloatField(
        null=True, blank=True, help_text="Instance time that Google has counted, when last read"
    )
    billed_at = models.DateTimeField(null=True, blank=True)

    claimed_by = models.CharField(max_length=200, blank=True, help_text="Who takes its steps")
    lease_until = models.DateTimeField(null=True, blank=True)
    next_step_at = models.DateTimeField(
        null=True, blank=True, help_text="When a worker looks at it next; none if a command does"
    )
    unreachable_since = models.DateTimeField(
        null=True, blank=True, help_text="Since when Google or the bucket has not answered"
    )

    class Meta:
        ordering = ["-created_at"]
        default_permissions = ("add", "view")
        permissions = [
            ("promote_deployment", "Can give a canary all of the traffic"),
            ("rollback_deployment", "Can roll a service back"),
            ("cancel_deployment", "Can cancel a rollout"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["service"],
                condition=Q(state__in=[*UNFINISHED, DeploymentState.CANARY]),
                name="one_rollout_per_service",
            ),
            models.UniqueConstraint(
                fields=["service"],
                condition=Q(state=DeploymentState.SERVING),
                name="one_serving_per_service",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.version} on {self.service.name}"

    @property
    def is_unfinished(self) -> bool:
        return self.state in UNFINISHED

    @property
    def run_id(self) -> str:
        """What its job's execution and its build are found by."""
        return str(self.pk)


class DeploymentEvent(ImmutableModel):
    """One step of a rollout: a change of its state, or something that happened to it."""

    deployment = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="events")
    at = models.DateTimeField(default=timezone.now)
    from_state = models.CharField(max_length=16, blank=True)
    state = models.CharField(max_length=16, choices=DeploymentState.choices)
    by = models.CharField(max_length=200, blank=True, help_text="Who did it: a person or a worker")
    message = models.TextField(blank=True)
    details: Any = models.JSONField(
        default=dict, blank=True, help_text="Traffic after it, if moved"
    )

    class Meta:
        ordering = ["id"]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.deployment_id}: {self.state}"
