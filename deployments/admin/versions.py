"""Model versions: compare, promote, roll back."""

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html, format_html_join

from deployments import selectors, services
from deployments.admin.base import (
    MovesAdmin,
    badge,
    kind_listed,
    moment,
    pinned_version,
    who,
)
from deployments.comparison import (
    ACCURACY,
    AVERAGE_PRECISION,
    BEST_POSSIBLE,
    MACRO_F1,
    RECALL_AT_1,
    ROC_AUC,
    Measure,
    Metrics,
    Row,
    compare,
    on_same_part,
    test_set,
)
from deployments.gates import Gate, Verdict, gate
from deployments.models import Kind, ModelVersion, PromotionEvent, RegisteredModel, RuleSet
from deployments.selectors import LivePointer
from engine.errors import RegistryMoved, SentinelleError

KEEP, TUNED = "keep", "tuned"
ALTHOUGH = {
    Verdict.WORSE: "worse than the champion",
    Verdict.TOO_CLOSE: "not clearly better than the champion",
    Verdict.SAME: "the same model as the champion",
    Verdict.NOT_COMPARABLE: "not known to be better than the champion",
}
GATE_KINDS = {
    Verdict.FIRST: "good",
    Verdict.BETTER: "good",
    Verdict.WORSE: "bad",
    Verdict.TOO_CLOSE: "warn",
    Verdict.SAME: "warn",
    Verdict.NOT_COMPARABLE: "warn",
}
# The columns of the list, by the kind of its models; None where there are several.
_COLUMNS: dict[str | None, tuple[str, ...]] = {
    Kind.FRAUD: ("average_precision", "roc_auc", "recall_at_1", "tuned_with"),
    Kind.CLASSIFIER: ("accuracy", "macro_f1", "best_possible"),
    None: ("headline",),
}
# What the page of a version shows, from top to bottom.
_FACTS = (
    "name",
    "registered_model",
    "proposal",
    "gate_words",
    "comparison",
    "thresholds_text",
    "tuned_with",
    "measured_on",
    "training_run",
    "created_at",
    "created_by",
    "size",
    "location",
    "manifest_sha256",
    "promotions",
)
_FRAUD_ONLY = ("thresholds_text", "tuned_with")


class PromoteForm(forms.Form):
    """Why, with which rules when the serving ones are not those of the thresholds, and, when the
    figures do not speak for it, that it is meant all the same."""

    reason = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3, "cols": 70}),
        help_text="Kept in the history of promotions.",
    )
    # What the page showed: the promotion is refused when another version serves by then.
    seen_champion = forms.CharField(widget=forms.HiddenInput, required=False)

    def __init__(
        self,
        *args: Any,
        serving: RuleSet | None,
        tuned: RuleSet | None,
        may_move_rules: bool,
        gate: Gate,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if serving and tuned and serving != tuned and may_move_rules:
            self.fields["rules"] = forms.ChoiceField(
                widget=forms.RadioSelect,
                label="Serve it with",
                choices=[
                    (TUNED, f"“{tuned.name}”, the rule set that its thresholds were tuned with"),
                    (KEEP, f"“{serving.name}”, the rule set that serves now"),
                ],
            )
        if not gate.open:
            self.fields["anyway"] = forms.BooleanField(
                label=f"Promote it although it is {ALTHOUGH[gate.verdict]}",
                error_messages={"required": "Confirm that you mean it, or cancel."},
            )


@admin.register(ModelVersion)
class ModelVersionAdmin(MovesAdmin):
    """Versions with their metrics beside the champion's."""

    list_filter = ["model", "deployable", "rule_set", "created_at", "created_by"]
    search_fields = ["version", "model__name", "rule_set__name", "created_by", "manifest_sha256"]
    search_help_text = "Version, rule set, person or digest"
    date_hierarchy = "created_at"
    ordering = ["-created_at"]
    actions = ["promote_selected"]
    fields = _FACTS
    readonly_fields = _FACTS

    def get_fields(self, request: HttpRequest, obj: ModelVersion | None = None) -> list[Any]:  # noqa: ARG002
        left_out = set() if obj is not None and _proposal(obj) else {"proposal"}
        if obj is not None and obj.model.is_classifier:
            left_out |= {*_FRAUD_ONLY}
        return [name for name in _FACTS if name not in left_out]

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """The measures that the versions of the list have."""
        kind = kind_listed(request, ModelVersion.objects.all())
        return ["name", *_COLUMNS[kind], "size", "made", "training_run"]

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        """Without the rule sets where no version has one."""
        classifiers = kind_listed(request, ModelVersion.objects.all()) == Kind.CLASSIFIER
        return [name for name in self.list_filter if not (classifiers and name == "rule_set")]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelVersion]:  # noqa: ARG002
        return selectors.versions_beside_champion().order_by("-created_at")

    @admin.display(description="version", ordering="version")
    def name(self, version: Any) -> str:
        labels = []
        pin = pinned_version(version.model)
        if version.pk == version.champion_id:
            labels.append(badge("champion", "good", "Serves, unless a server is pinned"))
        if pin == version.version:
            labels.append(badge("pinned here", "warn", "MODEL_VERSION pins this server to it"))
        if version.pk == version.challenger_id and (proposal := _proposal(version)):
            labels.append(badge("proposed", "active", proposal.reason))
        if not version.deployable:
            labels.append(badge("sample", "", "Trained on a sample: it can't be promoted"))
        return format_html(
            "<strong>{}</strong> {}",
            f"{version.model.name} v{version.version}",
            format_html_join(" ", "{}", ((label,) for label in labels)),
        )

    @admin.display(description="proposed")
    def proposal(self, version: ModelVersion) -> str:
        event = _proposal(version)
        if event is None:
            return "–"
        return format_html("{} by {}: {}", moment(event.at), event.actor, event.reason)

    @admin.display(description="AP", ordering="metrics__pr_auc")
    def average_precision(self, version: ModelVersion) -> str:
        return _beside_champion(AVERAGE_PRECISION, version)

    @admin.display(description="ROC-AUC", ordering="metrics__roc_auc")
    def roc_auc(self, version: ModelVersion) -> str:
        return _beside_champion(ROC_AUC, version)

    @admin.display(description="recall 1 %", ordering="metrics__recall_at_1_percent")
    def recall_at_1(self, version: ModelVersion) -> str:
        return _beside_champion(RECALL_AT_1, version)

    @admin.display(description="accuracy", ordering="metrics__accuracy")
    def accuracy(self, version: ModelVersion) -> str:
        return _beside_champion(ACCURACY, version)

    @admin.display(description="macro F1", ordering="metrics__macro_f1")
    def macro_f1(self, version: ModelVersion) -> str:
        return _beside_champion(MACRO_F1, version)

    @admin.display(description="best possible", ordering="metrics__best_possible_accuracy")
    def best_possible(self, version: ModelVersion) -> str:
        return BEST_POSSIBLE.text(BEST_POSSIBLE.value(version.metrics))

    @admin.display(description="measured")
    def headline(self, version: ModelVersion) -> str:
        measure = ACCURACY if version.model.is_classifier else AVERAGE_PRECISION
        return format_html("{} {}", measure.label, _beside_champion(measure, version))

    @admin.display(description="model")
    def registered_model(self, version: ModelVersion) -> str:
        address = reverse("admin:deployments_registeredmodel_change", args=[version.model_id])
        return format_html('<a href="{}">{}</a>', address, version.model.name)

    @admin.display(description="rules", ordering="rule_set__name")
    def tuned_with(self, version: ModelVersion) -> str:
        if version.rule_set is None:
            return "–"
        address = reverse("admin:deployments_ruleset_change", args=[version.rule_set_id])
        return format_html('<a href="{}">{}</a>', address, version.rule_set.name)

    @admin.display(ordering="size_bytes")
    def size(self, version: ModelVersion) -> str:
        return filesizeformat(version.size_bytes)

    @admin.display(description="made", ordering="created_at")
    def made(self, version: ModelVersion) -> str:
        by = format_html('<br><span class="hint">by {}</span>', version.created_by)
        return format_html("{} {}", moment(version.created_at), by if version.created_by else "")

    # Not “run”: that is the relation from the training app, which the admin would show instead.
    @admin.display(description="run")
    def training_run(self, version: ModelVersion) -> str:
        if version.training_run_id is None:
            return "–"
        address = reverse("admin:training_trainingrun_change", args=[version.training_run_id])
        return format_html('<a href="{}">{}</a>', address, str(version.training_run_id)[:8])

    @admin.display(description="beside the champion")
    def gate_words(self, version: Any) -> str:
        if version.pk == version.champion_id:
            return "It is the champion."
        return _gate_text(gate(version, selectors.live_pointer(version.model.name).version))

    @admin.display(description="metrics")
    def comparison(self, version: Any) -> str:
        champion = selectors.live_pointer(version.model.name).version
        if champion is None or version == champion:
            return _table(compare(version.metrics, None), beside=False)
        return _table(compare(version.metrics, _figures(version, champion)), beside=True)

    @admin.display(description="thresholds")
    def thresholds_text(self, version: ModelVersion) -> str:
        return _thresholds(version)

    @admin.display(description="measured on")
    def measured_on(self, version: ModelVersion) -> str:
        return test_set(version.metrics)

    @admin.display(description="promotions")
    def promotions(self, version: ModelVersion) -> str:
        address = reverse("admin:deployments_promotionevent_changelist")
        query = urlencode({"model__id__exact": version.model_id, "q": version.version})
        return format_html('<a href="{}?{}">History</a>', address, query)

    def promote_page(self, request: HttpRequest, row: ModelVersion) -> HttpResponse:
        live = selectors.live_pointer(row.model.name)
        seen = live.version.version if live.version else ""
        found = gate(row, live.version)
        form = PromoteForm(
            request.POST or None,
            initial={"seen_champion": seen},
            serving=live.rule_set,
            tuned=row.rule_set,
            may_move_rules=request.user.has_perm("deployments.promote_ruleset"),
            gate=found,
        )
        if form.is_valid():
            try:
                done = _promote(request, row, form.cleaned_data)
            except RegistryMoved as error:
                # The comparison on the page is out of date: show the new one.
                messages.error(request, error.detail)
                return redirect(request.path)
            except SentinelleError as error:
                form.add_error(None, error.detail)
            else:
                messages.success(request, done)
                return redirect(self.url("changelist"))
        return self.page(
            request,
            "promote",
            f"Promote {row}",
            form=form,
            gate_text=_gate_text(found),
            **_promote_context(row, live),
        )

    def roll_back(self, request: HttpRequest, model: RegisteredModel) -> str:
        event = services.rollback(
            model=model,
            **who(request),
            reason=request.POST.get("reason", "").strip() or "Rolled back in the admin",
            seen_champion=request.POST.get("seen", ""),
        )
        return f"{model.name} is served by v{event.to_version.version} again."


def _proposal(version: ModelVersion) -> PromotionEvent | None:
    """The proposal of this version that waits for a person."""
    event = selectors.standing_proposal(version.model)
    return event if event is not None and event.to_version_id == version.pk else None


def _promote(request: HttpRequest, version: ModelVersion, asked: dict[str, Any]) -> str:
    event = services.promote(
        model=version.model,
        version=version.version,
        **who(request),
        reason=asked["reason"],
        rule_set=version.rule_set if asked.get("rules") == TUNED else None,
        seen_champion=asked["seen_champion"],
    )
    return f"{event.model.name} is served by v{event.to_version.version}."


def _promote_context(version: ModelVersion, live: LivePointer) -> dict[str, Any]:
    champion = live.version
    champion_metrics = _figures(version, champion) if champion else None
    return {
        "version": version,
        "champion": champion,
        "serving_rules": live.rule_set,
        "rules_differ": live.rule_set != version.rule_set,
        "rows": compare(version.metrics, champion_metrics),
        "beside": champion is not None,
        "thresholds": _thresholds(version),
        "champion_thresholds": _thresholds(champion) if champion else "",
        "measured_on": test_set(version.metrics),
        "champion_measured_on": test_set(champion_metrics) if champion_metrics else "",
        "pinned": pinned_version(version.model),
    }


def _figures(version: ModelVersion, champion: ModelVersion) -> Metrics:
    """The champion's metrics: on the version's own test part if they were taken there."""
    metrics: Metrics = on_same_part(version.metrics, champion.version) or champion.metrics
    return metrics


def _beside_champion(measure: Measure, version: Any) -> str:
    # A version as selectors.versions_beside_champion annotates it.
    value = measure.value(version.metrics)
    if version.champion_metrics is None or version.pk == version.champion_id:
        return measure.text(value)
    same_part = on_same_part(version.metrics, version.champion_number)
    champion = measure.value(same_part or version.champion_metrics)
    difference = measure.difference(value, champion)
    return format_html(
        '{} <span class="difference {}" title="Beside the champion">{}</span>',
        measure.text(value),
        difference.verdict,
        difference.text,
    )


def _gate_text(found: Gate) -> str:
    return format_html(
        '<div class="gate {}"><strong>{}.</strong> {}</div>',
        GATE_KINDS[found.verdict],
        found.title,
        found.reason,
    )


def _table(rows: list[Row], *, beside: bool) -> str:
    return render_to_string("admin/deployments/comparison.html", {"rows": rows, "beside": beside})


def _thresholds(version: ModelVersion) -> str:
    limits = version.thresholds
    if not limits:
        return "–"
    return f"REVIEW from {limits['review']:.4f}, BLOCK from {limits['block']:.4f}"
