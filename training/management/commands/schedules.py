"""`manage.py schedules`: list retraining schedules, run, enable or disable one."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from deployments.management.base import SentinelleCommand, system_user
from training import schedules
from training.crontab import in_words
from training.models import RetrainingSchedule, ScheduleEvent


class Command(SentinelleCommand):
    help = (
        "List the retraining schedules, ask for a run of one, or enable or disable it. They are "
        "made and changed in the admin."
    )
    examples = """\
examples:
  manage.py schedules list
  manage.py schedules run nightly       out of turn; a worker makes the run
  manage.py schedules disable nightly   times that pass meanwhile are not made up for
  manage.py schedules enable nightly"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        verbs.add_parser("list", help="all of them, with their next time and what happened last")
        for verb, words in (
            ("run", "ask for a run now, even of one that is disabled"),
            ("enable", "from its next time on"),
            ("disable", "until it is enabled"),
        ):
            verbs.add_parser(verb, help=words).add_argument("name", help="of the schedule")

    def handle(self, *_args: Any, verb: str, name: str = "", **_options: Any) -> None:
        if verb == "list":
            self._list()
            return
        schedule = _named(name)
        by, now = system_user(), timezone.now()
        if verb == "run":
            asked = schedules.schedule_run_now(schedule, by=by, now=now)
            told = (
                "A run is asked for: a worker makes it." if asked else "A run is asked for already."
            )
            self.stdout.write(told)
            return
        schedules.schedule_update(schedule, by=by, now=now, enabled=verb == "enable")
        self.stdout.write(f"{name} is {verb}d.")

    def _list(self) -> None:
        found = RetrainingSchedule.objects.filter(deleted_at=None).select_related(
            "model", "dataset"
        )
        for schedule in found:
            self._show(schedule)
        if not found:
            self.stdout.write("There is no schedule yet: make one in the admin.")

    def _show(self, schedule: RetrainingSchedule) -> None:
        following = schedule.times.upcoming(timezone.now(), 1) if schedule.enabled else []
        next_time = f"next {following[0]:%Y-%m-%d %H:%M} UTC" if following else "disabled"
        self.stdout.write(
            f"{schedule.name}: {schedule.model.name}, {schedule.source}, on {schedule.launcher}, "
            f"then {schedule.then}"
        )
        self.stdout.write(f"  {in_words(schedule.crontab)} ({schedule.time_zone}); {next_time}")
        last: ScheduleEvent | None = schedule.events.first()
        if last is not None:
            self.stdout.write(f"  {last.at:%Y-%m-%d %H:%M} {last.kind}: {last.message}")


def _named(name: str) -> RetrainingSchedule:
    found = RetrainingSchedule.objects.filter(deleted_at=None)
    schedule = found.filter(name=name).first()
    if schedule is None:
        names = ", ".join(found.values_list("name", flat=True)) or "none yet"
        raise CommandError(f"There is no schedule “{name}”; there is {names}.")
    return schedule
