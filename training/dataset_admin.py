"""Data sets in the admin."""

from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join

from deployments.admin.base import ReadOnlyAdmin, moment
from engine.errors import InvalidDataset, SentinelleError
from training.datasets import dataset_delete
from training.models import Dataset
from training.pipeline.local_file import local_file
from training.report_traffic import labels_told

DOWNLOADS = {"data": "data.parquet", "rejects": "rejects.csv"}


@admin.register(Dataset)
class DatasetAdmin(ReadOnlyAdmin):
    list_display = [
        "name", "holds", "rows_count", "frauds_count", "fraud_rate", "period", "rejected_count",
        "runs_count", "made",
    ]  # fmt: skip
    list_filter = ["model", "preset", "created_at"]
    list_select_related = ["model"]
    search_fields = ["name", "fingerprint"]
    date_hierarchy = "created_at"
    fieldsets = [
        (None, {"fields": ["name", "train_link", "downloads", "created_at"]}),
        ("Content", {"fields": ["holds", "rows_count", "frauds_count", "fraud_rate", "period"]}),
        ("Rejected rows", {"fields": ["rejected_count", "reject_reasons"]}),
        ("Labels and attributes", {"fields": ["label_delay", "recorded_traffic", "attributes"]}),
        ("Origin", {"fields": ["preset", "mapping", "columns", "fingerprint", "location"]}),
    ]

    fieldsets_of_rows: ClassVar[list[Any]] = [
        fieldsets[0],
        ("Content", {"fields": ["holds", "rows_count", "classes"]}),
        fieldsets[2],
        ("Origin", {"fields": ["preset", "columns", "fingerprint", "location"]}),
    ]
    """Of a classifier's, which have neither times nor frauds."""

    class Media:
        css = {"all": ["deployments/admin.css", "training/training.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Dataset]:  # noqa: ARG002
        return Dataset.objects.defer("summary").annotate(used=Count("runs"))

    def has_delete_permission(self, request: HttpRequest, obj: Dataset | None = None) -> bool:
        return self.allowed(request, "delete") and (obj is None or not obj.runs.exists())

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """With a data set that runs used, say that, not that a permission lacks."""
        deleted, counts, lacking, used_by = super().get_deleted_objects(objs, request)
        return deleted, counts, set() if used_by else lacking, used_by

    def delete_model(self, request: HttpRequest, obj: Dataset) -> None:  # noqa: ARG002
        dataset_delete(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Dataset]) -> None:
        for dataset in queryset:
            try:
                dataset_delete(dataset)
            except InvalidDataset as error:  # used since the page was shown
                messages.error(request, error.detail)

    @admin.display(description="holds", ordering="model")
    def holds(self, dataset: Dataset) -> str:
        if dataset.model is None:
            return "transactions"
        address = reverse("admin:deployments_registeredmodel_change", args=[dataset.model.pk])
        return format_html('rows of <a href="{}">{}</a>', address, dataset.model.name)

    @admin.display(description="classes")
    def classes(self, dataset: Dataset) -> str:
        counts = dataset.summary.get("class_counts", {})
        told = (
            (label, f"{count:,}", f"{count / dataset.rows:.1%}") for label, count in counts.items()
        )
        return format_html_join("", "<div>{}: {} ({})</div>", told) or "-"

    @admin.display(description="rows", ordering="rows")
    def rows_count(self, dataset: Dataset) -> str:
        return f"{dataset.rows:,}"

    @admin.display(description="frauds", ordering="frauds")
    def frauds_count(self, dataset: Dataset) -> str:
        return f"{dataset.frauds:,}" if dataset.model_id is None else "-"

    @admin.display(description="fraud rate")
    def fraud_rate(self, dataset: Dataset) -> str:
        return f"{dataset.fraud_rate:.3%}" if dataset.model_id is None else "-"

    @admin.display(description="period", ordering="first_at")
    def period(self, dataset: Dataset) -> str:
        if dataset.first_at is None or dataset.last_at is None:
            return "-"
        return f"{dataset.first_at:%Y-%m-%d} to {dataset.last_at:%Y-%m-%d}"

    @admin.display(description="created", ordering="created_at")
    def made(self, dataset: Dataset) -> str:
        return moment(dataset.created_at)

    @admin.display(description="rejected", ordering="rejected")
    def rejected_count(self, dataset: Dataset) -> str:
        return f"{dataset.rejected:,}"

    @admin.display(description="runs", ordering="used")
    def runs_count(self, dataset: Any) -> str:
        if not dataset.used:
            return "0"
        address = reverse("admin:training_trainingrun_changelist")
        query = urlencode({"dataset__id__exact": dataset.pk})
        return format_html('<a href="{}?{}">{}</a>', address, query, dataset.used)

    @admin.display(description="reasons")
    def reject_reasons(self, dataset: Dataset) -> str:
        counts = dataset.summary.get("reject_counts", {})
        return ", ".join(f"{reason}: {count:,}" for reason, count in counts.items()) or "-"

    @admin.display(description="columns")
    def columns(self, dataset: Dataset) -> str:
        return ", ".join(dataset.summary.get("columns", [])) or "-"

    @admin.display(description="label delay")
    def label_delay(self, dataset: Dataset) -> str:
        delay = dataset.summary.get("label_delay")
        known = "label_known_at" in dataset.summary.get("columns", [])
        facts = ["each row says when its label was known"] if known else []
        facts += [f"{delay} after the transaction" if delay else "the data set does not say"]
        return ", else ".join(facts)

    @admin.display(description="recorded traffic")
    def recorded_traffic(self, dataset: Dataset) -> str:
        traffic = dataset.summary.get("traffic")
        if not traffic:
            return "-"
        moments = (traffic[name][:16] for name in ("since", "until", "as_of"))
        begin, end, known = (moment.replace("T", " ") for moment in moments)
        period = f"Decisions from {begin} to {end}, as known at {known} UTC"
        counts = (f"{count} {words}" for count, words in labels_told(traffic["counts"]))
        told = ((line,) for line in (period, *counts))
        return format_html_join("", "<div>{}</div>", told)

    @admin.display(description="attributes")
    def attributes(self, dataset: Dataset) -> str:
        kinds = dataset.summary.get("attributes", {})
        return ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "-"

    @admin.display(description="mapping")
    def mapping(self, dataset: Dataset) -> str:
        text = dataset.summary.get("mapping")
        if not text:
            return "-"
        start = dataset.summary.get("start")
        given = f"# The import was given another start: {start}\n" if start else ""
        return format_html('<pre class="code">{}{}</pre>', given, text)

    @admin.display(description="train")
    def train_link(self, dataset: Dataset) -> str:
        address = reverse("admin:training_trainingrun_add")
        model = {} if dataset.model is None else {"model": dataset.model.name}
        query = urlencode({"dataset": dataset.name, **model})
        return format_html('<a href="{}?{}">Train a version on it</a>', address, query)

    @admin.display(description="download")
    def downloads(self, dataset: Dataset) -> str:
        wanted = ["data", "rejects"] if dataset.rejected else ["data"]
        links = [(self.url("download", dataset.pk, which), DOWNLOADS[which]) for which in wanted]
        return format_html_join(", ", '<a href="{}" download>{}</a>', links)

    def get_fieldsets(
        self,
        request: HttpRequest,
        obj: Dataset | None = None,
    ) -> Any:
        """Without the links for who may not follow them."""
        of_rows = obj is not None and obj.model_id is not None
        fieldsets: Any = self.fieldsets_of_rows if of_rows else self.fieldsets
        if self.allowed(request, "download"):
            return fieldsets
        (title, options), *others = fieldsets
        fields = [name for name in options["fields"] if name != "downloads"]
        return [(title, {"fields": fields}), *others]

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.download_view)
        name = "training_dataset_download"
        return [
            path("<int:dataset_id>/download/<str:which>/", view, name=name),
            *super().get_urls(),
        ]

    def download_view(self, request: HttpRequest, dataset_id: int, which: str) -> HttpResponseBase:
        """One of its files. From a bucket it is fetched first, its checksum compared."""
        if not self.allowed(request, "download"):
            raise PermissionDenied
        if which not in DOWNLOADS:
            raise Http404
        dataset = get_object_or_404(Dataset, pk=dataset_id)
        location = f"{dataset.file.rpartition('/')[0]}/{DOWNLOADS[which]}"
        try:
            with local_file(location) as path:
                file = path.open("rb")  # which stays readable when a copy is deleted
        except SentinelleError as error:
            messages.error(request, f"{DOWNLOADS[which]} can't be downloaded now: {error.detail}")
            return redirect(self.url("change", dataset.pk))
        name = f"{dataset.name}{'' if which == 'data' else '-rejects'}"
        suffix = Path(DOWNLOADS[which]).suffix
        return FileResponse(file, as_attachment=True, filename=f"{name}{suffix}")
