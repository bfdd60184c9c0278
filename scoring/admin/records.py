"""Decisions in the admin: what was decided, why, and from what; they can be labelled."""

# ruff: noqa: ARG002 (the admin decides the signatures)

from typing import Any

import msgspec
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import path
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst

from deployments.admin.base import ReadOnlyAdmin, badge, moment
from engine.errors import InvalidRequest
from scoring import selectors
from scoring.admin.base import CappedPaginator, VersionFilter, verdict_badge
from scoring.labels import Receipt, decode_labels, labels_record
from scoring.models import Outcome, ScoreRecord, Verdict


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


class LabelFilter(admin.SimpleListFilter):
    """Decisions by what is known of their transactions by now."""

    title = "label"
    parameter_name = "label"

    def lookups(
        self,
        request: HttpRequest,
        model_admin: admin.ModelAdmin,  # type: ignore[type-arg]
    ) -> list[tuple[str, str]]:
        """The verdicts, and none yet."""
        return [*Verdict.choices, (selectors.NO_LABEL, "None yet")]

    def queryset(
        self,
        request: HttpRequest,
        queryset: QuerySet[ScoreRecord],
    ) -> QuerySet[ScoreRecord]:
        """The decisions whose last label is the chosen one."""
        label = self.value()
        return selectors.records_with_label(queryset, label) if label else queryset


class ControlFilter(admin.SimpleListFilter):
    """The control group: what the models would have blocked."""

    title = "control group"
    parameter_name = "control"

    def lookups(
        self,
        request: HttpRequest,
        model_admin: admin.ModelAdmin,  # type: ignore[type-arg]
    ) -> list[tuple[str, str]]:
        """Only those, because nearly all others are not."""
        return [("yes", "Let through")]

    def queryset(
        self,
        request: HttpRequest,
        queryset: QuerySet[ScoreRecord],
    ) -> QuerySet[ScoreRecord]:
        """The decisions that let a block through."""
        return queryset.filter(control_share__isnull=False) if self.value() else queryset


class LabelForm(forms.Form):
    """What is stated about the transaction of a decision."""

    label = forms.ChoiceField(choices=Verdict.choices, widget=forms.RadioSelect)
    known_at = forms.SplitDateTimeField(
        label="Known since",
        widget=AdminSplitDateTime,
        help_text="When it became known: not before the transaction, nor in the future.",
    )
    source = forms.CharField(
        max_length=32,
        required=False,
        initial="analyst",
        widget=forms.TextInput(attrs={"list": "sources", "autocomplete": "off"}),
        help_text="Who or what says so, such as analyst or chargeback.",
    )
    note = forms.CharField(
        max_length=1_000, required=False, widget=forms.Textarea(attrs={"rows": 4, "cols": 70})
    )

    def body(self, transaction_id: str) -> bytes:
        """The valid form as a caller would send it to `/labels`."""
        values = self.cleaned_data
        return msgspec.json.encode(
            {
                "transaction_id": transaction_id,
                "label": values["label"],
                "known_at": values["known_at"],
                "source": values["source"] or None,
                "note": values["note"].replace("\r\n", "\n"),
            }
        )


_KINDS = {"APPROVE": "good", "REVIEW": "warn", "BLOCK": "bad"}


_FACTS = (
    "transaction_id",
    "decision_badge",
    "control_group",
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
    "label_history",
)


@admin.register(ScoreRecord)
class ScoreRecordAdmin(ReadOnlyAdmin):
    """The decisions, the latest first."""

    list_display = (
        "transaction_id",
        "scored",
        "decision_badge",
        "risk",
        "label",
        "reason_list",
        "amount",
        "wallets",
        "version",
    )
    list_filter = (
        "decision",
        LabelFilter,
        ReasonFilter,
        ControlFilter,
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
    readonly_fields = (*_FACTS, "label", "transaction_table", "context_table", "feature_table")

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.label_view)
        url = path("<path:object_id>/label/", view, name="scoring_scorerecord_label")
        return [url, *super().get_urls()]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Of labels, those who may not view them see no more than the verdict that counts."""
        fieldsets = super().get_fieldsets(request, obj)
        if _may_view_labels(request):
            return fieldsets
        (title, _), *others = fieldsets
        return [(title, {"fields": (*_FACTS[:-1], "label")}), *others]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ScoreRecord]:
        return selectors.records_with_their_labels(super().get_queryset(request))

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

    @admin.display(description="risk", ordering="risk_score")
    def risk(self, record: ScoreRecord) -> str:
        return f"{record.risk_score:.3f}"

    @admin.display(description="scored", ordering="scored_at")
    def scored(self, record: ScoreRecord) -> str:
        return moment(record.scored_at)

    @admin.display(description="decision", ordering="decision")
    def decision_badge(self, record: ScoreRecord) -> str:
        return badge(record.decision, _KINDS[record.decision])

    @admin.display(description="control group")
    def control_group(self, record: ScoreRecord) -> str:
        if record.control_share is None:
            return "no"
        return f"let through: {record.control_share:.2%} of the models' blocks were"

    @admin.display(description="reasons")
    def reason_list(self, record: ScoreRecord) -> str:
        return _lines(record.reasons)

    @admin.display(description="rules fired")
    def rules_list(self, record: ScoreRecord) -> str:
        return ", ".join(record.rules_fired) or "none"

    @admin.display(description="label")
    def label(self, record: Any) -> str:
        return verdict_badge(record.verdict) if record.verdict else "–"

    @admin.display(description="labels")
    def label_history(self, record: ScoreRecord) -> str:
        labels = selectors.labels_of(record.attempt.transaction_id)
        return render_to_string("admin/scoring/label/history.html", {"labels": labels})

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

    def label_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """State whether the transaction was fraud."""
        may_see = self.has_view_permission(request)
        if not may_see or not request.user.has_perm("scoring.add_label"):
            raise PermissionDenied
        record = self.get_object(request, unquote(object_id))
        if record is None:
            return self.missing(request)
        transaction_id = record.attempt.transaction_id
        may_view_labels = _may_view_labels(request)
        form = LabelForm(request.POST or None, initial={"known_at": timezone.now()})
        if form.is_valid():
            receipt = _label(request, record, form)
            if receipt is not None:
                _say(request, record, receipt)
                return redirect(self.url("change", record.pk))
        return self.page(
            request,
            "label",
            f"Label {transaction_id}",
            form=form,
            media=self.media + form.media,
            record=record,
            amount=self.amount(record),
            wallets=self.wallets(record),
            decision=self.decision_badge(record),
            sources=selectors.recent_sources() if may_view_labels else [],
            labels=selectors.labels_of(transaction_id) if may_view_labels else [],
        )


def _may_view_labels(request: HttpRequest) -> bool:
    return request.user.has_perm("scoring.view_label")


def _label(request: HttpRequest, record: ScoreRecord, form: LabelForm) -> Receipt | None:
    """Record what the valid form states; None after the form was told what is wrong with it."""
    try:
        report = decode_labels(form.body(record.attempt.transaction_id))
        user = request.user.get_username()
        return labels_record(report, stated_by=user, now=timezone.now())
    except InvalidRequest as refusal:
        for fault in refusal.errors:
            form.add_error(fault.field, capfirst(fault.message))
        return None


def _say(request: HttpRequest, record: ScoreRecord, receipt: Receipt) -> None:
    if receipt.recorded:
        messages.success(request, f"The label of “{record.attempt.transaction_id}” is kept.")
    else:
        messages.info(request, "The same label had been received before: nothing changed.")


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
