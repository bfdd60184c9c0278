"""Retraining schedules in the admin. Beat's own pages are not: its entries follow the schedules."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe
from django.utils.text import capfirst
from django_celery_beat import admin as beat_admin
from django_celery_beat import models as beat

from deployments.admin.base import ReadOnlyAdmin, badge
from engine.errors import FieldError, RunRefused
from training import schedules
from training.badges import state_badge
from training.crontab import in_words, read_crontab
from training.models import RetrainingSchedule, ScheduleEventKind, Then, TrainingRun
from training.options import describe_options
from training.places import LAUNCHERS
from training.schedule_form import ScheduleForm
from training.schedules import ScheduleRefused

SOON = timedelta(minutes=2)
SHOWN_TIMES = 5
SHOWN_RUNS = 20
SHOWN_EVENTS = 50
EVENT_KINDS = {
    ScheduleEventKind.STARTED: "active",
    ScheduleEventKind.WAITING: "warn",
    ScheduleEventKind.FAILED: "bad",
    ScheduleEventKind.ENDED: "good",
}
Change = Callable[[RetrainingSchedule], str]

# Loaded here, so that it has registered its pages by the time they are taken away.
for shown in (
    beat.PeriodicTask, beat.CrontabSchedule, beat.IntervalSchedule, beat.ClockedSchedule,
    beat.SolarSchedule,
):  # fmt: skip
    if beat_admin.admin.site.is_registered(shown):
        admin.site.unregister(shown)


@admin.register(RetrainingSchedule)
class RetrainingScheduleAdmin(ReadOnlyAdmin):
    list_display = [
        "name_and_state", "model", "data", "when", "next_time", "last_run", "launcher",
        "what_then",
    ]  # fmt: skip
    list_filter = ["enabled", "launcher", "then", "model"]
    list_select_related = ["model", "dataset"]
    search_fields = ["name", "model__name", "dataset__name", "created_by"]
    actions = ["enable_selected", "disable_selected", "run_selected", "remove_selected"]

    class Media:
        css = {"all": ["deployments/admin.css", "training/training.css"]}
        js = ["training/kinds.js", "training/schedule.js", "training/refresh.js"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[RetrainingSchedule]:  # noqa: ARG002
        last = TrainingRun.objects.filter(schedule=OuterRef("pk")).order_by("-created_at")
        found = RetrainingSchedule.objects.filter(deleted_at=None)
        return found.annotate(last_run_id=Subquery(last.values("pk")[:1]))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.allowed(request, "add")

    def may_change(self, request: HttpRequest) -> bool:
        """Not `has_change_permission`, with which Django would show a form of its own."""
        return self.allowed(request, "change")

    def may_run(self, request: HttpRequest) -> bool:
        return self.allowed(request, "run")

    def may_delete(self, request: HttpRequest) -> bool:
        return self.allowed(request, "delete")

    def has_toggle_permission(self, request: HttpRequest) -> bool:
        return self.may_change(request)

    def has_run_permission(self, request: HttpRequest) -> bool:
        return self.may_run(request)

    def has_remove_permission(self, request: HttpRequest) -> bool:
        return self.may_delete(request)

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        verbs = {
            "edit": self.edit_view,
            "run": self.run_view,
            "toggle": self.toggle_view,
            "remove": self.remove_view,
        }
        own = [
            path(f"<int:pk>/{verb}/", wrap(view), name=f"training_retrainingschedule_{verb}")
            for verb, view in verbs.items()
        ]
        times = path("times/", wrap(self.times_view), name="training_retrainingschedule_times")
        return [times, *own, *super().get_urls()]

    # --- pages ---

    def add_view(
        self,
        request: HttpRequest,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied

        def save(**values: Any) -> RetrainingSchedule:
            by = request.user.get_username()
            return schedules.schedule_create(by=by, now=timezone.now(), **values)

        return self._form_page(request, None, "Add a retraining schedule", save)

    def edit_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The form of a schedule that exists."""
        if not self.may_change(request):
            raise PermissionDenied
        schedule = self.get_object(request, str(pk))
        if schedule is None:
            return self.missing(request)

        def save(**values: Any) -> RetrainingSchedule:
            by = request.user.get_username()
            return schedules.schedule_update(schedule, by=by, now=timezone.now(), **values)

        return self._form_page(request, schedule, f"Change {schedule.name}", save)

    def _form_page(
        self,
        request: HttpRequest,
        schedule: RetrainingSchedule | None,
        title: str,
        save: Callable[..., RetrainingSchedule],
    ) -> HttpResponse:
        form = ScheduleForm(request.POST or None, initial=ScheduleForm.initial_of(schedule))
        if request.method == "POST" and form.is_valid():
            try:
                values = form.values()
                _check_may_promote(request, values)
                saved = save(**values)
            except (RunRefused, ScheduleRefused) as refusal:
                form.show(refusal)
            else:
                messages.success(request, f"The schedule {saved.name} is saved.")
                return redirect(self.url("change", saved.pk))
        times = _times(form["crontab"].value() or "", form["time_zone"].value() or "")
        return self.page(
            request, "form", title, form=form, schedule=schedule, times=times, media=self.media
        )

    def times_view(self, request: HttpRequest) -> HttpResponse:
        """The next times of what stands in the form, for its page."""
        if not (self.has_add_permission(request) or self.may_change(request)):
            raise PermissionDenied
        return JsonResponse(
            _times(request.GET.get("crontab", ""), request.GET.get("time_zone", ""))
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
        schedule = self.get_object(request, object_id)
        if schedule is None:
            return self.missing(request)
        runs = schedule.runs.select_related("model", "dataset", "model_version").defer("report")
        return self.page(
            request,
            "schedule",
            schedule.name,
            schedule=schedule,
            badge=_state(schedule),
            facts=_facts(schedule),
            runs=[(run, state_badge(run)) for run in runs[:SHOWN_RUNS]],
            events=[
                (event, badge(event.get_kind_display(), EVENT_KINDS.get(event.kind, "quiet")))
                for event in schedule.events.select_related("run")[:SHOWN_EVENTS]
            ],
            active=_is_moving(schedule, timezone.now()),
            may_change=self.may_change(request),
            may_run=self.may_run(request),
            may_delete=self.may_delete(request),
            media=self.media,
        )

    # --- buttons and actions ---

    def run_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._change_one(request, pk, self.may_run, self._run(request))

    def toggle_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        wanted = request.POST.get("enabled") == "true"
        return self._change_one(request, pk, self.may_change, self._enable(request, wanted))

    def remove_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask (GET), then delete (POST)."""
        if request.method == "POST":
            return self._change_one(request, pk, self.may_delete, self._delete(request))
        schedule = self.get_object(request, str(pk))
        if schedule is None:
            return self.missing(request)
        if not self.may_delete(request):
            raise PermissionDenied
        return self.page(
            request, "delete", f"Delete {schedule.name}", schedule=schedule, media=self.media
        )

    def _change_one(
        self,
        request: HttpRequest,
        pk: int,
        permitted: Callable[[HttpRequest], bool],
        change: Change,
    ) -> HttpResponse:
        if request.method != "POST" or not permitted(request):
            raise PermissionDenied
        schedule = self.get_object(request, str(pk))
        if schedule is None:
            return self.missing(request)
        self._change_all(request, [schedule], change)
        schedule.refresh_from_db(fields=["deleted_at"])
        if schedule.deleted_at is not None:
            return redirect(self.url("changelist"))
        return redirect(self.url("change", pk))

    def _change_all(
        self, request: HttpRequest, rows: Iterable[RetrainingSchedule], change: Change
    ) -> None:
        for schedule in rows:
            try:
                messages.success(request, change(schedule))
            except ScheduleRefused as refusal:
                messages.error(request, f"{schedule.name}: {refusal.detail}")

    @admin.action(description="Enable the selected schedules", permissions=["toggle"])
    def enable_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._change_all(request, queryset, self._enable(request, True))

    @admin.action(description="Disable the selected schedules", permissions=["toggle"])
    def disable_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._change_all(request, queryset, self._enable(request, False))

    @admin.action(description="Run the selected schedules now", permissions=["run"])
    def run_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._change_all(request, queryset, self._run(request))

    @admin.action(description="Delete the selected schedules", permissions=["remove"])
    def remove_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._change_all(request, queryset, self._delete(request))

    def _enable(self, request: HttpRequest, wanted: bool) -> Change:
        def change(schedule: RetrainingSchedule) -> str:
            by = request.user.get_username()
            schedules.schedule_update(schedule, by=by, now=timezone.now(), enabled=wanted)
            return f"{schedule.name} is {'enabled' if wanted else 'disabled'}."

        return change

    def _run(self, request: HttpRequest) -> Change:
        def change(schedule: RetrainingSchedule) -> str:
            by = request.user.get_username()
            schedules.schedule_run_now(schedule, by=by, now=timezone.now())
            return f"A run of {schedule.name} is asked for: a worker makes it."

        return change

    def _delete(self, request: HttpRequest) -> Change:
        def change(schedule: RetrainingSchedule) -> str:
            by = request.user.get_username()
            schedules.schedule_delete(schedule, by=by, now=timezone.now())
            return f"{schedule.name} is deleted. Its runs and versions stay."

        return change

    # --- columns ---

    @admin.display(description="schedule", ordering="name")
    def name_and_state(self, schedule: RetrainingSchedule) -> str:
        return format_html(
            "<strong>{}</strong> {}{}",
            schedule.name,
            _state(schedule),
            format_html('<span class="hint">{}</span>', schedule.message)
            if schedule.message
            else "",
        )

    @admin.display(description="data")
    def data(self, schedule: RetrainingSchedule) -> str:
        return capfirst(schedule.source)

    @admin.display(description="when", ordering="crontab")
    def when(self, schedule: RetrainingSchedule) -> str:
        return format_html(
            '{}<span class="hint">{} {}</span>',
            in_words(schedule.crontab),
            schedule.crontab,
            schedule.time_zone,
        )

    @admin.display(description="then", ordering="then")
    def what_then(self, schedule: RetrainingSchedule) -> str:
        return format_html('<span title="{}">{}</span>', schedule.get_then_display(), schedule.then)

    @admin.display(description="next time")
    def next_time(self, schedule: RetrainingSchedule) -> str:
        if not schedule.enabled:
            return "–"
        following = schedule.times.upcoming(timezone.now(), 1)
        return _moment(following[0], schedule.time_zone) if following else "–"

    @admin.display(description="last run")
    def last_run(self, schedule: Any) -> str:
        if schedule.last_run_id is None:
            return "–"
        run = TrainingRun.objects.defer("report").get(pk=schedule.last_run_id)
        return format_html(
            '<a href="{}">v{}</a> {}', _run_address(run), run.version, state_badge(run)
        )


def _check_may_promote(request: HttpRequest, values: dict[str, Any]) -> None:
    """Only who may promote by hand may have it done by a schedule; raises ScheduleRefused."""
    promotes = values["then"] == Then.PROMOTE
    if promotes and not request.user.has_perm("deployments.promote_modelversion"):
        message = "It takes the permission “Can promote a model version”."
        raise ScheduleRefused(message, [FieldError("then", message)])


def _state(schedule: RetrainingSchedule) -> str:
    if not schedule.enabled:
        return badge("disabled", "quiet")
    return badge("enabled", "good")


def _is_moving(schedule: RetrainingSchedule, now: datetime) -> bool:
    """Whether its page is soon out of date: a run is due, or one is not done with yet."""
    unsettled = schedule.runs.filter(settled_at=None)
    return schedule.due(now + SOON) is not None or unsettled.exists()


def _facts(schedule: RetrainingSchedule) -> list[tuple[str, str]]:
    """What the page tells about a schedule, in pairs."""
    resources = ", ".join(f"{name} {value}" for name, value in schedule.resources.items())
    launcher = LAUNCHERS.get(schedule.launcher, schedule.launcher)
    following = schedule.times.upcoming(timezone.now(), SHOWN_TIMES) if schedule.enabled else []
    facts = [
        ("Model", schedule.model.name),
        ("When", f"{in_words(schedule.crontab)} ({schedule.crontab}, {schedule.time_zone})"),
        ("Next times", format_html_join(
            mark_safe("<br>"), "{}", ((_moment(at, schedule.time_zone),) for at in following)
        )),
        ("Data", capfirst(schedule.source)),
        ("Then", schedule.get_then_display()),
        ("Where it runs", f"{launcher}; {resources}" if resources else launcher),
        ("Rules", _rules(schedule)),
        ("Seed", str(schedule.seed)),
        *describe_options(schedule.typed_options),
        ("Made", f"{timezone.localtime(schedule.created_at):%Y-%m-%d %H:%M} "
                 f"by {schedule.created_by or 'nobody'}"),
    ]  # fmt: skip
    return [(name, value) for name, value in facts if value]


def _rules(schedule: RetrainingSchedule) -> str:
    if schedule.model.is_classifier:
        return ""
    return schedule.rule_set.name if schedule.rule_set else "Those that serve then"


def _times(crontab: str, time_zone: str) -> dict[str, Any]:
    """A crontab in words and its next times, or what is wrong with it."""
    try:
        following = read_crontab(crontab, time_zone).upcoming(timezone.now(), SHOWN_TIMES)
    except ValueError as error:
        return {"words": str(error), "times": []}
    return {
        "words": in_words(crontab) if following else "No day of the next eight years is like that.",
        "times": [_moment(at, time_zone) for at in following],
    }


def _moment(at: datetime, time_zone: str) -> str:
    return f"{at.astimezone(ZoneInfo(time_zone)):%a %Y-%m-%d %H:%M %Z}"


def _run_address(run: TrainingRun) -> str:
    return reverse("admin:training_trainingrun_change", args=[run.pk])
