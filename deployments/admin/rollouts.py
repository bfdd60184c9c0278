"""The engine on Cloud Run in the admin: its services, and what was deployed to them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html

from deployments.admin.base import ReadOnlyAdmin, badge, moment
from deployments.admin.rollout_form import DeployForm
from deployments.models import UNFINISHED, CloudService, Deployment, DeploymentState
from deployments.rollouts import live
from deployments.rollouts.charts import HOURS, charts
from deployments.rollouts.costs import deployment_cost
from deployments.rollouts.services import (
    deployment_canary,
    deployment_previous,
    deployment_serving,
    deployment_unfinished,
    rollout_cancel,
    rollout_start,
)
from deployments.rollouts.wishes import read_wishes
from engine.errors import SentinelleError

State = DeploymentState
KINDS = {
    State.QUEUED: "quiet",
    State.SERVING: "good",
    State.CANARY: "warn",
    State.FAILED: "bad",
    State.SUPERSEDED: "quiet",
    State.ROLLED_BACK: "quiet",
}
SHOWN = 20


def state_badge(row: Deployment) -> str:
    """The state as a label."""
    if row.is_unfinished and row.error:
        return badge("Undoing", "warn", row.error)
    return badge(row.get_state_display(), KINDS.get(State(row.state), "active"), row.error)


class RolloutPages(ReadOnlyAdmin):
    """What the pages of services and of deployments have in common."""

    class Media:
        css = {"all": ["deployments/admin.css", "training/training.css", "training/report.css"]}
        js = ["training/refresh.js"]

    def change(
        self,
        request: HttpRequest,
        row: Any,
        permission: str,
        do: Callable[[str, str], str],
    ) -> HttpResponse:
        """Do what a button says, for who may, and say how it went; back to the row's page."""
        if request.method != "POST" or not request.user.has_perm(f"deployments.{permission}"):
            raise PermissionDenied
        try:
            done = do(request.user.get_username(), request.POST.get("reason", "").strip()[:300])
        except SentinelleError as error:
            messages.error(request, error.detail)
        else:
            messages.success(request, done)
        return redirect(self.url("change", row.pk))


@admin.register(CloudService)
class CloudServiceAdmin(RolloutPages):
    list_display = ["service_name", "serves", "state", "place", "address", "deployed"]
    list_filter = ["project", "region", "deleted_at"]
    search_fields = ["name", "project", "url"]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False  # its own button asks Google first

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        views = {
            "promote": self.promote_view,
            "rollback": self.rollback_view,
            "remove": self.remove_view,
            "metrics": self.metrics_view,
        }
        return [
            *(
                path(f"<int:pk>/{verb}/", wrap(view), name=f"deployments_cloudservice_{verb}")
                for verb, view in views.items()
            ),
            *super().get_urls(),
        ]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        service: CloudService | None = self.get_object(request, object_id)
        if service is None:
            return self.missing(request)
        canary, serving = deployment_canary(service), deployment_serving(service)
        unfinished, previous = deployment_unfinished(service), deployment_previous(service)
        rows = service.deployments.select_related("version", "service")[:SHOWN]
        may = {verb: request.user.has_perm(f"deployments.{verb}_deployment") for verb in
               ("add", "promote", "rollback")}  # fmt: skip
        is_there = service.deleted_at is None
        return self.page(
            request, "service", service.name, media=self.media, service=service,
            facts=_service_facts(service), canary=canary, serving=serving, unfinished=unfinished,
            previous=previous, rows=[(row, state_badge(row), deployment_cost(row)) for row in rows],
            hours=HOURS, is_there=is_there,
            can_deploy=is_there and may["add"] and not unfinished and not canary,
            can_promote=is_there and canary and may["promote"],
            can_roll_back=is_there and previous and not unfinished and may["rollback"],
            can_remove=is_there and not unfinished
            and request.user.has_perm("deployments.delete_cloudservice"),
        )  # fmt: skip

    def promote_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The button “Promote”."""
        service, seen = get_object_or_404(CloudService, pk=pk), request.POST.get("seen", "")

        def do(by: str, reason: str) -> str:
            row = live.canary_promote(service, by=by, reason=reason, seen=seen)
            return f"v{row.version.version} has all of the traffic."

        return self.change(request, service, "promote_deployment", do)

    def rollback_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The button “Roll back”."""
        service, seen = get_object_or_404(CloudService, pk=pk), request.POST.get("seen", "")

        def do(by: str, reason: str) -> str:
            row = live.service_roll_back(service, by=by, reason=reason, seen=seen)
            return f"v{row.version.version} ({row.tag}) has all of the traffic again."

        return self.change(request, service, "rollback_deployment", do)

    def remove_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The button “Delete”, with the service's name typed."""
        service = get_object_or_404(CloudService, pk=pk)

        def do(by: str, reason: str) -> str:
            if reason != service.name:
                raise SentinelleError(f"Type {service.name} to delete it; nothing was done.")
            live.service_remove(service, by=by)
            return f"The service {service.name} is deleted."

        return self.change(request, service, "delete_cloudservice", do)

    def metrics_view(self, request: HttpRequest, pk: int) -> JsonResponse:
        """What Cloud Monitoring has of the service, for its page; or one line why not."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        service = get_object_or_404(CloudService, pk=pk)
        hours = request.GET.get("hours", "1")
        wanted = int(hours) if hours in {str(each) for each, _ in HOURS} else 1
        try:
            return JsonResponse(charts(service, within=timedelta(hours=wanted)))
        except SentinelleError as error:
            return JsonResponse({"error": error.detail}, status=503)

    @admin.display(description="service", ordering="name")
    def service_name(self, service: CloudService) -> str:
        gone = badge("deleted", "quiet") if service.deleted_at else ""
        return format_html("<strong>{}</strong> {}", service.name, gone)

    @admin.display(description="serves")
    def serves(self, service: CloudService) -> str:
        rows = filter(None, (deployment_serving(service), deployment_canary(service)))
        return ", ".join(f"v{row.version.version} {row.percent} %" for row in rows) or "-"

    @admin.display(description="rollout")
    def state(self, service: CloudService) -> str:
        row = service.deployments.first()
        return state_badge(row) if row else "-"

    @admin.display(description="where", ordering="project")
    def place(self, service: CloudService) -> str:
        return f"{service.project}, {service.region}"

    @admin.display(description="URL")
    def address(self, service: CloudService) -> str:
        if not service.url:
            return "-"
        return format_html('<a href="{}">{}</a>', service.url, service.url)

    @admin.display(description="last deployed")
    def deployed(self, service: CloudService) -> str:
        row = service.deployments.first()
        return f"{moment(row.created_at)} {row.requested_by}".strip() if row else "-"


@admin.register(Deployment)
class DeploymentAdmin(RolloutPages):
    list_display = ["version_name", "on", "state_label", "share", "tag", "who", "when", "cost"]
    list_filter = ["state", "service", "created_at"]
    search_fields = ["version__version", "service__name", "tag", "requested_by", "error"]
    date_hierarchy = "created_at"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Deployment]:  # noqa: ARG002
        return Deployment.objects.select_related("service", "version__model")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.allowed(request, "add")

    def get_urls(self) -> list[Any]:
        cancel = path(
            "<uuid:pk>/cancel/",
            self.admin_site.admin_view(self.cancel_view),
            name="deployments_deployment_cancel",
        )
        return [cancel, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        active = Deployment.objects.filter(state__in=UNFINISHED).exists()
        return super().changelist_view(request, {"active": active} | (extra_context or {}))

    def add_view(
        self,
        request: HttpRequest,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        known = request.GET.get("service", "")
        rows = CloudService.objects.filter(deleted_at=None)
        service = rows.filter(pk=int(known)).first() if known.isdigit() else None
        form = DeployForm(request.POST or None, service=service)
        if request.method == "POST" and form.is_valid():
            try:
                started = rollout_start(
                    **form.arguments(service),
                    requested_by=request.user.get_username(),
                    is_attended=False,
                )
            except SentinelleError as refusal:
                form.show(refusal)
            else:
                return redirect(self.url("change", started.deployment.pk))
        return self.page(
            request, "deploy", "Deploy a version", form=form, media=self.media, service=service
        )

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        row: Deployment | None = self.get_object(request, object_id)
        if row is None:
            return self.missing(request)
        return self.page(
            request,
            "deployment",
            f"v{row.version.version} on {row.service.name}",
            media=self.media,
            row=row,
            label=state_badge(row),
            facts=_facts(row),
            events=row.events.all(),
            can_cancel=row.is_unfinished and not row.error and self.allowed(request, "cancel"),
        )

    def cancel_view(self, request: HttpRequest, pk: Any) -> HttpResponse:
        """The button “Cancel this rollout”."""
        row = get_object_or_404(Deployment, pk=pk)

        def do(by: str, _reason: str) -> str:
            rollout_cancel(row, by=by, now=timezone.now())
            return "It is being cancelled: what it has changed is put back."

        return self.change(request, row, "cancel_deployment", do)

    @admin.display(description="version", ordering="version__version")
    def version_name(self, row: Deployment) -> str:
        return f"v{row.version.version}"

    @admin.display(description="service", ordering="service__name")
    def on(self, row: Deployment) -> str:
        address = reverse("admin:deployments_cloudservice_change", args=[row.service_id])
        return format_html('<a href="{}">{}</a>', address, row.service.name)

    @admin.display(description="state", ordering="state")
    def state_label(self, row: Deployment) -> str:
        return state_badge(row)

    @admin.display(description="traffic", ordering="percent")
    def share(self, row: Deployment) -> str:
        return f"{row.percent} %" if row.percent else "-"

    @admin.display(description="by", ordering="requested_by")
    def who(self, row: Deployment) -> str:
        return row.requested_by or "-"

    @admin.display(description="when", ordering="created_at")
    def when(self, row: Deployment) -> str:
        return moment(row.created_at)

    @admin.display(description="cost so far")
    def cost(self, row: Deployment) -> str:
        return deployment_cost(row).words


def _link(address: str, text: str) -> str:
    return format_html('<a href="{}">{}</a>', address, text)


def _service_facts(service: CloudService) -> list[tuple[str, str]]:
    wishes = read_wishes(service.wishes)
    facts = [
        ("Project", f"{service.project}, {service.region}"),
        ("URL", _link(service.url, service.url) if service.url else "not known yet"),
        ("Instances", wishes.size),
        ("Callers", "anyone" if wishes.public else "who has roles/run.invoker"),
    ]
    facts += [(name, value) for name, value in wishes.env.items()]
    facts.append(("At Google", _link(service.console, "its page in the console")))
    if service.deleted_at:
        facts.append(("Deleted", moment(service.deleted_at)))
    return facts


def _facts(row: Deployment) -> list[tuple[str, str]]:
    """What the page of a deployment tells, in pairs."""
    service = reverse("admin:deployments_cloudservice_change", args=[row.service_id])
    version = reverse("admin:deployments_modelversion_change", args=[row.version_id])
    wishes = read_wishes(row.wishes)
    cost = deployment_cost(row)
    facts = [
        ("Service", _link(service, row.service.name)),
        ("Version", _link(version, str(row.version))),
        ("Traffic", f"{row.percent} %"),
        ("Wanted", f"a canary with {row.canary} %" if row.canary else "all of the traffic"),
        ("Image", row.image or "not built yet"),
        ("Revision", row.revision or "none yet"),
        ("Its own address", row.url or "none yet"),
        ("Instances", wishes.size),
        ("Callers", "anyone" if wishes.public else "who has roles/run.invoker"),
        *wishes.env.items(),
        ("Asked for by", f"{row.requested_by or 'nobody named'}, {moment(row.created_at)}"),
        ("Cost so far", f"{cost.words} ({_made_of(cost)})" if cost.cost else cost.words),
    ]
    if row.reason:
        facts.append(("Reason", row.reason))
    return facts


def _made_of(cost: Any) -> str:
    return "; ".join(part.name for part in cost.cost.parts) or "nothing"
