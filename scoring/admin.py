"""Decisions in the admin: what was decided, why, and from what. Read only."""

# ruff: noqa: ARG002 (the admin decides the signatures)

from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.functional import cached_property
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from deployments.admin.base import ReadOnlyAdmin, badge
from scoring import selectors
from scoring.models import Outcome, ScoreRecord

_COUNTED = 10_000


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no further than 10,000 rows: counting millions takes longer than reading a page."""

    @cached_property
    def count(self) -> int:
        """The number of rows, at most 10,000 of them."""
        rows: Any = self.object_list
        return int(rows.order_by()[:_COUNTED].count())


class ReasonFilter(admin.SimpleListFilter):
    """Decisions that gave a reason."""

    title = "reason"
    parameter_name = "reason"

    def lookups(
        self,
        request: HttpRequest,
        model_admin: admin.ModelAdmin,  # type: ignore[type-arg]
    ) -> list[tuple[str, str]]:
        """Every reason there is."""
        return [(reason, reason) for reason in selectors.known_reasons()]

    def queryset(
        self,
        request: HttpRequest,
        queryset: QuerySet[ScoreRecord],
    ) -> QuerySet[ScoreRecord]:
        """The decisions that gave the chosen one."""
        reason = self.value()
        return selectors.records_with_reason(queryset, reason) if reason else queryset


class VersionFilter(admin.RelatedFieldListFilter):
    """The usual filter, under a name that says what it is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = "version"


_KINDS = {"APPROVE": "good", "REVIEW": "warning", "BLOCK": "bad"}


_FACTS = (
    "transaction_id",
    "decision_badge",
    "risk_score",
    "reason_list",
    "rules_list",
    "rule_score",
    "supervised_score",
    "unsupervised_score",
    "model_version",
    "rule_set",
    "scored_at",
    "outcome",
)


@admin.register(ScoreRecord)
class ScoreRecordAdmin(ReadOnlyAdmin):
    """The decisions, the latest first."""

    list_display = (
        "transaction_id",
        "decision_badge",
        "risk_score",
        "reason_list",
        "amount",
        "wallets",
        "version",
        "scored_at",
    )
    list_filter = (
        "decision",
        ReasonFilter,
        ("model_version", VersionFilter),
        "scored_at",
    )
    list_select_related = ("attempt", "model_version")
    paginator = CappedPaginator
    show_facets = admin.ShowFacets.NEVER  # each would count all rows
    search_fields = ("attempt__transaction_id",)
    search_help_text = "A transaction id, or a wallet id for its latest 1,000 transactions"
    fieldsets = (
        (None, {"fields": _FACTS}),
        ("Transaction", {"fields": ("transaction_table",)}),
        ("Context, as sent", {"fields": ("context_table",)}),
        ("Features", {"fields": ("feature_table",)}),
    )
    readonly_fields = (*_FACTS, "transaction_table", "context_table", "feature_table")

    def get_search_results(
        self,
        request: HttpRequest,
        queryset: QuerySet[ScoreRecord],
        search_term: str,
    ) -> tuple[QuerySet[ScoreRecord], bool]:
        """Whole ids only: they are found by index, whatever the number of rows."""
        term = search_term.strip()
        return (selectors.records_found(queryset, term) if term else queryset), False

    @admin.display(description="transaction")
    def transaction_id(self, record: ScoreRecord) -> str:
        return record.attempt.transaction_id

    @admin.display(description="wallets")
    def wallets(self, record: ScoreRecord) -> str:
        return f"{record.attempt.source_wallet_id} → {record.attempt.destination_wallet_id}"

    @admin.display(description="amount")
    def amount(self, record: ScoreRecord) -> str:
        return f"{record.transaction['amount']:,} {record.transaction['currency']}"

    @admin.display(description="decision", ordering="decision")
    def decision_badge(self, record: ScoreRecord) -> str:
        return badge(record.decision, _KINDS[record.decision])

    @admin.display(description="reasons")
    def reason_list(self, record: ScoreRecord) -> str:
        return _lines(record.reasons)

    @admin.display(description="rules fired")
    def rules_list(self, record: ScoreRecord) -> str:
        return ", ".join(record.rules_fired) or "none"

    @admin.display(description="version", ordering="model_version")
    def version(self, record: ScoreRecord) -> str:
        return f"v{record.model_version.version}"

    @admin.display(description="outcome")
    def outcome(self, record: ScoreRecord) -> str:
        outcome = Outcome.objects.filter(attempt=record.attempt_id).first()
        return (
            f"{outcome.status}, received {outcome.received_at:%Y-%m-%d %H:%M}" if outcome else "–"
        )

    @admin.display(description="Fields")
    def transaction_table(self, record: ScoreRecord) -> SafeString:
        sent = {name: value for name, value in record.transaction.items() if name != "features"}
        return _table(record, sent)

    @admin.display(description="Fields")
    def context_table(self, record: ScoreRecord) -> SafeString:
        parts = ((part, values) for part, values in record.context.items() if values)
        facts = {f"{part}.{name}": v for part, values in parts for name, v in values.items()}
        return _table(record, facts)

    @admin.display(description="Values")
    def feature_table(self, record: ScoreRecord) -> SafeString:
        return _table(record, record.features, origin=True)


def _lines(items: list[str]) -> str:
    return format_html_join("\n", "<div>{}</div>", ((item,) for item in items)) or "–"


def _table(record: ScoreRecord, values: dict[str, Any], *, origin: bool = False) -> SafeString:
    """Names and values; with `origin`, also whether each was computed or sent."""
    rows = [
        {
            "name": name,
            "value": ", ".join(value) if isinstance(value, list) else value,
            "sent": name in record.features_sent,
        }
        for name, value in sorted(values.items())
        if origin or value is not None
    ]
    context = {"rows": rows, "origin": origin}
    return render_to_string("admin/scoring/scorerecord/values.html", context)
