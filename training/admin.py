"""Data sets and training runs in the admin. Everything that changes goes through services."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html

from deployments.admin.base import kind_listed, moment
from deployments.costs import dollars
from deployments.models import Kind
from engine.errors import RunRefused, StoreUnavailable
from training import selectors, services
from training.badges import state_badge
from training.classifier_metrics import ACCURACY, BEST_POSSIBLE
from training.cost_admin import CostsAdmin
from training.dataset_admin import DatasetAdmin
from training.facts import duration_in_words, run_facts
from training.following import time_left
from training.forms import TrainForm
from training.metrics import AVERAGE_PRECISION, STOPPED, Figure
from training.model_admin import RegisteredModelAdmin
from training.models import ACTIVE, RunState, TrainingRun
from training.report import remedy, report_context
from training.report_file import report_kept
from training.schedule_admin import RetrainingScheduleAdmin
from training.upload_admin import DatasetUploadAdmin

__all__ = [
    "DatasetAdmin",
    "DatasetUploadAdmin",
    "RegisteredModelAdmin",
    "RetrainingScheduleAdmin",
    "TrainingRunAdmin",
]


# The columns of the list that tell what came out, by the kind of its models; None: of several.
RESULTS: dict[str | None, tuple[str, ...]] = {
    Kind.FRAUD: ("pr_auc", "recall_reviewed"),
    Kind.CLASSIFIER: ("accuracy", "best_possible"),
    None: ("result",),
}


@admin.register(TrainingRun)
class TrainingRunAdmin(CostsAdmin):
    list_filter = ["state", "launcher", "model", "dataset", "rule_set", "created_at"]
    search_fields = ["version", "dataset__name", "requested_by", "id", "error"]
    date_hierarchy = "created_at"
    actions = ["cancel_selected", "restart_selected"]

    class Media:
        css = {"all": ["deployments/admin.css", "training/training.css", "training/report.css"]}
        js = [
            "training/refresh.js",
            "training/plots.js",
            "training/report.js",
            "training/classifier_report.js",
        ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[TrainingRun]:  # noqa: ARG002
        return selectors.runs_detailed()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.allowed(request, "add")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return self.allowed(request, "change")

    def has_restart_permission(self, request: HttpRequest) -> bool:
        return self.has_add_permission(request)

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        expected = path("expected/", wrap(self.expected_view), name="training_trainingrun_expected")
        return [
            expected,
            *(
                path(f"<uuid:run_id>/{verb}/", wrap(view), name=f"training_trainingrun_{verb}")
                for verb, view in (
                    ("cancel", self.cancel_view),
                    ("restart", self.restart_view),
                    ("report", self.report_view),
                )
            ),
            *super().get_urls(),
        ]

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """With the figures that the runs of the list have."""
        results = RESULTS[kind_listed(request, TrainingRun.objects.all())]
        return [
            *("version_name", "state_and_stage", "launcher", "dataset_name"),
            *results,
            *("duration", "cost", "requested"),
        ]

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        """Without the rule sets where no run has one."""
        classifiers = kind_listed(request, TrainingRun.objects.all()) == Kind.CLASSIFIER
        return [name for name in self.list_filter if not (classifiers and name == "rule_set")]

    # --- pages ---

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        active = TrainingRun.objects.filter(state__in=ACTIVE).exists()
        return super().changelist_view(request, {"active": active} | (extra_context or {}))

    def add_view(
        self,
        request: HttpRequest,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        asked = {"dataset": request.GET.get("dataset", "")}
        form = TrainForm(
            request.POST or None,
            initial=TrainForm.suggestions(request.GET.get("model")) | asked,
            may_promote=_may_promote(request),
        )
        if request.method == "POST" and form.is_valid():
            try:
                run = services.run_create(
                    **form.arguments(), requested_by=request.user.get_username()
                )
            except RunRefused as refusal:
                form.show(refusal)
            else:
                if run.message:
                    messages.warning(request, run.message)
                return redirect(self._address("change", run.pk))
        return self._page(request, "train", "Train a version", form=form)

    def expected_view(self, request: HttpRequest) -> HttpResponse:
        """What to expect of the run in the form, for its page."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        return JsonResponse(TrainForm(request.GET).expected())

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        run: TrainingRun | None = self.get_object(request, object_id)
        if run is None:
            messages.warning(request, "There is no such training run.")
            return redirect(self._address("changelist"))
        try:
            log = selectors.run_log_tail(run)
        except StoreUnavailable as error:
            log = f"The log can't be read now: {error}"
        return self._page(
            request,
            "run",
            f"{run.model.name} v{run.version}",
            run=run,
            badge=state_badge(run),
            facts=self._facts(run),
            events=run.events.all(),
            left=time_left(run, timezone.now()),
            remedy=remedy(run.stage, run.error, run.model.kind),
            log=log,
            **report_context(run.report),
            has_report=not run.is_active and bool(run.report),
            can_cancel=run.is_active and self.has_cancel_permission(request),
            can_restart=run.can_restart and self.has_restart_permission(request),
        )

    def report_view(self, request: HttpRequest, run_id: Any) -> HttpResponse:
        """The report of a run that has ended, as one file to keep or to send."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        run = get_object_or_404(selectors.runs_detailed(), pk=run_id)
        if run.is_active:
            messages.warning(request, "Its report comes when the run ends.")
            return redirect(self._address("change", run.pk))
        name = f"{run.model.name}-v{run.version}.html"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return HttpResponse(report_kept(run), headers=headers)

    def cancel_view(self, request: HttpRequest, run_id: Any) -> HttpResponse:
        """The button of a run's page."""
        return self._change_one(request, run_id, self.has_cancel_permission, self._cancel)

    def restart_view(self, request: HttpRequest, run_id: Any) -> HttpResponse:
        """The button of a run's page; leads to the new run."""
        return self._change_one(request, run_id, self.has_restart_permission, self._restart)

    def _change_one(
        self,
        request: HttpRequest,
        run_id: Any,
        permitted: Callable[[HttpRequest], bool],
        change: Callable[[HttpRequest, TrainingRun], TrainingRun],
    ) -> HttpResponse:
        if request.method != "POST" or not permitted(request):
            raise PermissionDenied
        run = get_object_or_404(TrainingRun, pk=run_id)
        try:
            run = change(request, run)
        except RunRefused as refusal:
            messages.error(request, refusal.detail)
        return redirect(self._address("change", run.pk))

    # --- actions ---

    @admin.action(description="Cancel the selected runs", permissions=["cancel"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[TrainingRun]) -> None:
        self._change_selected(request, queryset, self._cancel, "Cancelled")

    @admin.action(description="Start the selected runs again", permissions=["restart"])
    def restart_selected(self, request: HttpRequest, queryset: QuerySet[TrainingRun]) -> None:
        self._change_selected(request, queryset, self._restart, "Started again")

    def _change_selected(
        self,
        request: HttpRequest,
        queryset: QuerySet[TrainingRun],
        change: Callable[[HttpRequest, TrainingRun], TrainingRun],
        done: str,
    ) -> None:
        changed = []
        for run in queryset:
            name = f"{run.model.name} v{run.version}"
            try:
                change(request, run)
            except RunRefused as refusal:
                messages.error(request, f"{name}: {refusal.detail}")
            else:
                changed.append(name)
        if changed:
            messages.success(request, f"{done}: {', '.join(changed)}.")

    def _cancel(self, request: HttpRequest, run: TrainingRun) -> TrainingRun:
        services.run_cancel(run, now=timezone.now(), by=request.user.get_username())
        return run

    def _restart(self, request: HttpRequest, run: TrainingRun) -> TrainingRun:
        return services.run_restart(
            run,
            requested_by=request.user.get_username(),
            may_promote=_may_promote(request),
        )

    # --- columns ---

    @admin.display(description="version", ordering="version")
    def version_name(self, run: TrainingRun) -> str:
        return f"{run.model.name} v{run.version}"

    @admin.display(description="state", ordering="state")
    def state_and_stage(self, run: TrainingRun) -> str:
        label = state_badge(run)
        if run.state == RunState.RUNNING:
            return format_html(
                '{} {}<br><progress value="{}" max="1">{}</progress>',
                label,
                run.stage,
                run.fraction,
                run.stage,
            )
        if run.can_restart and run.stage:
            return format_html("{} at {}", label, run.stage)
        return label

    @admin.display(description="data set", ordering="dataset__name")
    def dataset_name(self, run: TrainingRun) -> str:
        return f"{run.dataset.name}, last {run.sample:,}" if run.sample else run.dataset.name

    @admin.display(description="AP")
    def pr_auc(self, run: TrainingRun) -> str:
        return _figure(run, AVERAGE_PRECISION)

    @admin.display(description="recall")
    def recall_reviewed(self, run: TrainingRun) -> str:
        return _figure(run, STOPPED)

    @admin.display(description="accuracy")
    def accuracy(self, run: TrainingRun) -> str:
        return _figure(run, ACCURACY)

    @admin.display(description="at best")
    def best_possible(self, run: TrainingRun) -> str:
        return _figure(run, BEST_POSSIBLE)

    @admin.display(description="result")
    def result(self, run: TrainingRun) -> str:
        if run.model_version is None:
            return "-"
        if run.model.is_classifier:
            return f"accuracy {_figure(run, ACCURACY)}"
        return f"AP {_figure(run, AVERAGE_PRECISION)}"

    @admin.display(description="duration")
    def duration(self, run: TrainingRun) -> str:
        return duration_in_words(run.duration)

    @admin.display(description="cost")
    def cost(self, run: TrainingRun) -> str:
        if run.launcher == "local":
            return "-"
        usd = run.estimated_cost_usd if run.is_active else run.cost_usd
        return f"{'~' if run.is_active and usd is not None else ''}{dollars(usd)}"

    @admin.display(description="requested", ordering="created_at")
    def requested(self, run: TrainingRun) -> str:
        return moment(run.created_at)

    # --- the run's page ---

    def _facts(self, run: TrainingRun) -> list[tuple[str, str]]:
        """What the page tells about a run, in pairs, with links to what they name."""
        named = {
            "Data set": ("training_dataset", run.dataset),
            "Model": ("deployments_registeredmodel", run.model),
            "Rules": ("deployments_ruleset", run.rule_set),
            "Version": ("deployments_modelversion", run.model_version),
        }
        links = {name: self._link(*row) for name, row in named.items() if row[1] is not None}
        return [(name, links.get(name, value)) for name, value in run_facts(run, timezone.now())]

    def _link(self, name: str, row: Any) -> str:
        return format_html(
            '<a href="{}">{}</a>', reverse(f"admin:{name}_change", args=[row.pk]), row
        )

    def _address(self, view: str, *args: Any) -> str:
        return reverse(f"admin:training_trainingrun_{view}", args=args)

    def _page(
        self, request: HttpRequest, template: str, title: str, **context: Any
    ) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "title": title,
            **context,
        }
        return TemplateResponse(request, f"admin/training/trainingrun/{template}.html", context)


def _may_promote(request: HttpRequest) -> bool:
    return request.user.has_perm("deployments.promote_modelversion")


def _figure(run: TrainingRun, figure: Figure) -> str:
    return figure.cell(run.model_version.metrics).value if run.model_version else "-"
