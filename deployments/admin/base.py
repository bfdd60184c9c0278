"""What the pages of the registry have in common."""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.options import IS_POPUP_VAR
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.text import capfirst

from deployments import selectors
from deployments.models import RegisteredModel
from engine.errors import SentinelleError


def badge(text: str, kind: str = "", title: str = "") -> str:
    """A small label; `kind` is a class of deployments/admin.css."""
    return format_html('<span class="badge {}" title="{}">{}</span>', kind, title, text)


def who(request: HttpRequest) -> dict[str, Any]:
    """Who asks, as the services take it."""
    return {"actor": request.user.get_username(), "user": request.user}


def moment(at: datetime) -> str:
    """A time as the lists show it: short, and sortable by eye."""
    return f"{timezone.localtime(at):%Y-%m-%d %H:%M}"


def pinned_version(model: RegisteredModel) -> str:
    """The version that this server is pinned to by MODEL_VERSION, “” when it follows."""
    if model.name != settings.MODEL_NAME or settings.MODEL_VERSION == "latest":
        return ""
    return str(settings.MODEL_VERSION)


def kind_listed(request: HttpRequest, rows: QuerySet[Any]) -> str | None:
    """The kind of model that a list is of: that of the model which is chosen in its filter, else
    that of all of its rows, which have a model; None where there are several, or no rows.

    It is found once a request, which asks for it several times.
    """
    found: str | None
    if not hasattr(request, "kind_listed"):
        chosen = request.GET.get("model__id__exact", "")
        if chosen.isdecimal():
            rows = rows.filter(model=chosen)
        kinds = list(rows.order_by().values_list("model__kind", flat=True).distinct()[:2])
        request.kind_listed = kinds[0] if len(kinds) == 1 else None  # type: ignore[attr-defined]
    found = request.kind_listed  # type: ignore[attr-defined]
    return found


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that can be looked at and searched, and nothing else."""

    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def missing(self, request: HttpRequest) -> HttpResponse:
        """The answer when the row of an address is not there."""
        messages.error(request, f"There is no such {self.opts.verbose_name}.")
        return redirect(self.url("changelist"))

    def url(self, view: str, *args: Any) -> str:
        """The address of one of this model's pages."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_{view}"
        return reverse(name, args=args)

    def allowed(self, request: HttpRequest, action: str) -> bool:
        """Whether the user holds `action` of this model, such as “promote”."""
        meta = self.opts
        return request.user.has_perm(f"{meta.app_label}.{action}_{meta.model_name}")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"title": capfirst(self.opts.verbose_name_plural)}
        return super().changelist_view(request, context | (extra_context or {}))

    def page(
        self, request: HttpRequest, template: str, title: str, **context: Any
    ) -> TemplateResponse:
        """A page of this model that the admin does not have by itself."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "is_popup": IS_POPUP_VAR in request.GET,
            **context,
        }
        folder = f"admin/{self.opts.app_label}/{self.opts.model_name}"
        return TemplateResponse(request, f"{folder}/{template}.html", context)


class MadeByServiceMixin:
    """A form to add a row that `save_form` makes with a service, in one step."""

    add_title: str

    def save_model(self, *_args: Any) -> None:
        """`save_form` did it, by the service."""

    def save_related(self, *_args: Any) -> None:
        """There is nothing else to save."""

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {
            "title": self.add_title,
            "show_save_and_continue": False,
            "show_save_and_add_another": False,
        } | (extra_context or {})
        answer: HttpResponse = super().add_view(request, form_url, context)  # type: ignore[misc]
        return answer


class MovesAdmin(ReadOnlyAdmin):
    """Rows that an alias points to: they can be promoted, and the alias rolled back.

    Subclasses bring the page that promotes and the call that rolls back.
    """

    def get_urls(self) -> list[Any]:
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        wrap = self.admin_site.admin_view
        return [
            path("<path:object_id>/promote/", wrap(self.promote_view), name=f"{name}_promote"),
            path("rollback/<int:model_id>/", wrap(self.rollback_view), name=f"{name}_rollback"),
            *super().get_urls(),
        ]

    def has_promote_permission(self, request: HttpRequest) -> bool:
        return self.allowed(request, "promote")

    def has_rollback_permission(self, request: HttpRequest) -> bool:
        return self.allowed(request, "rollback")

    def promote_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Look at what would change (GET), then do it (POST)."""
        if not self.has_promote_permission(request):
            raise PermissionDenied
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return self.missing(request)
        return self.promote_page(request, row)

    def promote_page(self, request: HttpRequest, row: Any) -> HttpResponse:
        raise NotImplementedError

    def rollback_view(self, request: HttpRequest, model_id: int) -> HttpResponse:
        """One click on the button of the list, which says where it leads."""
        if request.method != "POST" or not self.has_rollback_permission(request):
            raise PermissionDenied
        model = get_object_or_404(RegisteredModel, pk=model_id)
        try:
            done = self.roll_back(request, model)
        except SentinelleError as error:
            messages.error(request, error.detail)
        else:
            messages.success(request, done)
        return redirect(self.url("changelist"))

    def roll_back(self, request: HttpRequest, model: RegisteredModel) -> str:
        """Do it and say what serves now; raises SentinelleError."""
        raise NotImplementedError

    @admin.action(description="Promote the selected one…", permissions=["promote"])
    def promote_selected(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """From the list to the page that promotes."""
        rows = list(queryset[:2])
        if len(rows) != 1:
            messages.error(request, "Select one: one serves at a time.")
            return None
        return redirect(self.url("promote", rows[0].pk))

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        chosen = request.GET.get("model__id__exact", "")
        context = {
            "serving": [each for each in selectors.serving() if chosen in ("", str(each.model.pk))],
            "pinned": settings.MODEL_VERSION if settings.MODEL_VERSION != "latest" else "",
            "pinned_model": settings.MODEL_NAME,
            "can_roll_back": self.has_rollback_permission(request),
            "can_promote": self.has_promote_permission(request),
        }
        return super().changelist_view(request, context | (extra_context or {}))

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        context = {"can_promote": self.has_promote_permission(request)}
        return super().change_view(request, object_id, form_url, context | (extra_context or {}))
