"""Uploads of data sets in the admin. Everything that changes goes through training.uploads."""

# ruff: noqa: ARG002 (the admin decides the signatures)

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.defaultfilters import filesizeformat
from django.urls import path
from django.utils import timezone
from django.utils.html import format_html

from deployments.admin.base import ReadOnlyAdmin, badge, moment
from engine.errors import InvalidDataset, StoreUnavailable
from training.models import Dataset, DatasetUpload, UploadState
from training.upload_form import UploadForm
from training.uploads import WAITING, upload_create, upload_delete, upload_retry

KINDS = {
    UploadState.QUEUED: "quiet",
    UploadState.RUNNING: "active",
    UploadState.SUCCEEDED: "good",
    UploadState.FAILED: "bad",
}


@admin.register(DatasetUpload)
class DatasetUploadAdmin(ReadOnlyAdmin):
    """Files that become data sets, the last one first."""

    list_display = ("name", "state_and_step", "file_name", "file_size", "requested")
    list_filter = ("state", "created_at")
    search_fields = ("name", "file_name", "requested_by")

    class Media:
        css = {"all": ["deployments/admin.css", "training/training.css"]}
        js = ["training/refresh.js"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.allowed(request, "add")

    def has_delete_permission(self, request: HttpRequest, obj: DatasetUpload | None = None) -> bool:
        return self.allowed(request, "delete") and (obj is None or not obj.is_active)

    def get_urls(self) -> list[Any]:
        retry = self.admin_site.admin_view(self.retry_view)
        name = "training_datasetupload_retry"
        return [path("<int:upload_id>/retry/", retry, name=name), *super().get_urls()]

    # --- pages ---

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        active = DatasetUpload.objects.filter(state__in=WAITING).exists()
        return super().changelist_view(request, {"active": active} | (extra_context or {}))

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = UploadForm(request.POST or None, request.FILES or None)
        if request.method == "POST" and form.is_valid():
            who = request.user.get_username()
            try:
                upload = upload_create(**form.arguments(), requested_by=who)
            except InvalidDataset as refusal:
                form.show(refusal)
            except StoreUnavailable as error:
                form.add_error(None, error.detail)
            else:
                return redirect(self.url("change", upload.pk))
        return self.page(request, "form", "Upload a data set", form=form, media=self.media)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        upload: DatasetUpload | None = self.get_object(request, object_id)
        if upload is None:
            return self.missing(request)
        dataset = upload.dataset
        counts = dataset.summary.get("reject_counts", {}) if dataset else {}
        return self.page(
            request,
            "upload",
            f"Upload of “{upload.name}”",
            upload=upload,
            badge=_badge(upload),
            rows=_rows(dataset) if dataset else "",
            rejects=[(fault, f"{count:,}") for fault, count in counts.items()],
            facts=_facts(upload),
            media=self.media,
            can_retry=upload.state == UploadState.FAILED
            and bool(upload.file)
            and self.has_add_permission(request),
            can_delete=self.has_delete_permission(request, upload),
        )

    def retry_view(self, request: HttpRequest, upload_id: int) -> HttpResponse:
        """The buttons of a failed upload's page."""
        if request.method != "POST" or not self.has_add_permission(request):
            raise PermissionDenied
        upload = get_object_or_404(DatasetUpload, pk=upload_id)
        wanted = "skip" if request.POST.get("on_bad_rows") == "skip" else upload.on_bad_rows
        try:
            upload_retry(upload, on_bad_rows=wanted, now=timezone.now())
        except InvalidDataset as refusal:
            messages.error(request, refusal.detail)
        return redirect(self.url("change", upload.pk))

    def delete_model(self, request: HttpRequest, obj: DatasetUpload) -> None:
        upload_delete(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[DatasetUpload]) -> None:
        for upload in queryset:
            try:
                upload_delete(upload)
            except InvalidDataset as error:
                messages.error(request, f"{upload.name}: {error.detail}")

    # --- columns ---

    @admin.display(description="state", ordering="state")
    def state_and_step(self, upload: DatasetUpload) -> str:
        if upload.state != UploadState.RUNNING:
            return _badge(upload)
        return format_html(
            '{} {}<br><progress value="{}" max="1">{}</progress>',
            _badge(upload), upload.step, upload.fraction, upload.step,
        )  # fmt: skip

    @admin.display(description="size", ordering="size")
    def file_size(self, upload: DatasetUpload) -> str:
        return filesizeformat(upload.size)

    @admin.display(description="requested", ordering="created_at")
    def requested(self, upload: DatasetUpload) -> str:
        return f"{moment(upload.created_at)} by {upload.requested_by}"


def _rows(dataset: Dataset) -> str:
    if dataset.model is not None:
        return f"{dataset.rows:,} rows of {dataset.model.name}"
    return f"{dataset.rows:,} transactions, {dataset.frauds:,} of them fraud"


def _badge(upload: DatasetUpload) -> str:
    return badge(upload.get_state_display(), KINDS[UploadState(upload.state)])


def _columns(upload: DatasetUpload) -> str:
    if upload.model is not None:
        return f"those of {upload.model.name}"
    return "a mapping file" if upload.mapping else upload.preset


def _facts(upload: DatasetUpload) -> list[tuple[str, str]]:
    bad_rows = "are left out" if upload.on_bad_rows == "skip" else "stop the import"
    facts = [
        ("File", f"{upload.file_name}, {filesizeformat(upload.size)}"),
        ("Columns", _columns(upload)),
        ("First hour", f"{upload.start:%Y-%m-%d} UTC" if upload.start else ""),
        ("Bad rows", bad_rows),
        ("Requested", f"{moment(upload.created_at)} by {upload.requested_by}"),
        ("Started", moment(upload.started_at) if upload.started_at else ""),
        ("Ended", moment(upload.finished_at) if upload.finished_at else ""),
        ("Mapping", format_html('<pre class="code">{}</pre>', upload.mapping)
         if upload.mapping else ""),
    ]  # fmt: skip
    return [(name, value) for name, value in facts if value]
