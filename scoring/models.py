"""What Sentinelle has seen and what it answered.

`Attempt` is the history that features are computed from: narrow, so that a wallet's last thousand
attempts are read in one short scan. `ScoreRecord` is the decision, with everything that explains
it. `Outcome` says how a transaction ended, `Label` whether it was fraud; `ConfirmedFraud` is what
features read of labels. Times of the wallet's timeline are integer microseconds in UTC (see
docs/features.md); everything people read is a `DateTimeField`.
"""

from django.db import models
from django.utils import timezone

from deployments.models import ImmutableModel, ModelVersion, RegisteredModel, RuleSet


class Attempt(ImmutableModel):
    """One transaction as history knows it. `id` is the sequence in which it was accepted."""

    id = models.BigAutoField(primary_key=True)
    transaction_id = models.CharField(max_length=64)
    source_wallet_id = models.CharField(max_length=64)
    destination_wallet_id = models.CharField(max_length=64)
    source_time = models.BigIntegerField(help_text="Place in the source wallet's timeline, µs")
    source_event = models.BinaryField(help_text="engine.features event with its running totals")
    destination_time = models.BigIntegerField(
        help_text="Place in the destination wallet's timeline, µs"
    )
    destination_event = models.BinaryField(
        help_text="engine.features incoming event with its running totals"
    )

    class Meta:
        default_permissions = ("view",)
        # Not unique=True, which on PostgreSQL adds a second index, for LIKE.
        constraints = [
            models.UniqueConstraint(fields=["transaction_id"], name="attempt_transaction"),
        ]
        indexes = [
            models.Index(fields=["source_wallet_id", "source_time", "id"], name="attempt_source"),
            models.Index(
                fields=["destination_wallet_id", "destination_time", "id"],
                name="attempt_destination",
            ),
        ]

    def __str__(self) -> str:
        return self.transaction_id


class Decision(models.TextChoices):
    APPROVE = "APPROVE"
    REVIEW = "REVIEW"
    BLOCK = "BLOCK"


class ScoreRecord(ImmutableModel):
    """One decision: the answer that was given and everything that it came from."""

    attempt = models.OneToOneField(
        Attempt, on_delete=models.PROTECT, primary_key=True, related_name="record"
    )
    digest = models.BinaryField(help_text="SHA-256 of the transaction, for idempotency")
    transaction = models.JSONField()
    context = models.JSONField()
    created_at = models.DateTimeField(help_text="When the transaction was made")
    scored_at = models.DateTimeField(db_index=True)
    decision = models.CharField(max_length=8, choices=Decision.choices)
    risk_score = models.FloatField()
    rule_score = models.FloatField()
    supervised_score = models.FloatField(null=True)
    unsupervised_score = models.FloatField(null=True)
    reasons = models.JSONField(default=list)
    rules_fired = models.JSONField(default=list, help_text="Rule ids, such as R8")
    features = models.JSONField(help_text="Every feature's value")
    features_sent = models.JSONField(default=list, help_text="Names of those the caller sent")
    # Versions and rule sets are never deleted, so the database need not check that they exist. It
    # would by locking the one row that every decision names, in each of them.
    model_version = models.ForeignKey(
        ModelVersion,
        on_delete=models.PROTECT,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    rule_set = models.ForeignKey(
        RuleSet, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    control_share = models.FloatField(
        null=True,
        help_text="Of the control group: the share of the models' blocks that was let through",
    )

    class Meta:
        ordering = ["-attempt"]
        default_permissions = ("view",)
        indexes = [
            models.Index(fields=["decision", "-attempt"], name="record_decision"),
            models.Index(fields=["model_version", "-attempt"], name="record_version"),
            models.Index(
                fields=["-attempt"],
                name="record_control",
                condition=models.Q(control_share__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.attempt_id}: {self.decision}"


class OutcomeStatus(models.TextChoices):
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class Outcome(ImmutableModel):
    """How a transaction ended. Failed and cancelled ones make the wallet's failure timeline."""

    id = models.BigAutoField(primary_key=True)
    attempt = models.OneToOneField(Attempt, on_delete=models.PROTECT, related_name="outcome")
    status = models.CharField(max_length=8, choices=OutcomeStatus.choices)
    occurred_at = models.DateTimeField()
    received_at = models.DateTimeField()
    # The failure timeline of the source wallet; null for a success.
    failure_wallet_id = models.CharField(max_length=64, null=True)
    failure_time = models.BigIntegerField(null=True, help_text="µs, never before the previous one")
    failure_count = models.BigIntegerField(null=True, help_text="Failures up to this one")

    class Meta:
        default_permissions = ("view",)
        indexes = [
            models.Index(
                fields=["failure_wallet_id", "failure_time", "id"],
                name="outcome_failures",
                condition=models.Q(failure_wallet_id__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.attempt_id}: {self.status}"


class Backfill(models.Model):
    """How far the rows of a data set were loaded as history, so that a load that was interrupted
    can go on."""

    fingerprint = models.CharField(max_length=64, help_text="Of the data set's content")
    dataset = models.CharField(max_length=63, help_text="The data set's name")
    first_row = models.BigIntegerField()
    end_row = models.BigIntegerField(help_text="The row after the last")
    next_row = models.BigIntegerField(help_text="Those before it are loaded")
    started_at = models.DateTimeField()
    updated_at = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(
                fields=["fingerprint", "first_row", "end_row"], name="backfill_rows"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.dataset}: {self.next_row - self.first_row} rows"


class Verdict(models.TextChoices):
    FRAUD = "fraud"
    LEGITIMATE = "legitimate"


class Label(ImmutableModel):
    """What someone stated about a transaction, which may not have been scored here (yet).

    Statements are never changed: a correction is another one, and the last received counts.
    """

    id = models.BigAutoField(primary_key=True)
    transaction_id = models.CharField(max_length=64)
    verdict = models.CharField(max_length=10, choices=Verdict.choices)
    known_at = models.DateTimeField(help_text="When it became known")
    received_at = models.DateTimeField(help_text="When Sentinelle was told")
    source = models.CharField(max_length=32, blank=True, help_text="chargeback, analyst, …")
    note = models.CharField(max_length=1_000, blank=True)
    stated_by = models.CharField(max_length=254, help_text="The name of the key, or the user")

    class Meta:
        ordering = ["-id"]
        default_permissions = ("add", "view")
        indexes = [models.Index(fields=["transaction_id", "id"], name="label_transaction")]

    def __str__(self) -> str:
        return f"{self.transaction_id}: {self.verdict}"


class Side(models.TextChoices):
    SOURCE = "source"
    DESTINATION = "destination"


class ConfirmedFraud(models.Model):
    """A transaction whose label is fraud, at its place in the timeline of one of its wallets."""

    id = models.BigAutoField(primary_key=True)
    side = models.CharField(max_length=11, choices=Side.choices)
    wallet_id = models.CharField(max_length=64)
    time = models.BigIntegerField(help_text="Place in that side's timeline of the wallet, µs")
    attempt = models.ForeignKey(Attempt, on_delete=models.PROTECT, related_name="+", db_index=False)
    total = models.BigIntegerField(help_text="The wallet's frauds on that side, up to this one")

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["attempt", "side"], name="fraud_attempt_side"),
        ]
        indexes = [
            models.Index(fields=["side", "wallet_id", "time", "attempt"], name="fraud_timeline"),
        ]

    def __str__(self) -> str:
        return f"{self.side} {self.wallet_id}: {self.total}"


class PredictionRecord(ImmutableModel):
    """One answer of a classifier: what was asked and what was told."""

    id = models.BigAutoField(primary_key=True)
    # As of a ScoreRecord: neither is ever deleted, and every answer names the same two rows.
    model = models.ForeignKey(
        RegisteredModel,
        on_delete=models.PROTECT,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    model_version = models.ForeignKey(
        ModelVersion,
        verbose_name="version",
        on_delete=models.PROTECT,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    request_id = models.CharField(
        max_length=64,
        null=True,
        blank=True,
        help_text="The caller's Idempotency-Key: a repeated request gets the same answer",
    )
    digest = models.BinaryField(
        null=True, help_text="SHA-256 of what was sent with the request id, to tell it again"
    )
    inputs = models.JSONField(help_text="As they were used, defaults included")
    prediction = models.CharField(max_length=200)
    confidence = models.FloatField(help_text="Probability of the prediction, 0 to 1")
    answer = models.TextField(help_text="JSON, as it was given")
    caller = models.CharField(max_length=254, blank=True)
    at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        verbose_name = "prediction"
        ordering = ["-id"]
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(fields=["request_id", "model"], name="prediction_request"),
        ]
        indexes = [
            models.Index(fields=["model", "-id"], name="prediction_model"),
            models.Index(fields=["model_version", "-id"], name="prediction_version"),
            models.Index(fields=["prediction", "-id"], name="prediction_class"),
        ]

    def __str__(self) -> str:
        return f"{self.prediction} ({100 * self.confidence:.0f} %)"
