"""Predictions in the admin: what a classifier was asked and what it answered."""

# ruff: noqa: ARG002 (the admin decides the signatures)

from typing import Any

import msgspec
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from deployments.admin.base import ReadOnlyAdmin, moment
from deployments.models import Kind, RegisteredModel
from engine import kinds
from scoring import selectors
from scoring.admin.base import CappedPaginator, VersionFilter
from scoring.models import PredictionRecord


class ModelFilter(admin.SimpleListFilter):
    """Predictions of a classifier."""

    title = "model"
    parameter_name = "model"

    def lookups(
        self,
        request: HttpRequest,
        model_admin: admin.ModelAdmin,  # type: ignore[type-arg]
    ) -> list[tuple[str, str]]:
        """Every classifier."""
        names = RegisteredModel.objects.filter(kind=Kind.CLASSIFIER).values_list("name", flat=True)
        return [(name, name) for name in names]

    def queryset(
        self,
        request: HttpRequest,
        queryset: QuerySet[PredictionRecord],
    ) -> QuerySet[PredictionRecord]:
        """The predictions of the chosen one."""
        name = self.value()
        return queryset.filter(model__name=name) if name else queryset


class PredictionFilter(admin.SimpleListFilter):
    """Predictions of a class, of the classifier that is chosen."""

    title = "prediction"
    parameter_name = "prediction"

    def lookups(
        self,
        request: HttpRequest,
        model_admin: admin.ModelAdmin,  # type: ignore[type-arg]
    ) -> list[tuple[str, str]]:
        """Its classes, as it was defined last; none while no classifier is chosen."""
        return [(label, label) for label in selectors.classes_of(request.GET.get("model", ""))]

    def queryset(
        self,
        request: HttpRequest,
        queryset: QuerySet[PredictionRecord],
    ) -> QuerySet[PredictionRecord]:
        """The predictions of the chosen one."""
        label = self.value()
        return queryset.filter(prediction=label) if label else queryset


class MadeFilter(admin.DateFieldListFilter):
    """The usual filter, under the name of the column."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = "time"


class ClassifierVersionFilter(VersionFilter):
    """With the versions of classifiers."""

    kind = kinds.CLASSIFIER


_FACTS = ("model", "model_version", "made", "prediction", "confidence_shown", "request", "caller")


@admin.register(PredictionRecord)
class PredictionRecordAdmin(ReadOnlyAdmin):
    """The predictions, the latest first."""

    list_display = (
        "made",
        "model",
        "prediction",
        "confidence_shown",
        "version",
        "request",
        "caller",
    )
    list_display_links = ("made",)
    list_filter = (
        ModelFilter,
        PredictionFilter,
        ("model_version", ClassifierVersionFilter),
        ("at", MadeFilter),
    )
    list_select_related = ("model", "model_version__model")
    paginator = CappedPaginator
    show_facets = admin.ShowFacets.NEVER  # each would count all rows
    search_fields = ("request_id",)
    search_help_text = "A request id: the caller's Idempotency-Key"
    fieldsets = (
        (None, {"fields": _FACTS}),
        ("Inputs, as they were used", {"fields": ("input_table",)}),
        ("Answer, as it was given", {"fields": ("answer_table",)}),
    )
    readonly_fields = (*_FACTS, "input_table", "answer_table")

    def get_search_results(
        self,
        request: HttpRequest,
        queryset: QuerySet[PredictionRecord],
        search_term: str,
    ) -> tuple[QuerySet[PredictionRecord], bool]:
        """Whole ids only: they are found by index, whatever the number of rows."""
        term = search_term.strip()
        return (queryset.filter(request_id=term) if term else queryset), False

    @admin.display(description="made", ordering="id")
    def made(self, record: PredictionRecord) -> str:
        return moment(record.at)

    @admin.display(description="confidence", ordering="confidence")
    def confidence_shown(self, record: PredictionRecord) -> str:
        return f"{100 * record.confidence:.1f} %"

    @admin.display(description="version", ordering="model_version")
    def version(self, record: PredictionRecord) -> str:
        address = reverse("admin:deployments_modelversion_change", args=[record.model_version_id])
        return format_html('<a href="{}">v{}</a>', address, record.model_version.version)

    @admin.display(description="request id")
    def request(self, record: PredictionRecord) -> str:
        return record.request_id or "–"

    @admin.display(description="Inputs")
    def input_table(self, record: PredictionRecord) -> SafeString:
        return _table(_context(record) or record.inputs)

    @admin.display(description="Fields")
    def answer_table(self, record: PredictionRecord) -> SafeString:
        told = {
            name: value for name, value in _answer(record).items() if not isinstance(value, dict)
        }
        return _table(told)


def _answer(record: PredictionRecord) -> dict[str, Any]:
    answer: dict[str, Any] = msgspec.json.decode(record.answer)
    return answer


def _context(record: PredictionRecord) -> dict[str, Any]:
    """The inputs in the order of their definition, as the answer repeats them."""
    parts = (value for value in _answer(record).values() if isinstance(value, dict))
    return next(parts, {})


def _table(values: dict[str, Any]) -> SafeString:
    rows = [{"name": name, "value": value} for name, value in values.items()]
    return render_to_string("admin/scoring/scorerecord/values.html", {"rows": rows})
