"""Rule sets: read, add, promote, roll back."""

from difflib import unified_diff
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.html import format_html, format_html_join

from deployments import artifacts, selectors, services
from deployments.admin.base import MadeByServiceMixin, MovesAdmin, badge, moment, who
from deployments.models import Kind, RegisteredModel, RuleSet
from engine.errors import InvalidRuleSet, SentinelleError


class RuleSetForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new rule set. The compiler's faults are shown at the source."""

    class Meta:
        model = RuleSet
        fields = ["name", "source"]
        widgets = {
            "source": forms.Textarea(attrs={"rows": 28, "class": "code", "spellcheck": "false"})
        }

    def clean_source(self) -> str:
        source: str = self.cleaned_data["source"].replace("\r\n", "\n")
        try:
            artifacts.compile_rules(source)
        except InvalidRuleSet as fault:
            places = [f"{error.field}: {error.message}" for error in fault.errors]
            raise forms.ValidationError(places or [fault.detail]) from fault
        return source


class RulesPromoteForm(forms.Form):
    """Which model, and why."""

    model = forms.ModelChoiceField(
        RegisteredModel.objects.filter(kind=Kind.FRAUD), empty_label=None
    )
    reason = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3, "cols": 70}),
        help_text="Kept in the history of rule sets.",
    )


@admin.register(RuleSet)
class RuleSetAdmin(MadeByServiceMixin, MovesAdmin):
    """Rule sets. One that was added never changes; a correction is a new one."""

    add_title = "Add a rule set"
    form = RuleSetForm
    list_display = ["title", "serves", "digest", "made", "created_by"]
    list_filter = ["created_at", "created_by"]
    search_fields = ["name", "source", "sha256", "created_by"]
    search_help_text = "Name, words of a rule, digest or person"
    date_hierarchy = "created_at"
    actions = ["promote_selected"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.allowed(request, "add")

    def get_fields(self, request: HttpRequest, obj: RuleSet | None = None) -> list[Any]:  # noqa: ARG002
        if obj is None:
            return ["name", "source"]
        return ["name", "serves", "created_at", "created_by", "sha256", "source_text"]

    def get_readonly_fields(self, request: HttpRequest, obj: RuleSet | None = None) -> list[Any]:
        return self.get_fields(request, obj) if obj else []

    def get_queryset(self, request: HttpRequest) -> QuerySet[RuleSet]:
        return super().get_queryset(request).prefetch_related("aliases__model")

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """`?from=ID` starts from another rule set, which is how one is corrected."""
        begun_from = request.GET.get("from", "")
        if not begun_from.isdigit():
            return super().get_changeform_initial_data(request)
        rule_set = RuleSet.objects.filter(pk=begun_from).first()
        return {"source": rule_set.source if rule_set else ""}

    @admin.display(description="name", ordering="name")
    def title(self, rule_set: RuleSet) -> str:
        return format_html("<strong>{}</strong>", rule_set.name)

    @admin.display(description="serves")
    def serves(self, rule_set: RuleSet) -> str:
        models = ((badge(alias.model.name, "good"),) for alias in rule_set.aliases.all())
        return format_html_join(" ", "{}", models) or "–"

    @admin.display(description="made", ordering="created_at")
    def made(self, rule_set: RuleSet) -> str:
        return moment(rule_set.created_at)

    @admin.display(description="digest")
    def digest(self, rule_set: RuleSet) -> str:
        return format_html('<code title="{}">{}</code>', rule_set.sha256, rule_set.sha256[:12])

    @admin.display(description="source")
    def source_text(self, rule_set: RuleSet) -> str:
        if not rule_set.source:
            return "No rules: only the models decide."
        return format_html('<pre class="code">{}</pre>', rule_set.source)

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> RuleSet:  # noqa: ARG002
        return services.rule_set_create(
            name=form.cleaned_data["name"],
            source=form.cleaned_data["source"],
            created_by=request.user.get_username(),
        )

    def promote_page(self, request: HttpRequest, row: RuleSet) -> HttpResponse:
        form = RulesPromoteForm(request.POST or None)
        if form.is_valid():
            try:
                event = services.rule_set_promote(
                    model=form.cleaned_data["model"],
                    rule_set=row,
                    **who(request),
                    reason=form.cleaned_data["reason"],
                )
            except SentinelleError as error:
                form.add_error(None, error.detail)
            else:
                name = event.model.name
                messages.success(request, f"{name} is served with “{row.name}”.")
                return redirect(self.url("changelist"))
        changes = [
            (each, _changes(each.rule_set, row)) for each in selectors.serving() if each.rule_set
        ]
        return self.page(
            request, "promote", f"Serve with “{row.name}”", form=form, rule_set=row, changes=changes
        )

    def roll_back(self, request: HttpRequest, model: RegisteredModel) -> str:
        event = services.rule_set_rollback(
            model=model,
            **who(request),
            reason=request.POST.get("reason", "").strip() or "Rolled back in the admin",
            seen_rule_set=request.POST.get("seen", ""),
        )
        return f"{model.name} is served with “{event.to_rule_set.name}” again."

    def response_add(
        self,
        request: HttpRequest,
        obj: RuleSet,
        post_url_continue: str | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        messages.success(request, f"“{obj.name}” is registered; promote it to serve with it.")
        return redirect(self.url("change", obj.pk))


def _changes(before: RuleSet, after: RuleSet) -> list[tuple[str, str]]:
    """The lines that differ, each with the class that shows it."""
    kinds = {"+": "added", "-": "removed", "@": "place"}
    lines = unified_diff(before.source.splitlines(), after.source.splitlines(), n=2, lineterm="")
    return [(kinds.get(line[0], ""), line) for line in list(lines)[2:]]
