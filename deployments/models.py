"""The registry: registered models, their versions, rule sets, aliases, and who changed what.

Versions, rule sets and events are facts: written once, never changed. Aliases are the only rows
that move, and every move leaves an event. What runs on Google Cloud is in `cloud_models`.
"""

import hashlib
import secrets
import uuid

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from deployments.cloud_models import (
    UNFINISHED,
    CloudService,
    Deployment,
    DeploymentEvent,
    DeploymentState,
)
from deployments.immutable import ImmutableModel, ImmutableQuerySet, ImmutableRow
from engine import kinds

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "SEMVER",
    "UNFINISHED",
    "Action",
    "Alias",
    "AliasEvent",
    "ApiKey",
    "CloudService",
    "Deployment",
    "DeploymentEvent",
    "DeploymentState",
    "ImmutableModel",
    "ImmutableQuerySet",
    "ImmutableRow",
    "Kind",
    "ModelVersion",
    "PromotionEvent",
    "RegisteredModel",
    "RuleSet",
    "RuleSetAlias",
    "RuleSetEvent",
    "Scope",
    "name_validator",
    "semver_validator",
]  # fmt: skip

# https://semver.org, without the leading v and without build metadata (it does not order versions).
_NUMBER = r"(?:0|[1-9][0-9]*)"
_LABEL = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
SEMVER = rf"^{_NUMBER}(?:\.{_NUMBER}){{2}}(?:-{_LABEL}(?:\.{_LABEL})*)?\Z"
semver_validator = RegexValidator(
    SEMVER, "“%(value)s” is not a semantic version such as 1.0.0 (no leading v)."
)
name_validator = RegexValidator(
    r"^[a-z][a-z0-9_-]{0,62}\Z", "Use lower-case letters, digits, - and _, starting with a letter."
)

CHAMPION = "champion"
CHALLENGER = "challenger"


class Kind(models.TextChoices):
    """What a registered model does (engine/kinds.py)."""

    FRAUD = kinds.FRAUD, "Fraud scoring"
    CLASSIFIER = kinds.CLASSIFIER, "Classifier"


class RegisteredModel(models.Model):
    """A model that has versions, such as “fraud”."""

    name = models.CharField(max_length=63, unique=True, validators=[name_validator])
    kind = models.CharField(max_length=32, choices=Kind.choices, default=Kind.FRAUD)
    definition = models.TextField(
        blank=True, help_text="TOML, of a classifier, as in engine/classifier/definition.py"
    )
    description = models.TextField(blank=True)
    defined_at = models.DateTimeField(null=True, blank=True, help_text="When it last changed")
    defined_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        default_permissions = ("add", "view")

    def __str__(self) -> str:
        return self.name

    @property
    def is_classifier(self) -> bool:
        """Whether it is described by a definition, and has no rules and no thresholds."""
        return self.kind == Kind.CLASSIFIER


class ModelVersion(ImmutableModel):
    """One published bundle, and what was measured when it was made."""

    model = models.ForeignKey(RegisteredModel, on_delete=models.PROTECT, related_name="versions")
    version = models.CharField(max_length=64, validators=[semver_validator])
    location = models.CharField(
        max_length=255, help_text="The bundle's prefix in the artefact store, fraud/v1.0.0"
    )
    manifest_sha256 = models.CharField(max_length=64)
    size_bytes = models.PositiveBigIntegerField(help_text="Of the bundle's files together")
    thresholds = models.JSONField(
        default=dict,
        blank=True,
        help_text="Risk scores from which to REVIEW and to BLOCK; a classifier has none",
    )
    metrics = models.JSONField(
        default=dict, blank=True, help_text="Measured on the test part, see docs/training.md"
    )
    deployable = models.BooleanField(
        default=True, help_text="False for a run on a sample: it can be looked at, not promoted"
    )
    training_run_id = models.UUIDField(null=True, blank=True, help_text="The run that made it")
    rule_set = models.ForeignKey(
        "RuleSet",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="tuned_versions",
        help_text="The rule set that its thresholds were tuned with; a classifier has none",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-created_at"]
        default_permissions = ("view",)
        permissions = [
            ("promote_modelversion", "Can promote a model version"),
            ("rollback_modelversion", "Can roll a model back"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["model", "version"], name="version_unique_per_model"),
        ]

    def __str__(self) -> str:
        return f"{self.model.name} v{self.version}"


class RuleSet(ImmutableModel):
    """The rules as TOML text. A correction is a new rule set, and the alias moves to it."""

    name = models.CharField(max_length=63, unique=True, validators=[name_validator])
    source = models.TextField(blank=True, help_text="TOML, as in engine/default_rules.toml")
    sha256 = models.CharField(max_length=64)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-created_at", "name"]
        default_permissions = ("add", "view")
        permissions = [
            ("promote_ruleset", "Can promote a rule set"),
            ("rollback_ruleset", "Can roll the rule set of a model back"),
        ]

    def __str__(self) -> str:
        return self.name


class Alias(models.Model):
    """A name that points to one version of a model; “champion” is the one that serves, and
    “challenger” the one that was last proposed to take its place."""

    model = models.ForeignKey(RegisteredModel, on_delete=models.PROTECT, related_name="aliases")
    name = models.CharField(max_length=32, validators=[name_validator], default=CHAMPION)
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="aliases")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "aliases"
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["model", "name"], name="alias_unique_per_model"),
        ]

    def __str__(self) -> str:
        return f"{self.model.name}@{self.name}"


class RuleSetAlias(models.Model):
    """The rule set that serves for a model."""

    model = models.OneToOneField(
        RegisteredModel, on_delete=models.PROTECT, related_name="rule_set_alias"
    )
    rule_set = models.ForeignKey(RuleSet, on_delete=models.PROTECT, related_name="aliases")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "rule set aliases"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.model.name}: {self.rule_set.name}"


class Action(models.TextChoices):
    PROMOTE = "promote", "Promotion"
    ROLLBACK = "rollback", "Rollback"


class AliasEvent(ImmutableModel):
    """Who moved an alias, when and why.

    Events of one alias form a chain: each comes from where the one before it went. A rollback
    names the promotion that it undoes, so the promotions that are not undone are a stack, and a
    second rollback goes further back than the first.
    """

    action = models.CharField(max_length=16, choices=Action.choices)
    actor = models.CharField(max_length=150, help_text="The user, or the command's system user")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    reason = models.TextField()
    at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    undoes = models.OneToOneField(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="undone_by",
        help_text="The promotion that this rollback undoes",
    )

    class Meta:
        abstract = True
        ordering = ["-id"]
        default_permissions = ("view",)
        constraints = [
            models.CheckConstraint(
                condition=Q(action=Action.ROLLBACK, undoes__isnull=False)
                | Q(action=Action.PROMOTE, undoes__isnull=True),
                name="%(class)s_rollback_undoes",
            )
        ]

    @property
    def what(self) -> str:
        """What it was, in a word."""
        return self.get_action_display()


class PromotionEvent(AliasEvent):
    """One move of a model's alias from a version to another."""

    model = models.ForeignKey(RegisteredModel, on_delete=models.PROTECT, related_name="promotions")
    alias = models.CharField(max_length=32, default=CHAMPION)
    from_version = models.ForeignKey(
        ModelVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    to_version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")

    def __str__(self) -> str:
        before = f"v{self.from_version.version}" if self.from_version else "none"
        return f"{self.what} {before} → v{self.to_version.version}"

    @property
    def what(self) -> str:
        return "Proposal" if self.alias == CHALLENGER else super().what


class RuleSetEvent(AliasEvent):
    """One move of a model's rule set alias."""

    model = models.ForeignKey(
        RegisteredModel, on_delete=models.PROTECT, related_name="rule_set_events"
    )
    from_rule_set = models.ForeignKey(
        RuleSet, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    to_rule_set = models.ForeignKey(RuleSet, on_delete=models.PROTECT, related_name="+")
    promotion = models.OneToOneField(
        PromotionEvent,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="rule_set_event",
        help_text="The move of the model that this one was part of",
    )

    def __str__(self) -> str:
        before = self.from_rule_set.name if self.from_rule_set else "none"
        return f"{self.get_action_display()} {before} → {self.to_rule_set.name}"


class Scope(models.TextChoices):
    SCORE = "score", "Score transactions and report outcomes"
    LABELS = "labels", "Send labels"
    READ = "read", "Read records and versions"
    TRAIN = "train", "Start training runs"
    PROMOTE = "promote", "Promote and roll back"


def _scopes_default() -> list[str]:
    return [Scope.SCORE.value]


class ApiKey(models.Model):
    """A caller's key. Only its SHA-256 is kept: a key has 256 random bits, so a slow password
    hash would cost every request time and add nothing."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, help_text="Who uses it, such as “wallet backend”")
    prefix = models.CharField(max_length=12, editable=False, help_text="Tells keys apart")
    sha256 = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.JSONField(default=_scopes_default)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.CharField(max_length=150, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "API key"
        ordering = ["-created_at"]
        default_permissions = ("add", "view")
        permissions = [("revoke_apikey", "Can revoke an API key")]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @staticmethod
    def generate() -> str:
        """A new key: `sk_` and 256 random bits."""
        return "sk_" + secrets.token_urlsafe(32)

    @staticmethod
    def digest(plain_key: str) -> str:
        """The `sha256` of a key: what is stored and looked up."""
        return hashlib.sha256(plain_key.encode()).hexdigest()
