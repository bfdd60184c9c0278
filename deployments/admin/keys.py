"""API keys: make, look at, revoke. A key is shown once; its digest never."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import path

from deployments import services
from deployments.admin.base import MadeByServiceMixin, ReadOnlyAdmin, badge, moment
from deployments.models import ApiKey, Scope


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new key: who uses it and what it may do."""

    scopes = forms.MultipleChoiceField(
        choices=Scope.choices, widget=forms.CheckboxSelectMultiple, initial=[Scope.SCORE.value]
    )

    class Meta:
        model = ApiKey
        fields = ["name", "scopes"]


@admin.register(ApiKey)
class ApiKeyAdmin(MadeByServiceMixin, ReadOnlyAdmin):
    """Keys of callers."""

    add_title = "Make an API key"
    form = ApiKeyForm
    list_display = ["name", "start", "may", "state", "made", "created_by"]
    list_filter = [("revoked_at", admin.EmptyFieldListFilter), "created_at", "created_by"]
    search_fields = ["name", "prefix", "created_by"]
    search_help_text = "Name, first characters of the key, or person"
    date_hierarchy = "created_at"
    actions = ["revoke_selected"]

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.revoke_view)
        url = path("<path:object_id>/revoke/", view, name="deployments_apikey_revoke")
        return [url, *super().get_urls()]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.allowed(request, "add")

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return self.allowed(request, "revoke")

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[Any]:  # noqa: ARG002
        if obj is None:
            return ["name", "scopes"]
        return ["name", "start", "may", "state", "created_at", "created_by"]

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[Any]:
        return self.get_fields(request, obj) if obj else []

    @admin.display(description="key", ordering="prefix")
    def start(self, key: ApiKey) -> str:
        return f"{key.prefix}…"

    @admin.display(description="scopes")
    def may(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @admin.display(description="state", ordering="revoked_at")
    def state(self, key: ApiKey) -> str:
        if key.revoked_at:
            return badge("revoked", "bad", f"{key.revoked_at:%Y-%m-%d %H:%M} UTC")
        return badge("valid", "good")

    @admin.display(description="made", ordering="created_at")
    def made(self, key: ApiKey) -> str:
        return moment(key.created_at)

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> ApiKey:  # noqa: ARG002
        key, plain_key = services.api_key_create(
            name=form.cleaned_data["name"],
            scopes=form.cleaned_data["scopes"],
            created_by=request.user.get_username(),
        )
        request.plain_api_key = plain_key  # type: ignore[attr-defined]
        return key

    def response_add(
        self,
        request: HttpRequest,
        obj: ApiKey,
        post_url_continue: str | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        """Show the key in this answer, so that no cookie, session or log ever holds it."""
        plain_key: str = request.plain_api_key  # type: ignore[attr-defined]
        response = self.page(request, "created", "The key", key=obj, plain_key=plain_key)
        response["Cache-Control"] = "no-store"
        return response

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        context = {"can_revoke": self.has_revoke_permission(request)}
        return super().change_view(request, object_id, form_url, context | (extra_context or {}))

    @admin.action(description="Revoke the selected keys", permissions=["revoke"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        count = sum(services.api_key_revoke(key=key) for key in queryset)
        messages.success(request, f"Revoked: {count}.")

    def revoke_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The button on a key's page."""
        if request.method != "POST" or not self.has_revoke_permission(request):
            raise PermissionDenied
        key = self.get_object(request, unquote(object_id))
        if key is None:
            return self.missing(request)
        services.api_key_revoke(key=key)
        messages.success(request, f"{key} is revoked.")
        return redirect(self.url("change", key.pk))
