"""Registered models in the admin.

They are rows of deployments, but their pages tell of data sets, runs and predictions as well, so
they are here, above all of those.
"""

from difflib import unified_diff
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Max, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import path, reverse
from django.utils.html import format_html

from deployments import selectors, services
from deployments.admin.base import ReadOnlyAdmin, badge, moment
from deployments.admin.definitions import DefinitionForm, definition_context
from deployments.models import CHAMPION, Alias, Kind, ModelVersion, RegisteredModel
from engine.classifier.definition import read_definition
from engine.errors import InvalidDefinition, SentinelleError
from training.badges import state_badge
from training.models import Dataset, TrainingRun

KINDS = {Kind.FRAUD: "active", Kind.CLASSIFIER: "good"}


class Link(NamedTuple):
    """A place where more is told of a model."""

    address: str
    text: str
    note: str = ""


@admin.register(RegisteredModel)
class RegisteredModelAdmin(ReadOnlyAdmin):
    """Models: what they are, what serves, and all that belongs to them. A classifier is registered
    here by its definition."""

    list_display = ["name", "kind_badge", "champion", "versions_count", "last_run", "made"]
    list_filter = ["kind"]
    search_fields = ["name", "description"]
    ordering = ["name"]

    class Media:
        css = {"all": ["deployments/admin.css", "training/training.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[RegisteredModel]:  # noqa: ARG002
        counted = RegisteredModel.objects.annotate(
            versions_made=Count("versions", distinct=True), last_run_at=Max("runs__created_at")
        )
        return counted.defer("definition").order_by("name")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.allowed(request, "add")

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.definition_view)
        name = "deployments_registeredmodel_definition"
        return [path("<path:object_id>/definition/", view, name=name), *super().get_urls()]

    # --- columns ---

    @admin.display(description="kind", ordering="kind")
    def kind_badge(self, model: RegisteredModel) -> str:
        return badge(model.get_kind_display(), KINDS[Kind(model.kind)])

    @admin.display(description="champion")
    def champion(self, model: RegisteredModel) -> str:
        version = _champion(model)
        if version is None:
            return "–"
        address = reverse("admin:deployments_modelversion_change", args=[version.pk])
        return format_html('<a href="{}">v{}</a>', address, version.version)

    @admin.display(description="versions", ordering="versions_made")
    def versions_count(self, model: Any) -> str:
        if not model.versions_made:
            return "0"
        address = _list_address("deployments_modelversion", "model__id__exact", model)
        return format_html('<a href="{}">{}</a>', address, model.versions_made)

    @admin.display(description="last run", ordering="last_run_at")
    def last_run(self, model: RegisteredModel) -> str:
        run = _last_run(model)
        if run is None:
            return "–"
        address = reverse("admin:training_trainingrun_change", args=[run.pk])
        name = format_html('<a href="{}">v{}</a>', address, run.version)
        return format_html("{} {} {}", name, state_badge(run), moment(run.created_at))

    @admin.display(description="registered", ordering="created_at")
    def made(self, model: RegisteredModel) -> str:
        return moment(model.created_at)

    # --- pages ---

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        """A model's page."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        model = RegisteredModel.objects.filter(pk=_key(object_id)).first()
        if model is None:
            return self.missing(request)
        classifier = model.kind == Kind.CLASSIFIER
        return self.page(
            request,
            "model",
            model.name,
            model=model,
            kind=self.kind_badge(model),
            champion=_champion(model),
            rule_set=None if classifier else _serving_rules(model),
            proposal=selectors.standing_proposal(model),
            links=_links(model),
            last_run=self.last_run(model),
            can_define=classifier and self.has_add_permission(request),
            can_train=request.user.has_perm("training.add_trainingrun"),
            train_query=urlencode({"model": model.name}),
            **(_definition_shown(model) if classifier else {}),
        )

    def add_view(
        self,
        request: HttpRequest,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        """Register a classifier."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        return self._definition_page(request, None)

    def definition_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Change a classifier's definition."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        model = RegisteredModel.objects.filter(pk=_key(object_id), kind=Kind.CLASSIFIER).first()
        return self.missing(request) if model is None else self._definition_page(request, model)

    def _definition_page(self, request: HttpRequest, model: RegisteredModel | None) -> HttpResponse:
        """The form; what was given is shown as it would be read, and registered when asked to."""
        before = model.definition if model else ""
        form = DefinitionForm(
            request.POST or None, request.FILES or None, initial={"source": before}
        )
        shown: dict[str, Any] = {}
        if form.is_valid():
            definition, source = form.cleaned_data["definition"], form.cleaned_data["source"]
            known = RegisteredModel.objects.filter(name=definition.name).first()
            _check_name(form, model, known, definition.name)
            if form.is_valid() and "_save" in request.POST:
                done = self._register(request, form, source, known)
                if done is not None:
                    return done
            shown = definition_context(definition) | {
                "changes": _changes(known.definition, source) if known else [],
                "known": known,
            }
        return self.page(
            request,
            "register",
            f"Change the definition of {model.name}" if model else "Register a classifier",
            form=form,
            model=model,
            media=self.media,
            **shown,
        )

    def _register(
        self,
        request: HttpRequest,
        form: DefinitionForm,
        source: str,
        known: RegisteredModel | None,
    ) -> HttpResponse | None:
        """Do it and go to the model's page; None after the form was told what is wrong."""
        try:
            row = services.model_register(source=source, by=request.user.get_username())
        except SentinelleError as refusal:
            form.add_error("source", refusal.detail)
            return None
        if known is None:
            messages.success(request, f"{row.name} is registered. Train a version to serve it.")
        else:
            messages.success(
                request, f"{row.name} has the new definition: the next training run uses it."
            )
        return redirect(self.url("change", row.pk))


def _key(object_id: str) -> int:
    """The key in an address; 0, which no row has, when it is none."""
    text = unquote(object_id)
    return int(text) if text.isdecimal() and len(text) < 18 else 0


def _definition_shown(model: RegisteredModel) -> dict[str, Any]:
    try:
        return definition_context(read_definition(model.definition))
    except InvalidDefinition as fault:  # one that an older version of Sentinelle took
        return {"definition_fault": fault.detail}


def _champion(model: RegisteredModel) -> ModelVersion | None:
    alias = Alias.objects.filter(model=model, name=CHAMPION).select_related("version").first()
    return alias.version if alias else None


def _serving_rules(model: RegisteredModel) -> Any:
    alias = getattr(model, "rule_set_alias", None)
    return alias.rule_set if alias else None


def _last_run(model: RegisteredModel) -> TrainingRun | None:
    runs = TrainingRun.objects.filter(model=model).defer("report").order_by("-created_at")
    return runs.first()


def _links(model: RegisteredModel) -> list[Link]:
    """The lists of what belongs to a model, with how many there are."""
    classifier = model.kind == Kind.CLASSIFIER
    data_sets = Dataset.objects.filter(model=model if classifier else None)
    links = [
        _counted("deployments_modelversion", "model__id__exact", model, model.versions.count(),
                 "version", "versions"),
        _counted("training_trainingrun", "model__id__exact", model,
                 TrainingRun.objects.filter(model=model).count(), "training run", "training runs"),
        Link(_data_sets_address(model), _how_many(data_sets.count(), "data set", "data sets")),
        Link(_list_address("deployments_promotionevent", "model__id__exact", model),
             "History of promotions"),
    ]  # fmt: skip
    if classifier:
        predictions = reverse("admin:scoring_predictionrecord_changelist")
        return [*links, Link(f"{predictions}?{urlencode({'model': model.name})}", "Predictions")]
    return [*links, Link(reverse("admin:scoring_scorerecord_changelist"), "Decisions")]


def _counted(
    name: str, field: str, model: RegisteredModel, count: int, one: str, many: str
) -> Link:
    return Link(_list_address(name, field, model), _how_many(count, one, many))


def _how_many(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _data_sets_address(model: RegisteredModel) -> str:
    if model.kind == Kind.CLASSIFIER:
        return _list_address("training_dataset", "model__id__exact", model)
    return f"{reverse('admin:training_dataset_changelist')}?model__isnull=True"


def _list_address(name: str, field: str, model: RegisteredModel) -> str:
    return f"{reverse(f'admin:{name}_changelist')}?{urlencode({field: model.pk})}"


def _check_name(
    form: DefinitionForm,
    model: RegisteredModel | None,
    known: RegisteredModel | None,
    name: str,
) -> None:
    """Refuse a definition of another model than the one that is changed, or of no classifier."""
    if model is not None and name != model.name:
        form.add_error(
            "source",
            f"name: found “{name}”, expected “{model.name}”. A model keeps its name; register "
            "another one under another name.",
        )
    elif known is not None and known.kind != Kind.CLASSIFIER:
        form.add_error("source", f"name: “{name}” is a model of another kind. Choose another name.")


def _changes(before: str, after: str) -> list[tuple[str, str]]:
    """The lines that differ, each with the class that shows it."""
    kinds = {"+": "added", "-": "removed", "@": "place"}
    lines = unified_diff(before.splitlines(), after.splitlines(), n=2, lineterm="")
    return [(kinds.get(line[0], ""), line) for line in list(lines)[2:]]
