"""Labels in the admin: what was stated about transactions, by whom, and whether it still counts."""

# ruff: noqa: ARG002 (the admin decides the signatures)

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import linebreaksbr
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html

from deployments.admin.base import ReadOnlyAdmin, badge, moment
from scoring import selectors
from scoring.admin.base import CappedPaginator, verdict_badge
from scoring.models import Label

Labels = QuerySet[Label]


class VerdictFilter(admin.ChoicesFieldListFilter):
    """The usual filter, under the name that callers use."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = "label"


class CountsFilter(admin.SimpleListFilter):
    """Labels that count, and those that a later one replaced."""

    title = "state"
    parameter_name = "state"

    def lookups(
        self,
        request: HttpRequest,
        model_admin: admin.ModelAdmin,  # type: ignore[type-arg]
    ) -> list[tuple[str, str]]:
        """The two."""
        return [("counts", "Counts"), ("replaced", "Replaced by a later one")]

    def queryset(self, request: HttpRequest, queryset: Labels) -> Labels:
        """The labels in the chosen state."""
        state = self.value()
        return selectors.labels_that_count(queryset, state == "counts") if state else queryset


class KnownFilter(admin.SimpleListFilter):
    """Labels of transactions that are known here, and of those that are not."""

    title = "transaction"
    parameter_name = "transaction"

    def lookups(
        self,
        request: HttpRequest,
        model_admin: admin.ModelAdmin,  # type: ignore[type-arg]
    ) -> list[tuple[str, str]]:
        """The two."""
        return [("known", "Known here"), ("unknown", "Unknown")]

    def queryset(self, request: HttpRequest, queryset: Labels) -> Labels:
        """The labels of the chosen transactions."""
        chosen = self.value()
        return selectors.labels_of_known(queryset, chosen == "known") if chosen else queryset


class SourceFilter(admin.SimpleListFilter):
    """Labels by who or what says so."""

    title = "source"
    parameter_name = "source"

    def lookups(
        self,
        request: HttpRequest,
        model_admin: admin.ModelAdmin,  # type: ignore[type-arg]
    ) -> list[tuple[str, str]]:
        """The sources of the latest labels."""
        return [(source, source) for source in selectors.recent_sources()]

    def queryset(self, request: HttpRequest, queryset: Labels) -> Labels:
        """The labels of the chosen source."""
        source = self.value()
        return queryset.filter(source=source) if source else queryset


@admin.register(Label)
class LabelAdmin(ReadOnlyAdmin):
    """Labels, the last received first. They are made on the page of a decision, or sent."""

    list_display = ("received", "transaction", "label", "source", "known", "stated_by")
    list_filter = (
        ("verdict", VerdictFilter),
        CountsFilter,
        KnownFilter,
        SourceFilter,
        "received_at",
    )
    paginator = CappedPaginator
    show_facets = admin.ShowFacets.NEVER  # each would count all rows
    search_fields = ("transaction_id",)
    search_help_text = "A transaction id"
    fields = readonly_fields = (
        "transaction",
        "label",
        "source",
        "note_text",
        "known",
        "received",
        "stated_by",
        "history",
    )

    def get_queryset(self, request: HttpRequest) -> Labels:
        return selectors.labels_with_their_transactions(super().get_queryset(request))

    def get_search_results(
        self, request: HttpRequest, queryset: Labels, search_term: str
    ) -> tuple[Labels, bool]:
        """Whole ids only: they are found by index, whatever the number of rows."""
        term = search_term.strip()
        return (queryset.filter(transaction_id=term) if term else queryset), False

    @admin.display(description="transaction", ordering="transaction_id")
    def transaction(self, label: Any) -> str:
        if label.record_id is not None:
            address = reverse("admin:scoring_scorerecord_change", args=[label.record_id])
            return format_html('<a href="{}">{}</a>', address, label.transaction_id)
        if label.is_known:
            mark = badge("not decided here", "", "It was loaded as history")
        else:
            mark = badge("unknown", "warn", "Never seen here; the label is kept until it is")
        return format_html("{} {}", label.transaction_id, mark)

    @admin.display(description="label", ordering="verdict")
    def label(self, row: Any) -> str:
        if row.latest_id == row.pk:
            return verdict_badge(row.verdict)
        return badge(f"{row.verdict}, replaced", "", "A later label of the transaction counts")

    @admin.display(description="known since", ordering="known_at")
    def known(self, label: Label) -> str:
        return moment(label.known_at)

    @admin.display(description="received", ordering="received_at")
    def received(self, label: Label) -> str:
        return moment(label.received_at)

    @admin.display(description="note")
    def note_text(self, label: Label) -> str:
        return linebreaksbr(label.note) or "–"

    @admin.display(description="all labels of it")
    def history(self, label: Label) -> str:
        labels = selectors.labels_of(label.transaction_id)
        return render_to_string("admin/scoring/label/history.html", {"labels": labels})
