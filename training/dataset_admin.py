"""Data sets in the admin."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.template.loader import render_to_string
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe

from deployments.admin.base import ReadOnlyAdmin, moment
from deployments.models import Kind
from engine.errors import InvalidDataset, SentinelleError
from training.datasets import dataset_delete
from training.models import Dataset
from training.pipeline.local_file import local_file
from training.report_traffic import labels_told

DOWNLOADS = {"data": "data.parquet", "rejects": "rejects.csv"}
FACTS: tuple[str, ...] = ("name", "holds", "train_link", "downloads", "created_at")
# The columns of the list, by what its data sets hold.
COLUMNS = {
    "transactions": ["rows_count", "frauds_count", "fraud_rate", "period"],
    "rows": ["holds", "rows_count"],
    "both": ["holds", "rows_count", "frauds_count", "period"],
}


class RowsOfFilter(admin.RelatedFieldListFilter):
    """What data sets hold: transactions, or rows of one of the classifiers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = "content"
        self.empty_value_display = mark_safe("transactions")

    def field_choices(
        self,
        field: Any,
        request: HttpRequest,  # noqa: ARG002
        model_admin: Any,  # noqa: ARG002
    ) -> list[Any]:
        """The classifiers."""
        classifiers = {"kind": Kind.CLASSIFIER}
        choices = field.get_choices(include_blank=False, limit_choices_to=classifiers)
        return [(key, f"rows of {name}") for key, name in choices]


@admin.register(Dataset)
class DatasetAdmin(ReadOnlyAdmin):
    list_filter = [("model", RowsOfFilter), "preset", "created_at"]
    search_fields = ["name", "fingerprint"]
    date_hierarchy = "created_at"
    fieldsets = [
        (None, {"fields": FACTS}),
        ("Content", {"fields": ["rows_count", "frauds_count", "fraud_rate", "period"]}),
        ("Rejected rows", {"fields": ["rejected_count", "reject_reasons"]}),
        ("Labels and attributes", {"fields": ["label_delay", "recorded_traffic", "attributes"]}),
        ("Origin", {"fields": ["preset", "mapping", "columns", "fingerprint", "location"]}),
    ]
    classifier_fieldsets = [
        (None, {"fields": FACTS}),
        ("Content", {"fields": ["rows_count", "classes"]}),
        ("Rejected rows", {"fields": ["rejected_count", "reject_reasons", "unknown_classes"]}),
        (
            "Origin",
            {"fields": ["preset", "files", "columns", "ignored", "fingerprint", "location"]},
        ),
    ]

    class Media:
        css = {"all": ["deployments/admin.css", "training/training.css", "training/report.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Dataset]:  # noqa: ARG002
        joined = Dataset.objects.select_related("model").annotate(used=Count("runs"))
        return joined.defer("summary", "model__definition")

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """The columns that the data sets of the list have."""
        return ["name", *COLUMNS[_held(request)], "rejected_count", "runs_count", "made"]

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

    @admin.display(description="holds", ordering="model__name")
    def holds(self, dataset: Dataset) -> str:
        if dataset.model is None:
            return "transactions"
        address = reverse("admin:deployments_registeredmodel_change", args=[dataset.model_id])
        return format_html('rows of <a href="{}">{}</a>', address, dataset.model.name)

    @admin.display(description="classes")
    def classes(self, dataset: Dataset) -> str:
        counts = dataset.summary.get("class_counts", {})
        most = max(counts.values(), default=0) or 1
        rows = [
            (
                label,
                f"{count:,}",
                f"{100 * count / (dataset.rows or 1):.1f} %",
                round(100 * count / most, 2),
            )
            for label, count in counts.items()
        ]
        return render_to_string("admin/training/dataset/classes.html", {"rows": rows})

    @admin.display(description="unknown classes")
    def unknown_classes(self, dataset: Dataset) -> str:
        return _counted(dataset.summary.get("unknown_classes", {}))

    @admin.display(description="files")
    def files(self, dataset: Dataset) -> str:
        return ", ".join(dataset.summary.get("files", [])) or "-"

    @admin.display(description="columns left out")
    def ignored(self, dataset: Dataset) -> str:
        return ", ".join(dataset.summary.get("ignored_columns", [])) or "-"

    @admin.display(description="rows", ordering="rows")
    def rows_count(self, dataset: Dataset) -> str:
        return f"{dataset.rows:,}"

    @admin.display(description="frauds", ordering="frauds")
    def frauds_count(self, dataset: Dataset) -> str:
        return "–" if dataset.model else f"{dataset.frauds:,}"

    @admin.display(description="fraud rate")
    def fraud_rate(self, dataset: Dataset) -> str:
        return f"{dataset.fraud_rate:.3%}"

    @admin.display(description="period", ordering="first_at")
    def period(self, dataset: Dataset) -> str:
        if dataset.first_at is None or dataset.last_at is None:
            return "–"
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
        return _counted(dataset.summary.get("reject_counts", {}))

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
        model = {"model": dataset.model.name} if dataset.model else {}
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
        """Of what it holds; without the links for who may not follow them."""
        fieldsets = self.classifier_fieldsets if obj and obj.model else self.fieldsets
        if self.allowed(request, "download"):
            return fieldsets
        without = [name for name in FACTS if name != "downloads"]
        return [(None, {"fields": without}), *fieldsets[1:]]

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


def _held(request: HttpRequest) -> str:
    """What the data sets of a list hold, as COLUMNS names it."""
    if request.GET.get("model__id__exact"):
        return "rows"
    if request.GET.get("model__isnull") or not Dataset.objects.exclude(model=None).exists():
        return "transactions"
    return "both"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{what}: {count:,}" for what, count in counts.items()) or "-"
